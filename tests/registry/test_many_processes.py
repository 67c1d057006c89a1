"""Eight processes at work on one registry, some of them killed: nothing lost, nothing twice, nothing stuck."""

import pytest

from tests.registry.many_processes import hold_against, prepared, work_together

PROCESSES, ROUNDS, KILLS = 8, 3, 5
"""``benchmarks/registry_concurrency.py`` does 200 rounds."""


@pytest.mark.slow
def test_what_processes_confirmed_is_recorded_once_though_some_were_killed(url, tmp_path):
    place = tmp_path / "work"
    place.mkdir()
    work = prepared(url, place)
    done = work_together(work, processes=PROCESSES, rounds=ROUNDS, kills=KILLS)
    assert done.kills == KILLS
    with work.opened() as registry:
        hold_against(registry, done, processes=PROCESSES, rounds=ROUNDS)
