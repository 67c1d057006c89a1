"""Registries moved between databases as JSON Lines."""

import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from base64 import b64encode
from datetime import UTC
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text

from fpvec_audit.errors import OutputError, RegistryError
from fpvec_audit.registry.moving import read_registry, write_registry
from fpvec_audit.registry.portable import line_of, portable_tables
from fpvec_audit.registry.private_files import new_private_file
from fpvec_audit.registry.tables import JobRow, LicenseeRow, ModelManifestRow, VaultSecretRow, VectorRow
from fpvec_audit.services.moving import export_registry, import_registry
from tests.registry.builders import key_set_record, model_record, opened, opened_at, secret
from tests.registry.filled import SEALED_TEXT, counts, fill


def exported(registry) -> bytes:
    out = io.BytesIO()
    write_registry(registry, out.write)
    return out.getvalue()


def told_by(content: bytes) -> list[bytes]:
    """Return the lines of an export without what tells of an import: copies have an entry more than the original."""
    first, *rows, _ = content.splitlines()
    header = {name: value for name, value in json.loads(first).items() if name not in ("entries", "head")}
    arrived = (b'"event":"registry.imported"', b'"event":"registry.restored"')
    return [line_of(header), *(row for row in rows if not any(event in row for event in arrived))]


def imported(registry, content: bytes):
    return read_registry(registry, io.BytesIO(content))


def relined(content: bytes, change) -> bytes:
    """Change the documents of an export, and give it a digest and counts that fit."""
    documents = change([json.loads(line) for line in content.splitlines()[:-1]])
    lines = b"".join(map(line_of, documents))
    rows = dict.fromkeys(portable_tables(), 0)
    for document in documents[1:]:
        if isinstance(document, dict) and document.get("table") in rows:
            rows[document["table"]] += 1
    return lines + line_of({"end": {"rows": rows, "digest": sha256(lines).hexdigest()}})


@pytest.fixture
def other(tmp_path):
    """Another embedded registry, empty."""
    with opened(tmp_path / "other" / "registry.db") as registry:
        yield registry


@pytest.fixture
def server(postgresql, tmp_path):
    """An empty registry on PostgreSQL."""
    with opened_at(postgresql.with_schema(), key_file=tmp_path / "home" / "vault.key") as registry:
        yield registry


def test_way_to_postgresql_and_back_gives_the_same_lines(embedded, server, other):
    fill(embedded)
    assert min(counts(embedded).values()) > 0, "a table without rows is not tested"
    first = exported(embedded)
    imported(server, first)
    second = exported(server)
    imported(other, second)
    assert told_by(first) == told_by(second) == told_by(exported(other))
    held = counts(embedded)
    assert counts(server) == held | {"ledger": held["ledger"] + 1}
    assert counts(other) == held | {"ledger": held["ledger"] + 2}
    with server.unit_of_work() as uow:
        assert uow.ledger.verify() is None
        assert uow.vault.reveal(key_set_record().id) == secret()


def test_moved_registry_goes_on_with_its_protection_and_its_numbers(registry, file, tmp_path, postgresql):
    fill(registry)
    targets = [
        opened(tmp_path / "to" / "registry.db"),
        opened_at(postgresql.with_schema(), key_file=file.parent / "vault.key"),
    ]
    for target in targets:
        with target:
            imported(target, exported(registry))
            with pytest.raises(RegistryError, match="append-only"), target.unit_of_work() as uow:
                uow.session.execute(text("UPDATE ledger SET event = 'x'"))
    with targets[1] as target, target.unit_of_work() as uow:
        uow.key_sets.add(key_set_record("second", seed=1), secret(1))
        assert uow.ledger.verify() is None


