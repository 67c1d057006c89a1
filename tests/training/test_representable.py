import pytest
import torch

from fpvec_audit.tensors.representable import apply_vector, representable, vector_of


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16)


def pair(dtype: torch.dtype, size: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    base = (torch.randn(50_000, generator=generator) * 0.05).to(dtype)
    moved = base.float() + torch.randn(50_000, generator=generator) * size
    base[:20] = -0.0
    moved[10:30] = -0.0
    return base, moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-5, 1e-2, 10.0])
def test_base_plus_stored_vector_gives_representable_weights_bit_for_bit(dtype: torch.dtype, size: float) -> None:
    base, moved = pair(dtype, size)
    weights = representable(base, moved)
    again = apply_vector(base, vector_of(base, weights))
    assert weights.dtype == dtype
    assert torch.equal(bits(again), bits(weights))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_representable_weights_stay_near_the_trained_ones(dtype: torch.dtype) -> None:
    base, moved = pair(dtype, 1e-2)
    weights = representable(base, moved)
    largest = torch.maximum(base.float().abs(), moved.abs())
    # one rounding of the weight and one of the vector, each half a unit in the last place, and some slack
    assert bool(((weights.float() - moved).abs() <= 2 * torch.finfo(dtype).eps * largest + 1e-7).all())


def test_unchanged_weights_are_representable() -> None:
    base, _ = pair(torch.bfloat16, 1e-2)
    assert torch.equal(representable(base, base), base)
