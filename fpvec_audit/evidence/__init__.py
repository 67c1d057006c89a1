"""Evidence that can be checked by someone who does not trust us: strict documents and Ed25519 signatures.

The only dependency beside the standard library is ``cryptography``; nothing here opens a registry, a model or a network
connection.
"""
