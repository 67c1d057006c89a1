import multiprocessing
import sqlite3
from contextlib import closing

import pytest

from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.unit_of_work import open_registry
from tests.registry.builders import key_set_record, model_record, opened, secret, url_of

PROCESSES = 4
UNITS = 15


def append_many(url, name, barrier):
    barrier.wait(60)
    with open_registry(url) as registry:
        for number in range(UNITS):
            with registry.unit_of_work() as uow:
                uow.ledger.append("thing.done", name, {"number": number})


def open_at_once(url, barrier, answers):
    barrier.wait(60)
    try:
        with open_registry(url) as registry, registry.unit_of_work() as uow:
            uow.jobs.start("opened", {})
        answers.put("opened")
    except RegistryError as error:
        answers.put(str(error))


def run_all(processes):
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def record_and_fail(registry, failure):
    with registry.unit_of_work() as uow:
        uow.models.add(model_record())
        uow.key_sets.add(key_set_record(), secret())
        raise failure


@pytest.mark.parametrize("failure", [ZeroDivisionError(), KeyboardInterrupt()])
def test_exception_rolls_back_rows_and_history(registry, failure):
    with pytest.raises(type(failure)):
        record_and_fail(registry, failure)
    with registry.unit_of_work() as uow:
        assert uow.models.list() == ()
        assert uow.key_sets.list() == ()
        assert uow.ledger.entries() == ()
        with pytest.raises(RegistryError, match="vault has no key_set secret"):
            uow.vault.reveal(key_set_record().id)


def test_clean_exit_lasts_beyond_the_process_of_opening(file):
    with opened(file) as registry, registry.unit_of_work() as uow:
        uow.models.add(model_record())
    with opened(file) as registry, registry.unit_of_work() as uow:
        assert uow.models.get("base") == model_record()


def test_registry_opens_without_waiting_for_whoever_writes(file):
    opened(file).close()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with open_registry(url_of(file) + "?timeout=0.05") as registry, registry.snapshot() as uow:
            assert uow.models.list() == ()


def test_lock_met_in_a_unit_of_work_says_so(file):
    with open_registry(url_of(file) + "?timeout=0.05") as registry:
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(RegistryError, match="locked"), registry.unit_of_work() as uow:
                uow.models.list()
        with registry.unit_of_work() as uow:
            assert uow.models.list() == ()


def test_processes_that_append_at_once_make_one_chain(url):
    open_registry(url).close()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    run_all(
        [context.Process(target=append_many, args=(url, f"writer-{number}", barrier)) for number in range(PROCESSES)]
    )
    with open_registry(url) as registry, registry.unit_of_work() as uow:
        entries = uow.ledger.entries()
        assert uow.ledger.verify() is None
    assert [entry.serial for entry in entries] == list(range(1, PROCESSES * UNITS + 1))
    for number in range(PROCESSES):
        own = [entry.content["number"] for entry in entries if entry.subject == f"writer-{number}"]
        assert own == list(range(UNITS))


def test_processes_that_open_an_empty_registry_at_once_all_succeed(file):
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(PROCESSES), context.Queue()
    run_all([context.Process(target=open_at_once, args=(url_of(file), barrier, answers)) for _ in range(PROCESSES)])
    assert [answers.get(timeout=10) for _ in range(PROCESSES)] == ["opened"] * PROCESSES
    answers.close()
    answers.join_thread()
    with opened(file) as registry, registry.unit_of_work() as uow:
        assert len(uow.jobs.list()) == PROCESSES
