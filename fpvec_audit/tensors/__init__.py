"""Tensor arithmetic on checkpoints, block by block: never a whole model in memory."""
