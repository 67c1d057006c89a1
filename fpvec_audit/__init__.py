"""Ownership verification of language models by fingerprint vectors (FP-VEC, arXiv:2409.08846).

Importing the package loads nothing heavy; plugins import :mod:`fpvec_audit.api`.
"""

__version__ = "0.1.0"
