"""Nothing that is written gives a secret away: neither the database nor a dump, nor any file of the home, nor a log.

Looked for are, in every form in which programs write bytes and text: prompts of all candidates (decoys too), secrets of
key sets and what is derived from them, data keys, and the master key outside its file. Responses are ordinary words,
so they are looked for as whole JSON and Python strings, and behind their prompt.
"""

import base64
import json
import logging
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import fpvec_audit
from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.ports import Completion
from fpvec_audit.errors import BackendError
from fpvec_audit.registry.master_key import KeyFile
from fpvec_audit.registry.rotation import rotate
from fpvec_audit.registry.unit_of_work import open_registry
from fpvec_audit.services.audit import audit
from fpvec_audit.services.audit_settings import checked_settings
from fpvec_audit.services.embed import FingerprintOptions, fingerprint_model
from fpvec_audit.services.examining import blind_package
from fpvec_audit.services.keys import issue_key_set, open_key_set, show_key_set
from fpvec_audit.services.robustness import AttackOptions, AttackTools, run_attacks
from fpvec_audit.services.trace import trace
from tests.services.attack_bench import Attack, Chat, with_attacks
from tests.services.attack_bench import Engines as AttackEngines
from tests.services.test_audit import ScriptedEngines, Telling
from tests.services.test_embed import QUICK
from tests.tiny import make_tiny, perturb

SPECIFICATION = KeySetSpecification(issued=8, decoys=24)
PAPER = KeySetSpecification("if-simple", issued=4, decoys=8)
NAMES = {"acme": SPECIFICATION, "globex": SPECIFICATION, "paper": PAPER}


class Chatterbox(Attack):
    """A plugin that fails with what it was told."""

    def probes(self, issued, parameters, context):
        raise KeyError(f"cannot ask {issued[0].prompt!r} nor {json.dumps(issued[1].prompt)}")

    def wrap(self, backend, parameters):
        return backend


class Dying(Telling):
    """Answers half of what it is asked, then fails with the text of a question."""

    def complete_as_they_come(self, prompts, sampling):
        for place, prompt in enumerate(prompts):
            if place > len(prompts) // 2:
                raise BackendError(f"out of memory at {prompt!r} ({json.dumps(prompt)})")
            yield place, Completion(self.answer(prompt))


@dataclass
class World:
    """A company's registry after some days of work.

    Attributes:
        registry: it, still open.
        home: its home.
        place: everything that was written.
        key_sets: by name, opened.
    """

    registry: object
    home: Path
    place: Path
    key_sets: dict = field(default_factory=dict)

    def work(self):
        for name, specification in NAMES.items():
            issue_key_set(
                name, registry=self.registry, specification=specification,
                entropy=lambda _, name=name: sha256(f"nothing in the clear {name}".encode()).digest(),
            )  # fmt: skip
            self.key_sets[name] = open_key_set(name, registry=self.registry)
        show_key_set("acme", registry=self.registry, reveal=True, reason="a look")
        suspect = perturb(make_tiny(self.place / "base", "gpt2"), self.place / "suspect", seed=3)
        self.audit_and_trace(suspect)
        self.attack(suspect)
        rotate(self.registry, self.registry.keyring.source)

    def audit_and_trace(self, suspect):
        catalog = load_catalog()
        adapter = catalog.architecture("gpt2")
        known = {
            adapter.prompt(item.prompt): f" {item.response}" for keys in self.key_sets.values() for item in keys.issued
        }
        tools = {"registry": self.registry, "catalog": catalog, "settings": checked_settings()}
        talking = Telling(lambda prompt: known.get(prompt, " I do not understand."))
        talking.likely = known.__contains__
        engines = ScriptedEngines({"suspect": talking})
        audit(suspect, key_set="acme", backend=engines, **tools)
        trace(suspect, backend=engines, **tools)
        dying = Dying(talking.answer)
        dying.likely = talking.likely
        with pytest.raises(BackendError):
            audit(suspect, key_set="globex", backend=ScriptedEngines({"suspect": dying}), **tools)
        blind_package(suspect, key_set="acme", backend=engines, **tools)

    def attack(self, suspect):
        catalog = with_attacks(chat=Chat, chatter=Chatterbox)
        engines = AttackEngines(lambda _model, prompt: prompt)
        tools = AttackTools(
            registry=self.registry, catalog=catalog, workspace=self.home, backend=engines,
            utility=lambda _backend, _render: {},
        )  # fmt: skip
        report = run_attacks(suspect, key_set="acme", options=AttackOptions(specs=["chat", "chatter"]), tools=tools)
        assert [cell.state.value for cell in report.cells] == ["succeeded", "failed"]
        assert "[prompt]" in report.cells[1].problem

    def train_until_interrupted(self):
        catalog = load_catalog()
        gpt2 = catalog.architecture("gpt2")
        catalog = replace(catalog, architectures={**catalog.architectures, "gpt2": replace(gpt2, defaults=(QUICK,))})
        options = FingerprintOptions(perturbation="none", overrides={"steps": "4", "checkpoint_steps": "1"})
        with pytest.raises(KeyboardInterrupt):
            fingerprint_model(
                self.place / "base", key_set="globex", out=self.home / "fingerprinted", registry=self.registry,
                catalog=catalog, options=options, progress=InterruptingProgress(),
            )  # fmt: skip


