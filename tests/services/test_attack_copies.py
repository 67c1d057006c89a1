"""Kept copies: found by what they follow from, whole or not there, bounded, and never evicted while in use."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.attack_spec import AttackLink
from fpvec_audit.domain.plugins import PluginInfo
from fpvec_audit.errors import OutputError
from fpvec_audit.services.attack_copies import CopyFacts, CopyStore

FACTS = CopyFacts("aa", "bb", "gpt2", 0, "cc", ("dd",))
KILO = 1 << 10


@dataclass(frozen=True)
class Settings:
    ratio: float = 0.5
    data: Path | None = None
    copies: str = ""


class Attack:
    Parameters = Settings


def key(facts=FACTS, version="1", **settings):
    info = PluginInfo("bend", "attack", "red-team", version)
    catalog = replace(load_catalog(), attacks={"bend": Attack()}, plugins=(info,))
    return facts.next_key(facts.key, AttackLink("bend", Settings(**settings)), catalog)


def written(size):
    def make(place):
        (place / "bend").mkdir()
        (place / "bend" / "weights").write_bytes(bytes(size))

    return make


def made(store, name, size=100 * KILO):
    with store.hold(name, "bend", written(size), size=size, about={"attack": "bend"}) as copy:
        return copy


def names(store):
    return sorted(path.name for path in store.root.iterdir())


def test_a_copy_is_found_by_all_that_it_follows_from(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("one")
    of_data = key(data=data)
    found = [
        key(), key(ratio=0.4), key(version="2"), of_data, key(copies=f"{data}:"),
        *(key(replace(FACTS, **change)) for change in (
            {"stamped": "x"}, {"texts": "x"}, {"adapter": "llama2"}, {"seed": 1}, {"base": ""}, {"copies": ()},
        )),
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    assert key() == found[0]
    data.write_text("two")
    assert key(data=data) != of_data


def test_what_was_made_once_is_found(tmp_path):
    store = CopyStore(tmp_path / "cache", 1 << 30)
    first, second = made(store, "one"), made(store, "one")
    assert first == second
    assert (second / "weights").stat().st_size == 100 * KILO
    assert (store.made, store.reused) == (1, 1)


def test_what_cannot_be_made_leaves_nothing(tmp_path):
    store = CopyStore(tmp_path / "cache", 1 << 30)

    def make(place):
        (place / "half").write_bytes(b"half")
        raise OutputError("no room")

    with pytest.raises(OutputError, match="fpvec attack clean"), store.hold("one", "bend", make, size=1, about={}):
        pass
    assert names(store) == []


def test_the_longest_unused_copies_are_evicted_and_those_in_use_never(tmp_path):
    store = CopyStore(tmp_path / "cache", 300 * KILO)
    made(store, "one")
    made(store, "two")
    made(store, "one")
    made(store, "three")
    assert names(store) == ["one", "three"]
    with store.hold("one", "bend", written(1), size=1, about={}):
        CopyStore(store.root, 0).trim()
        assert names(store) == ["one"]
        assert CopyStore(store.root, 0).clear().to_json() == {"removed": 0, "bytes_freed": 0, "in_use": 1}
    (store.root / ".two.fpvec-staging-0123abcd").mkdir()
    cleared = store.clear()
    assert (cleared.removed, cleared.in_use) == (2, 0)
    assert cleared.freed >= 100 * KILO
    assert names(store) == []
