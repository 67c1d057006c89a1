"""What a manifest or a query asks for, and what is refused before anything begins."""

import itertools

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.fleet import FleetAction, RunState
from fpvec_audit.domain.records import ModelRole
from fpvec_audit.domain.selection import EVERYTHING
from fpvec_audit.errors import UsageError
from fpvec_audit.fleet.items import complete, read_fields
from fpvec_audit.fleet.known import refuse_unknown
from fpvec_audit.fleet.manifest import read_manifest
from fpvec_audit.fleet.runs import record_run, run_to_resume
from fpvec_audit.fleet.sources import Source, parse_where, survey
from tests.registry.builders import model_record

STAMP = {"vector": ["vec-1"], "into": "/release"}
FORMS = {
    "models.csv": 'downstream,vector,licensee\n\nmodels/a,vec-2;vec-3:0.5,"Globex,\nInc"\n/b,,\n',
    "models.jsonl": '{"downstream": "models/a", "vector": ["vec-2", "vec-3:0.5"], "licensee": "Globex,\\nInc"}\n'
    '\n{"downstream": "/b"}\n',
    "models.toml": "# two models\n[[item]]\ndownstream = 'models/a'\nvector = ['vec-2', 'vec-3:0.5']\n"
    'licensee = "Globex,\\nInc"\n\n[[item]] # the other\ndownstream = "/b"\n',
}


def source(tmp_path, name, text, *, action=FleetAction.STAMP, options=STAMP):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Source(action, options, file)


@pytest.fixture
def recorded(tmp_path, registry):
    def record(name, text, **options):
        asked = source(
            tmp_path, name, text, **{key: options.pop(key) for key in ("action", "options") if key in options}
        )
        run, found = record_run(asked, registry=registry, **options)
        with registry.snapshot() as uow:
            return uow.fleets.queued(run.id, after=0, limit=100), found

    return record


@pytest.mark.parametrize("name", FORMS)
def test_all_three_forms_say_the_same(tmp_path, recorded, name):
    first, second = recorded(name, FORMS[name])[0]
    assert first.content == {
        "downstream": str(tmp_path / "models/a"),
        "vector": ["vec-2", "vec-3:0.5"],
        "licensee": "Globex,\nInc",
    }
    assert second.content == {"downstream": "/b"}
    assert first.line == {"models.csv": 3, "models.jsonl": 1, "models.toml": 2}[name]


@pytest.mark.parametrize("name", FORMS)
def test_a_long_manifest_is_a_stream(tmp_path, name):
    line = {
        "models.csv": "/b\n",
        "models.jsonl": '{"downstream": "/b"}\n',
        "models.toml": "[[item]]\ndownstream='/b'\n",
    }
    begin = "downstream\n" if name.endswith("csv") else ""
    file = tmp_path / name
    file.write_text(begin + line[name] * 20_000)
    lines = itertools.islice(read_manifest(file), 3)
    assert [found.fields for found in lines] == [{"downstream": "/b"}] * 3


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("m.csv", "downstream,licensee\n/a,x,y\n", "line 2: it has 3 fields"),
        ("m.csv", 'downstream\n/a\n"/b\n', "line 3: it is no CSV"),
        ("m.csv", b"downstream\n/a\n/\xff\n", "line 3: it is no UTF-8"),
        ("m.csv", "downstream,colour\n/a,red\n", "line 2: unknown field of a stamp 'colour'"),
        ("m.csv", "licensee\nGlobex\n", "line 2: no downstream"),
        ("m.jsonl", '{"downstream": "/a"}\n{"downstream": \n', "line 2: it is no JSON"),
        ("m.jsonl", "[]\n", "line 1: it is no JSON object"),
        ("m.jsonl", '{"downstream": ["/a"]}\n', "line 1: downstream is"),
        ("m.jsonl", '{"downstream": "/a", "vocabulary": "loose"}\n', "line 1: unknown vocabulary policy"),
        ("m.jsonl", '{"downstream": "s3://who:secret@bucket/a"}\n', r"line 1: downstream s3://who:\*\*\*@bucket/a has"),
        ("m.jsonl", '{"downstream": "/a"}\n{"downstream": "/other/a"}\n', "line 2: another item would become"),
        ("m.toml", "[[item]]\ndownstream = \n", "line 1: it is no TOML"),
        ("m.toml", "colour = 'red'\n[[item]]\ndownstream = '/a'\n", "line 1: colour stands outside"),
        ("m.jsonl", '{"downstream": "' + "a" * (1 << 20) + '"}\n', "line 1: it is longer than"),
    ],
)
def test_broken_line_is_told_by_its_number_and_nothing_begins(tmp_path, registry, name, text, problem):
    with pytest.raises(UsageError, match=problem) as caught:
        record_run(source(tmp_path, name, text), registry=registry)
    assert "--skip-bad" in caught.value.advice
    with registry.snapshot() as uow:
        assert uow.fleets.select(EVERYTHING) == ()
        assert uow.ledger.entries() == ()


def test_broken_lines_are_left_out_and_counted_on_request(recorded):
    items, found = recorded("m.jsonl", '{"downstream": "/a"}\nno\n{"downstream": "/b"}\n{}\n', skip_bad=True)
    assert [item.line for item in items] == [1, 3]
    assert (found.items, found.broken) == (2, 2)
    assert found.problems[0].startswith("line 2: ")