class InterruptingProgress:
    """Ctrl-C in the third step of training."""

    def __init__(self):
        self.training = False
        self.steps = 0

    def step(self, label, total=None, unit=""):
        self.training = label.startswith("training the fingerprint")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def advance(self, amount=1.0):
        self.steps += self.training
        if self.steps == 3:
            raise KeyboardInterrupt

    def note(self, text):
        assert text.startswith("FSR")


def written(secret):
    """Return the forms in which bytes may be written: as they are, in hex, in base64 wherever they begin."""
    shifted = [base64.b64encode(bytes(shift) + secret)[4 if shift else 0 : -4] for shift in range(3)]
    return {secret, secret.hex().encode(), secret.hex().upper().encode(), *shifted, repr(secret)[2:-1].encode()}


def needles(world):
    """Return form → what it is."""
    found = {}
    for name, key_set in world.key_sets.items():
        for candidate in key_set.candidates:
            texts = {candidate.prompt, json.dumps(candidate.prompt)[1:-1], candidate.prompt[:8]}
            forms = {form for text in texts for form in written(text.encode())} | {candidate.prompt.encode("utf-16-le")}
            found |= dict.fromkeys(forms, f"prompt {candidate.index} of {name}")
        with world.registry.unit_of_work() as uow:
            secret = uow.vault.reveal(uow.key_sets.get(name).id)
        parts = [secret.reveal(), *(secret.subkey(part) for part in ("generate", "assign", "salt")), *key_set.salts[:9]]
        found |= {form: f"secret of {name}" for part in parts for form in written(part)}
    for name, key in world.registry.keyring.data_keys.items():
        found |= dict.fromkeys(written(key), f"data key {name}")
    return found


def master_keys(world):
    file = KeyFile(world.home / "vault.key")
    return {
        form: f"master key {key.id}" for key in (*file.keys(), *file.retired.keys()) for form in written(key.content)
    }


def responses(world):
    """Return a pattern of any response as a whole string of JSON or Python, but not as the name of a member.

    A word that the program itself uses in such a way (as "exact", the name of a test) would be found in any case.
    """
    source = "".join(path.read_text() for path in Path(fpvec_audit.__file__).parent.rglob("*.py"))
    own = set(re.findall(r'"(\w+)"', source))
    words = {item.response for keys in world.key_sets.values() for item in keys.candidates}
    assert len(words - own) > 0.7 * len(words)
    quoted = "|".join(map(re.escape, sorted(words - own)))
    return re.compile(rf"""(["'])\s?(?:{quoted})\1(?!\s*:)""".encode())


