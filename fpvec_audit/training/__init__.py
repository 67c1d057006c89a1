"""Fingerprint training and plain fine-tuning on transformers' Trainer."""