def test_same_thing_asked_twice_is_one_item(recorded):
    items, found = recorded("m.csv", "downstream\n/a\n/a\n/b\n")
    assert len(items) == 2
    assert found.repeated == 1


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("m.txt", "/a\n", "is no manifest"),
        ("m.csv", "", "names nothing to stamp"),
        ("m.csv", "a,a\n/a,/b\n", "line 1 does not name the fields"),
    ],
)
def test_manifest_that_is_none_is_refused(tmp_path, registry, name, text, problem):
    with pytest.raises(UsageError, match=problem):
        record_run(source(tmp_path, name, text), registry=registry)


def test_missing_manifest_is_refused(tmp_path, registry):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        record_run(Source(FleetAction.STAMP, STAMP, tmp_path / "none.csv"), registry=registry)


def test_query_names_registered_models_page_by_page(registry, monkeypatch):
    monkeypatch.setattr("fpvec_audit.fleet.sources.AT_ONCE", 2)
    with registry.unit_of_work() as uow:
        base = uow.models.add(model_record())
        for digit in "bcdef":
            uow.models.add(
                model_record(digit, digit=digit, role=ModelRole.DOWNSTREAM, parent=base.id, location=f"/{digit}")
            )
    asked = Source(FleetAction.STAMP, STAMP, where=parse_where("role=downstream and base = 'base'"))
    run, found = record_run(asked, registry=registry)
    with registry.snapshot() as uow:
        items = uow.fleets.queued(run.id, after=0, limit=9)
    assert sorted(item.content["downstream"] for item in items) == [f"/{digit}" for digit in "bcdef"]
    assert {len(item.content["digest"]) for item in items} == {64}
    assert (found.items, run.items, run.source) == (5, 5, "role=downstream and base=base")


@pytest.mark.parametrize("text", ["role", "role=a or base=b", "=x", ""])
def test_query_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="--where"):
        parse_where(text)


def test_query_by_an_unknown_field_or_base_is_refused(registry):
    for where, problem in (({"colour": "red"}, "unknown filter"), ({"base": "nobody"}, "unknown model")):
        with pytest.raises(UsageError, match=problem):
            survey(Source(FleetAction.STAMP, STAMP, where=where), registry=registry)


def test_run_whose_items_were_not_all_recorded_is_not_resumed(registry):
    with registry.unit_of_work() as uow:
        run = uow.fleets.open(FleetAction.STAMP, {}, source="x", retries=1)
    assert run.state is RunState.FILLING
    with pytest.raises(UsageError, match="none has begun"):
        run_to_resume(run.id, registry=registry)


@pytest.mark.parametrize(
    ("action", "content", "problem"),
    [
        (FleetAction.STAMP, {"downstream": "/a", "out": "/b"}, "no vector or family"),
        (FleetAction.STAMP, {"downstream": "/a", "vector": ["v"]}, "nothing says where"),
        (FleetAction.AUDIT, {"suspect": "/a"}, "no key"),
        (FleetAction.AUDIT, {"suspect": "/a", "key": "k", "alpha": "2"}, "alpha 2"),
        (FleetAction.AUDIT, {"suspect": "https://h/v1", "key": "k"}, "which of its models"),
        (FleetAction.TRACE, {"suspect": "/a", "tests": ["none"]}, "unknown test"),
        (FleetAction.ATTACK, {"stamped": "/a", "key": "k"}, "nothing says how"),
    ],
)
def test_item_that_cannot_be_meant_is_refused(action, content, problem):
    with pytest.raises(UsageError, match=problem):
        complete(action, {}, content)


def test_vectors_of_an_item_take_the_place_of_the_runs_family(tmp_path):
    whole = complete(FleetAction.STAMP, {"family": "f", "into": "/o"}, {"downstream": "/a", "vector": ["v"]})
    assert "family" not in whole
    assert read_fields(FleetAction.TRACE, {"keys": "a; b;"}, directory=tmp_path) == {"keys": ["a", "b"]}


def test_directory_of_a_vector_is_one_wherever_the_run_is_resumed(tmp_path):
    (tmp_path / "mine").mkdir()
    read = read_fields(FleetAction.STAMP, {"vector": "mine;mine:0.5;vec-1:2;s3://b/v:0.5"}, directory=tmp_path)
    assert read["vector"] == [f"{tmp_path}/mine", f"{tmp_path}/mine:0.5", "vec-1:2", "s3://b/v:0.5"]


@pytest.mark.parametrize(
    ("action", "options", "problem"),
    [
        (FleetAction.STAMP, {"vector": ["vec-9:0.5"]}, "unknown vector 'vec-9'"),
        (FleetAction.STAMP, {"family": "nobody"}, "nobody"),
        (FleetAction.AUDIT, {"key": "acne"}, "unknown key set 'acne'"),
        (FleetAction.AUDIT, {"device": "foo"}, "device 'foo' is unknown"),
        (FleetAction.TRACE, {"keys": ["acne"]}, "unknown key set 'acne'"),
        (FleetAction.ATTACK, {"suite": "quik"}, "unknown suite 'quik'"),
        (FleetAction.ATTACK, {"attack": ["cats"]}, "unknown attack 'cats'"),
        (FleetAction.ATTACK, {"attack": ["cast:color=1"]}, "color"),
    ],
)
def test_name_that_would_set_every_item_aside_is_refused_before_anything_begins(registry, action, options, problem):
    catalog = load_catalog()
    with pytest.raises(UsageError, match=problem):
        refuse_unknown(action, options, registry=registry, attack=lambda name: catalog.attack(name).Parameters)


def test_names_that_are_known_or_are_no_names_pass(tmp_path, registry):
    options = {"vector": [str(tmp_path), "s3://bucket/vector:0.5"]}
    refuse_unknown(FleetAction.STAMP, options, registry=registry, attack=dict.fromkeys)
