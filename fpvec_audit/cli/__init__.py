"""The ``fpvec`` command: the composition root."""
