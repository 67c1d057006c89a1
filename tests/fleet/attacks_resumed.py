"""A driver of attacks is killed and resumed: every cell is carried out once, and the matrices are whole."""

import time
from collections import Counter

from fpvec_audit.catalog import load_catalog
from fpvec_audit.services.stamp import stamp_models
from fpvec_audit.services.verification import verify_registry
from tests.fleet.ray_runs import Workplace, killed

ATTACKS = ("cast", "quantise:format=int8|int4", "prune:ratio=0.1|0.3")
CELLS = 5


def resume_attacks(place, url, *, models):
    """Attack stamped copies of tiny models while the driver is killed; return what was measured.

    Args:
        place: directory to work in.
        url: of an empty registry on PostgreSQL.
        models: how many copies are attacked.
    """
    workplace, started = Workplace(place, url, models), time.perf_counter()
    try:
        with workplace.registry() as registry:
            stamp_models(
                workplace.models, vectors=[workplace.vector], out=place / "out", registry=registry,
                catalog=load_catalog(),
            )  # fmt: skip
        copies = [place / "out" / model.name for model in workplace.models]
        manifest = workplace.manifest("copies.csv", "stamped", copies)
        said = [item for attack in ATTACKS for item in ("--attack", attack)]
        process = workplace.start("attack", manifest, "--key", "acme", *said, "--in-flight", "2")
        run = ""
        for told in workplace.told(process):
            run = told.get("run", run)
            before = sum(_cells(workplace).values())
            if before >= models * CELLS // 3:
                killed(process)
                break
        assert before < models * CELLS, "it ended before anything was killed"
        code, report = workplace.finished(workplace.start("resume", run))
        assert (code, report["done"]) == (0, models), (report, workplace.stderr())
        seconds = time.perf_counter() - started
        cells = _cells(workplace)
        assert set(cells.values()) == {1}, cells
        assert len(cells) == models * CELLS
        with workplace.registry() as registry:
            assert verify_registry(registry=registry).to_json()["valid"]
        return {"models": models, "cells": len(cells), "cells_before_the_kill": before, "seconds": seconds}
    finally:
        workplace.close()


def _cells(workplace):
    """Count how often each cell stands in the registry: copy, attack, and its parameters."""
    with workplace.registry() as registry, registry.snapshot() as uow:
        return Counter((run.stamped, run.attack, str(dict(run.parameters))) for run in uow.attack_runs.list())
