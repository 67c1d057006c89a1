"""An index serves every first page and every look-up, as the database itself plans them."""

import hashlib

import pytest
from sqlalchemy import event

from benchmarks.registry_fill import digest, fill, stamp_id, vector_id
from fpvec_audit.domain.manifest import Manifest, TensorDigest
from fpvec_audit.domain.selection import Selection
from fpvec_audit.registry.unit_of_work import open_registry

pytestmark = pytest.mark.xdist_group("query plans")  # two large registries for all
STAMPS, AUDITS, PAGE = 20_000, 5_000, 20
LARGE = ("model", "stamp", "stamp_vector", "model_tensor", "audit", "suspect")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("filled") / "registry.db"
    url = f"sqlite:///{place}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").with_schema()
    with open_registry(url) as registry:
        fill(registry.engine, STAMPS, AUDITS)
        yield registry


def plan(registry, ask):
    """Return the plan of every statement that asking sends, with the statement."""
    sent = []

    def remember(connection, cursor, statement, parameters, context, many):
        sent.append((statement, parameters))

    event.listen(registry.engine, "before_cursor_execute", remember)
    try:
        with registry.snapshot() as uow:
            ask(uow)
    finally:
        event.remove(registry.engine, "before_cursor_execute", remember)
    how = "EXPLAIN QUERY PLAN" if registry.engine.dialect.name == "sqlite" else "EXPLAIN"
    plans = []
    with registry.engine.connect() as connection:
        for statement, parameters in sent:
            if statement.lstrip().startswith(("SELECT", "WITH")):
                rows = connection.exec_driver_sql(f"{how} {statement}", parameters).all()
                plans.append((statement, [str(row[-1]) for row in rows]))
    assert plans
    return plans


def whole_tables(steps):
    """Return the steps that read the whole of a large table."""
    read = [f"SCAN {table}" for table in LARGE] + [f"Seq Scan on {table} " for table in LARGE]
    return [
        step
        for step in steps
        if any(f"{step} ".find(f"{part} ".rstrip() + " ") >= 0 for part in read) and "INDEX" not in step
    ]


def sorts(steps):
    return [step for step in steps if "USE TEMP B-TREE FOR ORDER BY" in step or "Sort" in step.split("(")[0]]


def listed(repository, sort="created", **where):
    selection = Selection(where=where, sort=sort, limit=PAGE)
    return lambda uow: getattr(uow, repository).select(selection)


PAGES = {
    "models": [{}, {"role": "stamped"}, {"base": "base-1"}, {"parent": "downstream-7"}],
    "stamps": [
        *({}, {"licensee": "Licensee 7"}, {"licensee": "Licensee 0"}, {"base": "base-1"}, {"key": "keys-3"}),
        *({"downstream": "downstream-7"}, {"owner": "Owner 3"}, {"vector": vector_id(5)}),
    ],
    "audits": [
        {},
        {"verdict": "MATCH"},
        {"key": "keys-3"},
        {"owner": "Owner 3"},
        {"suspect": digest("suspect", 3)[:9]},
    ],
    "key_sets": [{}, {"owner": "Owner 3"}, {"licensee": "Licensee 7"}, {"base": "base-1"}, {"state": "embedded"}],
    "vectors": [{}, {"key": "keys-3"}, {"base": "base-1"}, {"owner": "Owner 3"}],
    "suspects": [{}, {"kind": "checkpoint"}],
    "licensees": [{}],
}


@pytest.mark.parametrize("repository", PAGES)
def test_first_page_reads_no_large_table_whole(filled, repository):
    for where in PAGES[repository]:
        for sort in ("created", "-created"):
            for statement, steps in plan(filled, listed(repository, sort, **where)):
                assert not whole_tables(steps), (where, sort, statement, steps)


@pytest.mark.parametrize("where", [{}, {"licensee": "Licensee 0"}, {"base": "base-1"}, {"key": "keys-3"}])
@pytest.mark.parametrize("sort", ["created", "-created"])
def test_filtered_page_comes_out_of_the_index_in_order(filled, where, sort):
    for statement, steps in plan(filled, listed("stamps", sort, **where)):
        if "FROM stamp \n" in statement and "LIMIT" in statement:
            assert not sorts(steps), (where, statement, steps)


def test_page_from_the_middle_is_found_by_its_beginning(filled):
    deep = Selection(limit=PAGE, after=stamp_id(STAMPS // 2))
    for statement, steps in plan(filled, lambda uow: uow.stamps.select(deep)):
        assert not whole_tables(steps), (statement, steps)
        if "FROM stamp \n" in statement and "LIMIT" in statement:
            assert not sorts(steps), (statement, steps)


@pytest.mark.parametrize(
    "ask",
    [
        lambda uow: uow.models.get(digest("stamped", 5)),
        lambda uow: uow.models.get(digest("stamped", 5)[:12]),
        lambda uow: uow.models.get("copy-5"),
        lambda uow: uow.models.list(parent=digest("stamped", 5)),
        lambda uow: uow.stamps.get(stamp_id(5)[:9]),
        lambda uow: uow.stamps.of_model(digest("stamped", 5)),
        lambda uow: uow.audits.with_plan(digest("plan", 5)),
        lambda uow: uow.audits.of_suspect(digest("suspect", 5)),
        lambda uow: uow.suspects.get(digest("suspect", 5)[:10]),
    ],
)
def test_look_up_reads_no_large_table_whole(filled, ask):
    for statement, steps in plan(filled, ask):
        assert not whole_tables(steps), (statement, steps)


def test_shared_tensors_are_looked_up_one_by_one(filled):
    strange = [TensorDigest(f"t.{n}", "F32", (1, 1), hashlib.sha256(str(n).encode()).hexdigest()) for n in range(300)]
    for statement, steps in plan(filled, lambda uow: uow.models.sharing(Manifest.of(strange), at_most=5)):
        assert not whole_tables(steps), (statement, steps)


def test_beginnings_of_ids_are_compared_by_code_point_whatever_the_language(postgresql):
    url = postgresql.fresh()
    with open_registry(url) as registry, registry.engine.connect() as connection:
        loose = connection.exec_driver_sql(
            "SELECT t.relname, a.attname FROM pg_attribute a JOIN pg_class t ON t.oid = a.attrelid "
            "JOIN pg_collation c ON c.oid = a.attcollation JOIN pg_namespace n ON n.oid = t.relnamespace "
            "WHERE n.nspname = 'public' AND t.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped "
            "AND t.relname <> 'alembic_version' AND c.collname <> 'C'"
        ).all()
    assert loose == []
