"""The owner's bench: registry, scripted suspects, a witness, and key sets with and without it."""

from tests.services.test_evidence import bench, catalog, checkpoints, keys, witness, witnessed_keys

__all__ = ["bench", "catalog", "checkpoints", "keys", "witness", "witnessed_keys"]