_ODD_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_TIMES = st.datetimes().map(lambda time: time.replace(tzinfo=UTC))


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(_ODD_TEXT, _JSON, _TIMES, st.none() | _TIMES, st.integers(-(2**63), 2**63 - 1), st.floats()),
        min_size=10,
        max_size=30,
        unique_by=lambda row: row[0],
    ),
    st.binary(max_size=300),
)
def test_any_value_survives_the_way(postgresql, tmp_path_factory, rows, content):
    place = tmp_path_factory.mktemp("odd")
    with (
        opened(place / "a.db") as one,
        opened_at(postgresql.with_schema(), key_file=place / "key") as two,
        opened(place / "c.db") as three,
    ):
        with one.unit_of_work() as uow:
            uow.models.add(model_record())
            uow.session.execute(
                text("INSERT INTO vector_family VALUES ('f', NULL, :base, '2026-01-01')"), {"base": "a" * 64}
            )
            for number, (words, document, time, perhaps, integer, real) in enumerate(rows):
                uow.session.execute(insert(LicenseeRow).values(id=words, name=f"n{number}", created_at=time))
                uow.session.execute(
                    insert(JobRow).values(
                        id=f"j{number}", kind=words, state="", detail={"any": document}, process=integer, host="",
                        identity="", directory=words,
                        command=[], started_at=time, heartbeat_at=perhaps,
                    )
                )  # fmt: skip
                if real == real:  # SQLite makes NULL of what is no number
                    uow.session.execute(
                        insert(VectorRow).values(
                            id=f"v{number}", digest=f"{number:064d}", family_id="f", mark=0, architecture=words,
                            fingerprinted_id="a" * 64, location=words, inexact_elements=integer, norm=real,
                            created_at=time,
                        )
                    )  # fmt: skip
            uow.session.execute(
                insert(VaultSecretRow).values(
                    kind="k", subject="s", scheme="x", ciphertext=content, created_at=rows[0][2]
                )
            )
        first = exported(one)
        imported(two, first)
        assert told_by(exported(two)) == told_by(first)
        imported(three, exported(two))
        assert told_by(exported(three)) == told_by(first)


def test_export_is_one_moment_while_others_write(registry, tmp_path, url, file):
    fill(registry)
    stop, started = threading.Event(), threading.Event()

    def write():
        with opened_at(url, key_file=file.parent / "vault.key") as mine:
            number = 0
            while not stop.is_set():
                number += 1
                with mine.unit_of_work() as uow:
                    uow.models.add(model_record(f"more-{number}", digit="0", id=f"{number:064d}"))
                if number == 1:
                    started.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert started.wait(10)
        for number in range(2):
            with opened(tmp_path / f"copy-{number}" / "registry.db") as target:
                imported(target, exported(registry))  # verifies counts and chain
                with target.snapshot() as uow:
                    models = len(uow.models.list())
                    entries = sum(entry.event == "model.registered" for entry in uow.ledger.entries())
                assert models == entries
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.999])
def test_export_that_was_cut_or_altered_anywhere_is_refused_and_leaves_nothing(embedded, other, place):
    fill(embedded)
    content = exported(embedded)
    position = int(len(content) * place)
    flipped = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
    lines = content.splitlines(keepends=True)
    at = int(len(lines) * place)
    for broken in (content[:position], flipped, b"".join(lines[:at]), b"".join(lines[:at] + lines[at + 1 :])):
        with pytest.raises(RegistryError) as caught:
            imported(other, broken)
        assert caught.value.advice
    assert sum(counts(other).values()) == counts(other)["registry_fact"]
    imported(other, content)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lines: [lines[0] | {"schema": "0003"}, *lines[1:]], "0003"),
        (lambda lines: [lines[0] | {"schema": "9999"}, *lines[1:]], "9999"),
        (lambda lines: [lines[0] | {"format": "else"}, *lines[1:]], "no export"),
        (lambda lines: [lines[0] | {"entries": 1}, *lines[1:]], "first line"),
        (lambda lines: [lines[0] | {"entries": True}, *lines[1:]], "first line"),
        (lambda lines: [line for line in lines if line.get("table") != "mark"], "contradicts"),
        (lambda lines: [*lines, {"table": "alembic_version", "row": {}}], "does not belong"),
        (lambda lines: [lines[0], *reversed(lines[1:])], "does not belong"),
        (lambda lines: [*lines, {"table": "job"}], "neither a row nor an end"),
        (lambda lines: [*lines, []], "neither a row nor an end"),
    ],
)
def test_export_that_contradicts_itself_is_refused(embedded, other, change, problem):
    fill(embedded)
    content = exported(embedded)
    with pytest.raises(RegistryError, match=problem):
        imported(other, relined(content, change))
    assert counts(other)["ledger"] == 0


def changed_row(lines, table, **values):
    return [
        line | {"row": line["row"] | values} if line.get("table") == table else line for line in lines
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("ledger", {"event": "else"}),
        ("licensee", {"created_at": "yesterday"}),
        ("licensee", {"created_at": "2026-01-01T00:00:00"}),
        ("licensee", {"name": None}),
        ("licensee", {"name": 7}),
        ("licensee", {"name": "\ud800"}),
        ("licensee", {"more": 7}),
        ("vector", {"norm": 1}),
        ("vector", {"norm": "fast"}),
        ("vector", {"base_id": "x"}),
        ("vector", {"family_id": "x"}),
        ("vault_secret", {"ciphertext": "?"}),
        ("job", {"process": 2**63}),
        ("job", {"process": True}),
    ],
)
def test_row_that_cannot_be_is_refused(registry, tmp_path, table, values):
    with opened(tmp_path / "source" / "registry.db") as source:
        fill(source)
        content = exported(source)
    with pytest.raises(RegistryError) as caught:
        imported(registry, relined(content, lambda lines: changed_row(lines, table, **values)))
    assert caught.value.advice
    assert counts(registry)["licensee"] == 0
    with registry.unit_of_work() as uow:
        uow.models.add(model_record())


