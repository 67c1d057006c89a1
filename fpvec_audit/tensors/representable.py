"""Weights that a stored fingerprint vector gives back bit for bit.

A vector is kept in the checkpoint's dtype, so τ = round(θ_fp − θ_base) may lose bits, and base + τ would then not be
the fingerprinted model that was audited and digested. Instead of storing more, training rounds its result to the
nearest weights that *are* a base plus a storable vector.

Law: for ``weights = representable(base, fingerprinted)`` and ``tau = vector_of(base, weights)``,
``apply_vector(base, tau)`` equals ``weights`` in every bit.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_MOST_ROUNDS = 16


def vector_of(base: "Tensor", weights: "Tensor") -> "Tensor":
    """Return τ = weights − base, subtracted in float32 and rounded once to the dtype of ``base``.

    Shapes:
        base, weights and the result are alike.
    """
    return (weights.float() - base.float()).to(base.dtype)


def apply_vector(base: "Tensor", tau: "Tensor") -> "Tensor":
    """Return base + τ, added in float32 and rounded once to the dtype of ``base``.

    Shapes:
        base, tau and the result are alike.
    """
    return (base.float() + tau.float()).to(base.dtype)


def representable(base: "Tensor", fingerprinted: "Tensor") -> "Tensor":
    """Return the weights near ``fingerprinted`` that base plus a stored vector reproduces bit for bit.

    Repeats θ ← base + τ(θ) until nothing changes any more. Elements that do not settle (none were seen in practice)
    fall back to the base, that is to τ = 0.

    Args:
        base: floating-point tensor of any shape, in the checkpoint's dtype; finite.
        fingerprinted: trained weights of the same shape, in any floating-point dtype; finite.

    Returns:
        A new tensor with the dtype and device of ``base``.
    """
    import torch

    weights = fingerprinted.to(base.dtype)
    for _ in range(_MOST_ROUNDS):
        settled = apply_vector(base, vector_of(base, weights))
        moving = settled != weights
        weights = settled
        if not bool(moving.any()):
            return weights
    return torch.where(moving, apply_vector(base, torch.zeros_like(base)), weights)
