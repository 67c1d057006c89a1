import pytest
import torch

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.records import JobState
from fpvec_audit.errors import OutputError, UnknownNameError, VectorError
from fpvec_audit.services.extract import extract_vector
from fpvec_audit.services.jobs import list_jobs
from fpvec_audit.services.models import register_model, show_model
from fpvec_audit.services.stamp import stamp_models
from fpvec_audit.services.unstamp import unstamp_model
from tests.tiny import make_tiny, perturb, rewrite


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture
def tools(registry, catalog):
    return {"registry": registry, "catalog": catalog}


def on_a_grid(step):
    """Return a change that rounds weights to multiples of a step, so that sums of them are exact; no zero is −0.0."""
    return lambda _, tensor: (torch.round(tensor.double() / step) * step + 0.0).to(tensor.dtype)


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def made(tmp_path, tools):
    """Return a function that makes a downstream model and a stamped copy of it."""

    def make(*, step=2.0**-14, dtype="float32", **order):
        plain = make_tiny(tmp_path / "plain", "llama2", dtype=dtype, sharded=True)
        base = rewrite(plain, tmp_path / "base", on_a_grid(step)) if step else plain
        moved = perturb(base, tmp_path / "moved", seed=1)
        fingerprinted = rewrite(moved, tmp_path / "fp", on_a_grid(step)) if step else moved
        vector = extract_vector(base, fingerprinted, out=tmp_path / "vector", **tools).vector_id
        tuned = perturb(base, tmp_path / "tuned", seed=2)
        downstream = rewrite(tuned, tmp_path / "down", on_a_grid(step)) if step else tuned
        (result,) = stamp_models([downstream], vectors=[vector], out=tmp_path / "out", **order, **tools)
        return downstream, result

    return make


def test_downstream_comes_back_bit_for_bit_with_every_other_file(tmp_path, tools, registry, made):
    downstream, stamped = made()
    result = unstamp_model(tmp_path / "out", stamp=stamped.stamp_id[:8], out=tmp_path / "again", **tools)
    assert contents(tmp_path / "again") == contents(downstream)
    assert result.digest == stamped.downstream_digest
    assert result.to_json()["stamp_id"] == stamped.stamp_id
    assert show_model(result.digest, registry=registry).record.role.value == "downstream"
    assert [job.state for job in list_jobs(registry=registry) if job.kind == "unstamp"] == [JobState.SUCCEEDED]


def test_skipped_roles_are_left_alone_on_the_way_back(tmp_path, tools, made):
    downstream, stamped = made(skip=["embedding"])
    unstamp_model(tmp_path / "out", stamp=stamped.stamp_id, out=tmp_path / "again", **tools)
    assert contents(tmp_path / "again") == contents(downstream)


def test_loss_by_rounding_is_told_before_anything_is_written(tmp_path, tools, registry, made):
    _, stamped = made(step=0, dtype="bfloat16")
    with pytest.raises(VectorError, match=r"cannot be given back .* in \d+ of \d+ tensors .* nothing was written"):
        unstamp_model(tmp_path / "out", stamp=stamped.stamp_id, out=tmp_path / "again", **tools)
    assert not (tmp_path / "again").exists()
    assert [job.state for job in list_jobs(registry=registry) if job.kind == "unstamp"] == [JobState.FAILED]


def test_another_model_than_the_stamps_is_refused(tmp_path, tools, made):
    downstream, stamped = made()
    with pytest.raises(VectorError, match="is not the model of stamp"):
        unstamp_model(downstream, stamp=stamped.stamp_id, out=tmp_path / "again", **tools)
    assert not (tmp_path / "again").exists()


def test_unknown_stamp_and_existing_output_are_refused(tmp_path, tools, made):
    downstream, stamped = made()
    with pytest.raises(UnknownNameError, match="st-0000"):
        unstamp_model(tmp_path / "out", stamp="st-0000", out=tmp_path / "again", **tools)
    with pytest.raises(OutputError, match="exists already"):
        unstamp_model(tmp_path / "out", stamp=stamped.stamp_id, out=downstream, **tools)


def test_downstream_that_was_registered_only_by_name_is_checked_too(tmp_path, tools, made):
    downstream, stamped = made()
    register_model(downstream, name="known", **tools)
    assert unstamp_model(tmp_path / "out", stamp=stamped.stamp_id, out=tmp_path / "again", **tools).digest
