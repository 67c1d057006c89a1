"""Checkpoints that lie elsewhere: fetched from a URL into bounded scratch on this machine, and published to one.

fsspec and the package of a protocol (s3fs, gcsfs) are imported when the first URL is opened; who names plain paths
needs neither.
"""
