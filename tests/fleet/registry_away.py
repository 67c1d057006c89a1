"""The registry is away for a minute amid a run: the run ends whole, no attempt is counted, each item is done once."""

import threading
import time

from fpvec_audit.domain.fleet import ItemState
from fpvec_audit.domain.selection import EVERYTHING
from fpvec_audit.services.verification import verify_registry
from tests.fleet.ray_runs import Workplace
from tests.fleet.survival import check


def outlast(place, server, *, stamps, audits, seconds):
    """Stamp and audit tiny models while the registry's server crashes and comes back; return what was measured.

    Args:
        place: directory to work in.
        server: PostgreSQL, running.
        stamps: how many models are stamped.
        audits: how many of the copies are audited.
        seconds: how long the server is away, each time.
    """
    workplace, started = Workplace(place, server.with_schema(), stamps), time.perf_counter()
    try:
        manifest = workplace.manifest("models.csv", "downstream", workplace.models)
        stamping = workplace.start("stamp", manifest, "--vector", workplace.vector, "--out", place / "out")
        told = _ended(workplace, stamping, server, after=stamps // 4, seconds=seconds)
        copies = [place / "out" / model.name for model in workplace.models[:audits]]
        manifest = workplace.manifest("copies.csv", "suspect", copies)
        auditing = workplace.start("audit", manifest, "--key", "acme", "--tests", "exact", "--backend", "transformers")
        told += _ended(workplace, auditing, server, after=audits // 4, seconds=seconds)
        took = time.perf_counter() - started
        with workplace.registry() as registry:
            assert verify_registry(registry=registry).to_json()["valid"]
            with registry.snapshot() as uow:
                runs = [run.id for run in uow.fleets.select(EVERYTHING)]
                done = [uow.fleets._items(run, ItemState.DONE, after=0, limit=None) for run in runs]
        assert [[item.attempts for item in items] for items in done] == [[1] * stamps, [1] * audits]
        check(workplace, stamps=stamps, audits=audits)
        return {"stamps": stamps, "audits": audits, "seconds": took, "away_seconds": seconds, "remarks": len(told)}
    finally:
        workplace.close()


def _ended(workplace, process, server, *, after, seconds):
    """Let the server crash when so many items are done, and return what the driver told of it until the run ended."""
    back = threading.Timer(seconds, server.start)
    sentences, report = [], None
    for told in workplace.told(process):
        if told["event"] == "remark":
            sentences.append(told["sentence"])
        if told.get("done", 0) >= after and back.ident is None:
            server.stop()
            back.start()
        report = told
    process.stdout.close()
    assert process.wait() == 0, workplace.stderr()
    assert back.ident is not None
    back.join()
    assert report["done"] == report["items"], report
    return sentences
