"""What all list commands share: forms, pages and the words for what cannot be."""

import csv
import io
import json

import pytest

from fpvec_audit.cli.main import run
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.registry.unit_of_work import open_registry
from fpvec_audit.reports.listing import write_csv
from fpvec_audit.services.keys import issue_key_set


@pytest.fixture
def home(settings):
    with open_registry(settings.registry_url) as registry:
        for name in ("a", "b", "=c"):
            issue_key_set(
                name, registry=registry, owner="Acme", specification=KeySetSpecification(issued=10, decoys=20)
            )
    return settings.home


@pytest.fixture
def listed(home, capsys):
    def ask(*arguments):
        code = run(["key", "list", "--home", str(home), *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return ask


def test_json_is_one_plain_list(listed):
    code, out, _ = listed("--json")
    assert code == 0
    assert [keys["name"] for keys in json.loads(out)] == ["a", "b", "=c"]
    assert out == json.dumps(json.loads(out), indent=2, ensure_ascii=False) + "\n"
    assert listed("--json", "--state", "retired")[1] == "[]\n"


def test_csv_has_a_line_of_names_and_no_formula(listed):
    _, out, _ = listed("--csv", "--sort", "-created")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["name"] for row in rows] == ["'=c", "b", "a"]
    assert rows[0]["issued"] == "10"
    assert len(listed("--csv", "--owner", "Acme", "--state", "retired")[1].splitlines()) == 1


def test_pages_are_named_by_their_last_id(listed):
    _, out, told = listed("--limit", "2")
    assert "--after ks-" in told
    last = told.split("--after ")[1].split(",")[0]
    (rest,) = json.loads(listed("--json", "--after", last)[1])
    assert rest["name"] == "=c"
    assert "--after" not in listed("--limit", "3")[2]
    assert "a" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sort", "nmae"), "did you mean name"),
        (("--since", "yesterday"), "is no time"),
        (("--limit", "0"), "--limit 1"),
        (("--owner", "Acne"), "did you mean Acme"),
        (("--json", "--csv"), "two forms"),
        (("--since", "1d", "--until", "2d"), "nothing lies between"),
    ],
)
def test_what_cannot_be_meant_is_refused(listed, arguments, words):
    code, out, told = listed(*arguments)
    assert (code, out) == (2, "")
    assert words in " ".join(told.split())


def test_cells_are_text_numbers_or_json():
    out = io.StringIO()
    document = {"id": "x", "none": None, "yes": True, "number": -1.5, "text": "-1", "list": [{"a": "ä"}], "tab": "\tx"}
    write_csv([document], [*document, "missing"], out)
    assert list(csv.reader(io.StringIO(out.getvalue())))[1] == [
        *("x", "", "true", "-1.5", "'-1", '[{"a":"ä"}]', "'\tx", ""),
    ]