def test_nul_character_that_postgresql_cannot_store_is_told(embedded, server):
    with embedded.unit_of_work() as uow:
        uow.session.execute(insert(LicenseeRow).values(id="l", name="a\x00b", created_at=uow.jobs._clock()))
    with pytest.raises(RegistryError, match="NUL"):
        imported(server, exported(embedded))


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\xff\xfe", b"{}\n", b"[" * 100_000 + b"\n", b"null\n", b'{"a":NaN}\n']
)
def test_what_is_no_export_is_refused(other, content):
    with pytest.raises(RegistryError) as caught:
        imported(other, content)
    assert caught.value.advice


def test_registry_that_holds_something_is_not_overwritten(registry, other):
    fill(other)
    with registry.unit_of_work() as uow:
        uow.models.add(model_record())
    with pytest.raises(RegistryError, match="holds entries already"):
        imported(registry, exported(other))
    assert counts(registry)["model"] == 1


def test_secrets_in_the_clear_are_not_exported(registry):
    fill(registry)
    with registry.unit_of_work() as uow:
        uow.session.execute(text("UPDATE vault_secret SET scheme = 'plain'"))
    with pytest.raises(RegistryError, match="in the clear"):
        exported(registry)


def test_export_holds_no_secret_and_is_for_its_owner_alone(registry, tmp_path):
    fill(registry)
    before = os.umask(0)
    try:
        moved = export_registry(tmp_path / "out.jsonl", registry=registry)
    finally:
        os.umask(before)
    content = (tmp_path / "out.jsonl").read_bytes()
    assert SEALED_TEXT not in content
    assert b64encode(SEALED_TEXT) not in content
    assert stat.S_IMODE((tmp_path / "out.jsonl").stat().st_mode) == 0o600
    assert moved.to_json()["master_key"] in moved.warnings[0]
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_file_that_exists_is_refused(registry, tmp_path):
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        export_registry(tmp_path / "out.jsonl", registry=registry)
    assert (tmp_path / "out.jsonl").read_text() == "mine"


def write_half(target):
    with new_private_file(target) as file:
        file.write(b"half")
        raise ZeroDivisionError


def test_failed_writing_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_half(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["/dev/full", "missing"])
def test_full_disk_and_missing_directory_are_told(registry, tmp_path, target):
    fill(registry)
    if target == "missing":
        with pytest.raises(OutputError, match="cannot be written"):
            export_registry(tmp_path / "nowhere" / "out.jsonl", registry=registry)
    else:
        with Path(target).open("wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
            write_registry(registry, full.write)


def test_import_that_is_killed_leaves_an_empty_registry(registry, url, file, tmp_path):
    with opened(tmp_path / "source" / "registry.db") as source:
        with source.unit_of_work() as uow:
            for number in range(2500):
                uow.session.execute(
                    insert(LicenseeRow).values(id=f"{number}", name=f"{number}", created_at=source.clock())
                )
        content = exported(source)
    program = (
        "import sys\n"
        "from tests.registry.builders import opened_at\n"
        "from fpvec_audit.registry.moving import read_registry\n"
        "from pathlib import Path\n"
        "with opened_at(sys.argv[1], key_file=Path(sys.argv[2])) as registry:\n"
        "    read_registry(registry, sys.stdin.buffer)\n"
    )
    command = [sys.executable, "-c", program, url, str(file.parent / "vault.key")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        process.stdin.write(content[: len(content) * 3 // 4])
        process.stdin.flush()
        process.send_signal(signal.SIGKILL)
    assert counts(registry)["licensee"] == 0
    imported(registry, content)
    assert counts(registry)["licensee"] == 2500


def test_memory_stays_small_whatever_the_size(embedded, other, tmp_path):
    import tracemalloc

    with embedded.unit_of_work() as uow:
        for number in range(300):
            identifier = f"{number:064d}"
            uow.models.add(model_record(f"{number}", id=identifier))
            manifest = {"model_id": identifier, "tensors": 1, "content": bytes(50_000)}
            uow.session.execute(insert(ModelManifestRow), manifest)
    out = tmp_path / "out.jsonl"
    portable_tables()
    tracemalloc.start()
    export_registry(out, registry=embedded)
    import_registry(out, registry=other)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < out.stat().st_size / 2
