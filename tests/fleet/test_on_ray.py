"""``fpvec fleet`` on a real Ray cluster, with a registry on a real PostgreSQL server."""

import signal

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.services.stamp import stamp_models
from fpvec_audit.services.verification import verify_registry
from tests.fleet.ray_runs import SECRETS, Workplace, session_bytes

pytestmark = pytest.mark.slow


@pytest.fixture
def workplace(tmp_path, postgresql):
    place = Workplace(tmp_path, postgresql.with_schema(), 6)
    yield place
    place.close()


def same_files(one, other):
    names = sorted(file.name for file in one.iterdir())
    assert names == sorted(file.name for file in other.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_run_on_this_machine_from_ctrl_c_to_the_report_without_a_secret_anywhere(workplace, tmp_path):
    manifest = workplace.manifest("models.csv", "downstream", [*workplace.models, "nowhere", workplace.models[0]])
    options = ["--vector", workplace.vector, "--out", tmp_path / "out", "--retries", "0", "--in-flight", "1"]
    process = workplace.start("stamp", manifest, *options)
    run, kept = "", []
    for told in workplace.told(process):
        run = told.get("run", run)
        if told.get("done"):
            kept = list(session_bytes(workplace.ray))
            process.send_signal(signal.SIGINT)
            break
    assert workplace.finished(process)[0] == 130, workplace.stderr()
    assert any("/fd/" in str(file) for file, _ in kept), "the object store was not found"
    with workplace.registry() as registry, registry.snapshot() as uow:
        assert uow.fleets.get(run).state.value == "stopped"
        assert not list((tmp_path / "out").glob(".*staging*"))
    code, report = workplace.finished(workplace.start("resume", run))
    assert code == 4, workplace.stderr()
    assert (report["done"], report["set_aside"], report["outcomes"]) == (6, 1, {"made": 6})
    assert (report["failures"][0]["line"], report["failures"][0]["attempts"]) == (8, 1)
    assert "nowhere" in report["failures"][0]["error"]
    for file, content in [*kept, *session_bytes(workplace.ray), ("stderr", workplace.stderr().encode())]:
        for secret in SECRETS:
            assert secret not in content, file
    with workplace.registry() as registry:
        stamp_models(
            workplace.models, vectors=[workplace.vector], out=tmp_path / "single", registry=registry,
            catalog=load_catalog(),
        )  # fmt: skip
        assert verify_registry(registry=registry).to_json()["valid"]
        with registry.snapshot() as uow:
            assert len(uow.stamps.list()) == 6
    for model in workplace.models:
        same_files(tmp_path / "out" / model.name, tmp_path / "single" / model.name)
