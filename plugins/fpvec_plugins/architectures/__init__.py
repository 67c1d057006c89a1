"""Architecture adapters, one per file."""
