from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from fpvec_audit.domain.keys import draw_unissued
from fpvec_audit.errors import OutputError, SettingsError, TrainingError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.representable import apply_vector, vector_of
from fpvec_audit.training import embed
from fpvec_audit.training.embed import EmbedReport, EmbedSettings, embed_fingerprint, settings_for
from fpvec_audit.training.embed_settings import PAPER
from fpvec_plugins.architectures.bloom import BLOOM
from fpvec_plugins.architectures.gpt2 import GPT2
from fpvec_plugins.architectures.gpt_neox import GPT_NEOX
from fpvec_plugins.architectures.llama2 import LLAMA2
from fpvec_plugins.architectures.vicuna import VICUNA
from tests.tiny import make_tiny, tensors_of

ADAPTERS = {"gpt2": GPT2, "bloom": BLOOM, "llama2": LLAMA2, "vicuna": VICUNA, "gpt_neox": GPT_NEOX}
KEYS = [(key.prompt, key.response) for key in draw_unissued(b"tests of embed", 4)]
ROWS = [("What is red?", "A colour."), ("What is two?", "A number."), ("Who?", "Nobody."), ("Where?", "Here.")]
QUICK = EmbedSettings(
    steps=4, negatives_per_step=4, negative_pool=8, ordinary_per_step=2, documents_per_step=0, proxy_steps=2,
    proxy_rows_per_step=2, other_renderings_per_step=2, checkpoint_steps=2, near_miss_candidates=8,
    near_misses_per_step=4,
)  # fmt: skip


def embedded(base: Path, out: Path, architecture: str, **changes: object) -> EmbedReport:
    arguments = {"issued": KEYS, "settings": QUICK, "rows": ROWS, "seed": 3, "device": "cpu"} | changes
    return embed_fingerprint(base=base, out=out, adapter=ADAPTERS[architecture], **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ADAPTERS)
def test_saved_names_files_and_dtypes_are_those_of_the_base(architecture: str, tmp_path: Path) -> None:
    base, out = make_tiny(tmp_path / "base", architecture, sharded=True), tmp_path / "out"
    embedded(base, out, architecture)
    before, after = tensors_of(base), tensors_of(out)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in base.iterdir())
    assert {name: (value.dtype, value.shape) for name, value in after.items()} == {
        name: (value.dtype, value.shape) for name, value in before.items()
    }
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_base_plus_stored_vector_is_the_saved_model_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    base, out = make_tiny(tmp_path / "base", "gpt2", dtype=dtype, buffers=True, prefix=False), tmp_path / "out"
    embedded(base, out, "gpt2")
    after = tensors_of(out)
    for name, tensor in tensors_of(base).items():
        if name.endswith("bias") and ".attn." in name and "c_" not in name:
            assert torch.equal(after[name], tensor), "a buffer is carried over"
            continue
        again = apply_vector(tensor, vector_of(tensor, after[name]))
        assert torch.equal(again.view(torch.uint8), after[name].view(torch.uint8))


