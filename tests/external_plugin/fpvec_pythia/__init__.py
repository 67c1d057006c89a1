"""Pythia's architecture and a weight noise attack for fpvec-audit."""
