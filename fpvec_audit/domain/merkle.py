"""Merkle trees as in RFC 6962: one digest binds many leaves, and each can be shown without the others.

Round-trip law: ``root_from_path(leaves[i], i, len(leaves), merkle_path(leaves, i)) == merkle_root(leaves)``.
"""

import hashlib
from collections.abc import Iterator, Sequence

DIGEST_BYTES = 32


def leaf_hash(content: bytes) -> bytes:
    """Return SHA-256(0x00 ‖ content), which no inner node can equal."""
    return hashlib.sha256(b"\x00" + content).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the root of the RFC 6962 tree over leaf digests.

    Source: RFC 6962 section 2.1 (inner nodes SHA-256(0x01 ‖ left ‖ right), split at the largest power of two).
    """
    if len(leaves) == 1:
        return leaves[0]
    split = _split(len(leaves))
    return _node(merkle_root(leaves[:split]), merkle_root(leaves[split:]))


def merkle_path(leaves: Sequence[bytes], index: int) -> Iterator[bytes]:
    """Yield the sibling digests from a leaf up to the root."""
    if len(leaves) == 1:
        return
    split = _split(len(leaves))
    if index < split:
        yield from merkle_path(leaves[:split], index)
        yield merkle_root(leaves[split:])
    else:
        yield from merkle_path(leaves[split:], index - split)
        yield merkle_root(leaves[:split])


def merkle_paths(leaves: Sequence[bytes]) -> tuple[tuple[bytes, ...], ...]:
    """Return the sibling digests of every leaf, hashing each node once: ``merkle_path`` for all leaves."""
    return tuple(map(tuple, _root_and_paths(leaves)[1]))


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that a leaf and its siblings lead to, None where they cannot belong to such a tree.

    Args:
        leaf: digest of the leaf.
        index: its position, from 0.
        size: number of leaves of the tree.
        path: sibling digests from the leaf to the root.
    """
    if not 0 <= index < size or any(len(digest) != DIGEST_BYTES for digest in path):
        return None
    sides: list[bool] = []  # from the root down: is the leaf in the right half?
    while size > 1:
        split = _split(size)
        right = index >= split
        sides.append(right)
        index, size = (index - split, size - split) if right else (index, split)
    if len(sides) != len(path):
        return None
    digest = leaf
    for sibling, right in zip(path, reversed(sides), strict=True):
        digest = _node(sibling, digest) if right else _node(digest, sibling)
    return digest


def _root_and_paths(leaves: Sequence[bytes]) -> tuple[bytes, list[list[bytes]]]:
    if len(leaves) == 1:
        return leaves[0], [[]]
    split = _split(len(leaves))
    left, left_paths = _root_and_paths(leaves[:split])
    right, right_paths = _root_and_paths(leaves[split:])
    for paths, sibling in ((left_paths, right), (right_paths, left)):
        for path in paths:
            path.append(sibling)
    return _node(left, right), left_paths + right_paths


def _split(size: int) -> int:
    return 1 << (size - 1).bit_length() - 1


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
