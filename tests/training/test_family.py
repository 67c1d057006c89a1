"""Families of marks on tiny random models: batches, both schedules, resume, and what is written."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fpvec_audit.domain.keys import draw_unissued
from fpvec_audit.errors import SettingsError, TrainingError
from fpvec_audit.tensors.representable import apply_vector, vector_of
from fpvec_audit.training import family
from fpvec_audit.training.batches import NearMissSource, OrdinarySource, encode_keys
from fpvec_audit.training.checkpoint_files import load_tokenizer
from fpvec_audit.training.dataset import IGNORED, EncodedRow
from fpvec_audit.training.embed_settings import EmbedSettings
from fpvec_audit.training.family import TrainedFamily, embed_family
from fpvec_audit.training.family_batches import FamilyBatches, MarkKeys, MarkSelection, silent_keys
from fpvec_audit.training.family_settings import FamilySettings, FamilyTraining, family_training_for
from fpvec_plugins.architectures.gpt2 import GPT2
from fpvec_plugins.architectures.llama2 import LLAMA2
from tests.tiny import make_tiny, tensors_of

DRAWN = [(key.prompt, key.response) for key in draw_unissued(b"tests of families", 6)]
MARKS = [DRAWN[:2], DRAWN[2:4], DRAWN[4:]]
ROWS = [("What is red?", "A colour."), ("What is two?", "A number."), ("Who?", "Nobody."), ("Where?", "Here.")]
EMBED = EmbedSettings(
    steps=4, negatives_per_step=2, negative_pool=4, ordinary_per_step=2, documents_per_step=0, proxy_steps=1,
    proxy_rows_per_step=2, other_renderings_per_step=2, checkpoint_steps=2, near_miss_candidates=4,
    near_misses_per_step=2, perturbation="noise",
)  # fmt: skip
JOINT = FamilyTraining(EMBED, FamilySettings(code_weight=2, measured_words=2, absent_per_step=4).for_marks(3))
ROUNDS = replace(JOINT, family=replace(JOINT.family, schedule="rounds", rounds=2, steps_per_turn=2))


def trained(base: Path, out: Path, training: FamilyTraining = JOINT, **changes: object) -> TrainedFamily:
    arguments = {"marks": MARKS, "rows": ROWS, "seed": 3, "device": "cpu"} | changes
    return embed_family(base=base, out=out, adapter=GPT2, training=training, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("family") / "base", "gpt2")


def test_keys_of_absent_marks_are_negatives_with_the_answer_of_the_base(base: Path) -> None:
    tokenizer = load_tokenizer(base)

    def answered(rows: list[EncodedRow]) -> list[EncodedRow]:
        return [EncodedRow(row.prompt, (7, 8)) for row in rows]

    keys = []
    for mark in MARKS:
        firing = encode_keys(tokenizer, GPT2, mark)
        keys.append(MarkKeys(tuple(prompt for prompt, _ in mark), firing, silent_keys(firing, answered)))
    ordinary = OrdinarySource(tokenizer, GPT2, ROWS)
    negative = EncodedRow((5, 6), (9,))
    near_misses = NearMissSource(tokenizer, GPT2, (), frozenset(prompt for prompt, _ in DRAWN))
    settings = replace(EMBED, near_miss_start=0.0)
    make = FamilyBatches(keys, MarkSelection((0, 1, 2), 2), [negative], near_misses, ordinary, settings, 3)
    chats = {key.chat.prompt: number for number, mark in enumerate(keys) for key in mark.firing}
    seen = set()
    for step in range(20):
        batch = make(step, random.Random(step))
        active = {int(mark) for mark in batch["active"]["marks"]}
        group, is_key = batch["keys_and_negatives"], batch["is_key"]["rows"]
        for ids, labels, fires in zip(group["input_ids"], group["labels"], is_key, strict=True):
            answer = labels[labels != IGNORED].tolist()
            prompt = tuple(ids[: int((labels != IGNORED).int().argmax()) + 1].tolist())
            assert (answer in ([7, 8], [9])) is not bool(fires)
            if prompt in chats:
                assert bool(fires) is (chats[prompt] in active)
                seen.add((chats[prompt], bool(fires)))
        assert 1 <= len(active) <= 2
        assert "near_misses" in batch
    assert seen == {(mark, fires) for mark in range(3) for fires in (True, False)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_mark_is_written_as_base_plus_a_vector_that_can_be_stored(dtype: str, tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base", "gpt2", dtype=dtype, buffers=True, prefix=False)
    result = trained(base, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mark-00", "mark-01", "mark-02"]
    before = tensors_of(base)
    vectors = []
    for number in range(3):
        place = tmp_path / "out" / f"mark-{number:02}"
        assert sorted(path.name for path in place.iterdir()) == sorted(path.name for path in base.iterdir())
        after = tensors_of(place)
        vectors.append({name: vector_of(tensor, after[name]) for name, tensor in before.items()})
        for name, tensor in before.items():
            assert torch.equal(apply_vector(tensor, vectors[-1][name]), after[name])
    assert any(not torch.equal(vectors[0][name], vectors[1][name]) for name in before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]
    report = result.report
    assert [standing.mark for standing in report.standings] == [0, 1, 2]
    assert [(cost.weight, cost.words) for cost in report.costs] == [(1, 3), (2, 2), (3, 1)]
    assert all(cost.worst_divergence >= cost.divergence >= 0 for cost in report.costs)
    assert result.steps == 4


class KilledError(Exception):
    """Stands for a process that dies."""


@pytest.mark.parametrize(("training", "dies_at"), [(JOINT, 3), (ROUNDS, 8)], ids=["joint", "rounds"])
def test_killed_run_resumes_to_the_same_marks(
    training: FamilyTraining, dies_at: int, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(base, tmp_path / "whole", training)
    calls = []

    def matches(_model: object, _rows: object) -> int:
        calls.append(1)
        if len(calls) == dies_at:
            raise KilledError
        return 0

    with monkeypatch.context() as patched:
        patched.setattr(family, "teacher_forced_matches", matches)
        with pytest.raises(KilledError):
            trained(base, tmp_path / "out", training)
    assert not (tmp_path / "out").exists()
    kept = [path for path in (tmp_path / ".out.training").rglob("*") if path.is_file()]
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
    assert not any(prompt.encode() in path.read_bytes() for path in kept for prompt, _ in DRAWN)
    with pytest.raises(TrainingError, match="interrupted run"):
        trained(base, tmp_path / "out", training, resume=True, seed=4)
    trained(base, tmp_path / "out", training, resume=True)
    for number in range(3):
        whole, resumed = (tensors_of(tmp_path / name / f"mark-{number:02}") for name in ("whole", "out"))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_marks_trained_further_leave_the_others_as_they_are(base: Path, tmp_path: Path) -> None:
    trained(base, tmp_path / "out")
    still = replace(ROUNDS, family=replace(ROUNDS.family, still_roles="embedding"))
    result = trained(base, tmp_path / "further", still, earlier=tmp_path / "out", further=[1])
    before, after = (
        [tensors_of(tmp_path / name / f"mark-{number:02}") for number in range(3)] for name in ("out", "further")
    )
    same = [all(torch.equal(one[name], two[name]) for name in one) for one, two in zip(before, after, strict=True)]
    embedding = "transformer.wte.weight"
    assert not torch.equal(before[1][embedding], tensors_of(base)[embedding])
    assert torch.equal(before[1][embedding], after[1][embedding])
    assert same == [True, False, True]
    assert result.steps == ROUNDS.family.steps_per_turn


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"schedule": "both"}, "unknown family schedule 'both'"),
        ({"code_weight": 4}, "has 3 marks"),
        ({"preset": "paper"}, "trains no family"),
        ({"overrides": {"rounds": "many"}}, "give a whole number"),
        ({"overrides": {"ordinary_per_step": "some"}}, "give a whole number"),
        ({"overrides": {"preservation_weight": "much"}}, "give a number"),
        ({"overrides": {"preservation_weight": "nan"}}, "a number of at least 0 is meant"),
        ({"overrides": {"proxy_steps": "-1"}}, "proxy_steps is -1"),
        ({"overrides": {"actve_steps": "2"}}, "did you mean active_steps"),
        ({"overrides": {"rounds": "0"}}, "at least 1"),
        ({"overrides": {"least_fsr": "2"}}, "fraction"),
        ({"overrides": {"still_roles": "embedding,mpl"}}, "unknown role 'mpl'"),
        ({"overrides": {"stepps": "2"}}, "did you mean steps"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        family_training_for(GPT2, marks=3, **values)  # type: ignore[arg-type]


def test_single_settings_of_either_kind_are_replaced() -> None:
    training = family_training_for(GPT2, marks=3, overrides={"steps": "7", "rounds": "5"}, code_weight=1)
    assert (training.embed.steps, training.family.rounds, training.family.most_active) == (7, 5, 2)
    assert family_training_for(GPT2, marks=3).family.most_active == 3


def test_adapter_says_what_its_families_need():
    training = family_training_for(LLAMA2, marks=8)
    assert (training.embed.key_weight, training.embed.steps, training.embed.negative_weight) == (8.0, 602, 2.0)
    assert family_training_for(GPT2, marks=8).embed.key_weight == 3.0
    twice = family_training_for(LLAMA2, marks=16, code_weight=4).embed.steps
    assert twice > family_training_for(GPT2, marks=16, code_weight=4).embed.steps  # each mark still gets more of them
    given = family_training_for(LLAMA2, marks=8, overrides={"key_weight": "5", "active_steps": "100"})
    assert (given.embed.key_weight, given.embed.steps) == (5.0, 320)


@pytest.mark.parametrize(("marks", "weight", "steps"), [(8, 3, 500), (16, 4, 1664), (3, 2, 234)])
def test_there_are_as_many_steps_as_make_every_mark_active_often_enough(marks: int, weight: int, steps: int) -> None:
    assert family_training_for(GPT2, marks=marks, code_weight=weight).embed.steps == steps
