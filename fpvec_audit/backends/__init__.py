"""Inference engines behind one small port."""
