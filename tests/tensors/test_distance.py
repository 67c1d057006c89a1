import math

import pytest

from fpvec_audit.errors import VectorError
from fpvec_audit.tensors.distance import CLOSE, relative_distance
from fpvec_audit.tensors.index import read_checkpoint
from tests.tiny import ARCHITECTURES, make_tiny, perturb


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fine_tune_is_close_and_a_stranger_is_not(tmp_path, adapters, architecture, small_blocks):
    adapter = adapters[architecture]
    base = read_checkpoint(make_tiny(tmp_path / "base", architecture))
    tuned = read_checkpoint(perturb(base.path, tmp_path / "tuned", size=0.01))
    stranger = read_checkpoint(make_tiny(tmp_path / "stranger", architecture, seed=1))
    assert relative_distance(base, base, adapter) == 0
    assert relative_distance(base, tuned, adapter) == pytest.approx(0.2, rel=0.05)  # 0.01 against weights of 0.05
    assert relative_distance(base, stranger, adapter) == pytest.approx(math.sqrt(2), rel=0.05)
    assert 0.2 < CLOSE < 1


def test_added_rows_do_not_count_and_other_tensors_are_refused(tmp_path, adapters):
    base = read_checkpoint(make_tiny(tmp_path / "base", "llama2"))
    wider = read_checkpoint(make_tiny(tmp_path / "wider", "llama2", vocabulary=300))
    assert relative_distance(base, wider, adapters["llama2"]) > CLOSE
    other = read_checkpoint(make_tiny(tmp_path / "other", "gpt2"))
    with pytest.raises(VectorError, match="does not"):
        relative_distance(base, other, adapters["llama2"])
    narrow = read_checkpoint(make_tiny(tmp_path / "narrow", "llama2", hidden=16))
    with pytest.raises(VectorError, match="shape"):
        relative_distance(base, narrow, adapters["llama2"])