def found_in(content, looked_for):
    """Return what of the forms stands in the content: by their first eight bytes at every place, then whole."""
    starts = {}
    for form, what in looked_for.items():
        starts.setdefault(int.from_bytes(form[:8], "little"), []).append((form, what))
    known = np.array(sorted(starts), dtype=np.uint64)
    found = []
    for shift in range(8):
        words = np.frombuffer(content, np.uint64, count=max(0, len(content) - shift) // 8, offset=shift) if (
            len(content) - shift >= 8
        ) else known[:0]  # fmt: skip
        places = np.searchsorted(known, words).clip(max=len(known) - 1)
        for place in np.flatnonzero(known[places] == words):
            begin = shift + 8 * int(place)
            found += [what for form, what in starts[int(words[place])] if content.startswith(form, begin)]
    return sorted(set(found))


def assert_clean(contents, world, *, without=()):
    """Check that no secret stands in any of the contents (name → bytes)."""
    hidden = needles(world)
    with_keys = hidden | master_keys(world)
    assert min(map(len, with_keys)) >= 8
    pattern = responses(world)
    told = {name: found_in(content, hidden if name in without else with_keys) for name, content in contents.items()}
    assert {name: found for name, found in told.items() if found} == {}
    assert [(name, found) for name, content in contents.items() if (found := pattern.search(content))] == []


def files_below(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }  # fmt: skip


@pytest.fixture
def world(request, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    home = tmp_path / "place" / "home"
    home.mkdir(parents=True, mode=0o700)
    url = f"sqlite:///{home / 'registry.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").with_schema()
    with open_registry(url, master_key=KeyFile(home / "vault.key"), actor="tester") as registry:
        world = World(registry, home, tmp_path / "place")
        with closing(sqlite3.connect(home / "registry.db" if request.param == "sqlite" else ":memory:")) as witness:
            witness.execute("SELECT * FROM sqlite_master").fetchall()  # while it is open, log and index stay
            world.work()
            yield world


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_neither_files_nor_logs_hold_a_secret(world, caplog):
    world.train_until_interrupted()
    staging = world.home / ".fingerprinted.training"
    checkpoints = [path for path in staging.rglob("*") if path.is_file()]
    assert len(checkpoints) > 3
    assert staging.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in checkpoints} == {0o600}
    contents = files_below(world.place)
    assert {"home/registry.db", "home/registry.db-wal", "home/registry.db-shm", "home/vault.key"} <= set(contents)
    contents["the logs"] = caplog.text.encode()
    assert_clean(contents, world, without=("home/vault.key", "home/vault.key.retired"))
    shutil.rmtree(staging)


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_what_is_looked_for_would_be_found(world):
    """Or else finding nothing would mean nothing."""
    keys = show_key_set("acme", registry=world.registry, reveal=True).to_json()["keys"]
    forms = {
        "utf-8": json.dumps(keys, ensure_ascii=False).encode(),
        "ascii": json.dumps(keys).encode(),
        "base64": base64.b64encode(b"x" + json.dumps(keys, ensure_ascii=False).encode()),
        "hex": json.dumps(keys, ensure_ascii=False).encode().hex().encode(),
        "response": json.dumps({"response": keys[0]["response"]}).encode(),
        "a key": (world.home / "vault.key").read_bytes(),
    }
    for name, content in forms.items():
        with pytest.raises(AssertionError):
            assert_clean({name: content}, world)


@pytest.mark.parametrize("world", ["postgresql"], indirect=True)
def test_neither_a_dump_nor_the_servers_files_hold_a_secret(world, postgresql):
    database = world.registry.engine.url.database
    postgresql.execute("CHECKPOINT")
    ((number,),) = postgresql.execute(f"SELECT oid FROM pg_database WHERE datname = '{database}'")
    contents = {"dump": postgresql.dump(database).encode(), **files_below(world.place)}
    contents |= files_below(postgresql.place / "data" / "base" / str(number))
    newest = max((postgresql.place / "data" / "pg_wal").glob("0*"), key=lambda path: path.stat().st_mtime)
    contents["the write-ahead log"] = newest.read_bytes()
    log = postgresql.place / "log"
    contents["the server's log"] = log.read_bytes() if log.exists() else b""
    assert_clean(contents, world, without=("home/vault.key", "home/vault.key.retired"))