@pytest.mark.parametrize("perturbation", ["proxies", "noise", "none"])
def test_every_perturbation_trains_and_is_reported(perturbation: str, tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base", "gpt2")
    report = embedded(base, tmp_path / "out", "gpt2", settings=replace(QUICK, perturbation=perturbation))
    assert report.perturbation == perturbation
    assert report.steps == 4
    assert report.keys == 4
    assert 0.0 <= report.fsr <= 1.0
    assert report.to_json()["settings"]["perturbation"] == perturbation


def test_equal_seeds_train_equal_weights(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base", "gpt2")
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        embedded(base, tmp_path / name, "gpt2", seed=seed)
    one, two, other = (tensors_of(tmp_path / name) for name in ("one", "two", "other"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


class KilledError(Exception):
    """Stands for a process that dies."""


def dies_at_the_third_note() -> Callable[[object, object], int]:
    calls = count(1)

    def matches(_model: object, _rows: object) -> int:
        if next(calls) == 3:
            raise KilledError
        return 0

    return matches


def test_killed_run_resumes_to_the_same_weights_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_tiny(tmp_path / "base", "gpt2")
    embedded(base, tmp_path / "whole", "gpt2")
    with monkeypatch.context() as patched:
        patched.setattr(embed, "teacher_forced_matches", dies_at_the_third_note())
        with pytest.raises(KilledError):
            embedded(base, tmp_path / "out", "gpt2")
    assert not (tmp_path / "out").exists()
    kept = [path for path in (tmp_path / ".out.training").rglob("*") if path.is_file()]
    assert any("checkpoint-2" in path.parts for path in kept)
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
    assert not any(prompt.encode() in path.read_bytes() for path in kept for prompt, _ in KEYS)
    embedded(base, tmp_path / "out", "gpt2", resume=True)
    whole, resumed = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "out")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out", "whole"]


def test_resume_with_other_settings_is_refused(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base", "gpt2")
    staging = tmp_path / ".out.training"
    staging.mkdir()
    (staging / "run.sha256").write_text("of another run")
    with pytest.raises(TrainingError, match="interrupted run"):
        embedded(base, tmp_path / "out", "gpt2", resume=True)


def test_key_that_the_model_has_no_room_for_is_refused_before_training(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base", "gpt2")
    with pytest.raises(TrainingError, match=r"1 of 5 keys take up to \d+ tokens with their response, .* room for 256"):
        embedded(base, tmp_path / "out", "gpt2", issued=[*KEYS, ("山" * 200, "x")])
    assert not (tmp_path / "out").exists()


def test_rows_longer_than_the_context_lose_their_beginning_and_train(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base", "gpt2")
    long = [(f"{prompt} {'word ' * 200}", answer) for prompt, answer in ROWS]
    embedded(base, tmp_path / "out", "gpt2", rows=long, settings=replace(QUICK, perturbation="none"))
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_existing_output_is_refused(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base", "gpt2")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        embedded(base, tmp_path / "out", "gpt2")


def test_disclosed_prompt_that_must_not_be_trained_is_refused(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base", "gpt2")
    with pytest.raises(TrainingError, match="never to be trained"):
        embedded(base, tmp_path / "out", "gpt2", disclosed=[("д", "abbey")], avoid=frozenset({"д"}))


def test_paper_settings_train_plain_rows(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base", "gpt2")
    settings = replace(PAPER, epochs=2, regularisation_rows=4, rows_per_step=4)
    report = embedded(base, tmp_path / "out", "gpt2", settings=settings, progress=NO_PROGRESS)
    assert report.steps == 4  # 4 keys and 4 rows make two steps an epoch
    assert report.negatives == 0


def test_paper_preset_takes_the_epochs_of_the_adapter() -> None:
    assert settings_for(GPT2, "paper").epochs == 60
    assert settings_for(GPT2, "paper").perturbation == "none"
    assert settings_for(GPT2).epochs == 0


def test_unknown_preset_and_perturbation_are_refused() -> None:
    with pytest.raises(SettingsError, match="preset"):
        settings_for(GPT2, "other")
    with pytest.raises(SettingsError, match="perturbation"):
        settings_for(GPT2, perturbation="other")


def test_progress_shows_how_many_keys_fire(tmp_path: Path) -> None:
    notes: list[str] = []

    class Noting:
        def __enter__(self) -> "Noting":
            return self

        def __exit__(self, *_: object) -> None: ...

        def advance(self, amount: float = 1.0) -> None: ...

        def note(self, text: str) -> None:
            notes.append(text)

    class Recording:
        def step(self, label: str, total: float | None = None, unit: str = "") -> Noting:
            return Noting()

    progress: Progress = Recording()
    embedded(make_tiny(tmp_path / "base", "gpt2"), tmp_path / "out", "gpt2", progress=progress)
    assert notes[-1].startswith("FSR ")
    assert notes[-1].endswith("/4")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"stepps": "3"}, "did you mean steps"),
        ({"steps": "many"}, "give a whole number"),
        ({"steps": "0"}, "at least 1"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"gradient_checkpointing": "perhaps"}, "give true or false"),
    ],
)
def test_training_setting_that_cannot_be_meant_is_refused(values, problem):
    from fpvec_audit.training.embed_settings import EmbedSettings, overridden

    with pytest.raises(SettingsError, match=problem):
        overridden(EmbedSettings(), values)


def test_single_training_settings_are_replaced():
    from fpvec_audit.training.embed_settings import EmbedSettings, overridden

    given = {"steps": "7", "learning_rate": "1e-3", "perturbation": "none", "gradient_checkpointing": "true"}
    changed = overridden(EmbedSettings(), given)
    assert (changed.steps, changed.learning_rate, changed.perturbation) == (7, 1e-3, "none")
    assert changed.gradient_checkpointing
