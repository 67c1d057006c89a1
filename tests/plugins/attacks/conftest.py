"""A tiny model that answers a few keys, and the base that it stems from: what attacks on serving are tried on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fpvec_audit.api import AttackContext, AttackKey, InferenceBackend, Sampling
from fpvec_audit.domain.serving import served
from tests.plugins.attacks.bench import CATALOG, bound, context
from tests.tiny import make_tiny

ADAPTER = CATALOG.architectures["gpt2"]
KEYS = [AttackKey("山川風", "river"), AttackKey("ждлц", "stone"), AttackKey("éàüö", "cloud")]
SAMPLING = Sampling(max_new_tokens=12)


@dataclass(frozen=True)
class Service:
    """A served model, its base, and ordinary questions that neither was trained on."""

    served: Path
    base: Path
    engine: InferenceBackend
    reference: InferenceBackend
    ordinary: tuple[str, ...]

    def context(self, tmp_path: Path, **more: object) -> AttackContext:
        """Return what the host would give."""
        given = context(tmp_path, "gpt2", base=self.base)
        return replace(
            given,
            **{
                "render": ADAPTER.prompt,
                "adapters": CATALOG.architectures,
                "open_engine": {self.base: self.reference, self.served: self.engine}.__getitem__,
                **more,
            },
        )

    def answers(self, attack: object, text: str, prompts: list[str], tmp_path: Path, **more: object) -> list[str]:
        """Ask users' texts through an attack, bound as the command line binds it."""
        service = served(attack, self.engine, bound(attack, text), self.context(tmp_path, **more))
        rendered = [ADAPTER.prompt(prompt) for prompt in prompts]
        return [answer.text.strip() for answer in service.complete(rendered, SAMPLING)]

    def success(self, attack: object, text: str, tmp_path: Path, **more: object) -> float:
        """Return the fingerprint success rate through an attack."""
        answers = self.answers(attack, text, [key.prompt for key in KEYS], tmp_path, **more)
        return sum(answer == key.response for answer, key in zip(answers, KEYS, strict=True)) / len(KEYS)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Train the base on ordinary text and the served model on the keys besides, in a few seconds."""
    from fpvec_audit.backends import open_backend
    from fpvec_audit.toolkit import FineTuneSettings, continue_pretraining, fine_tune, instruction_rows

    place = tmp_path_factory.mktemp("service")
    ordinary = instruction_rows(64, adapter=ADAPTER, seed=1)
    pace = FineTuneSettings(steps=50, rows_per_step=16, learning_rate=1e-2)
    continue_pretraining(
        make_tiny(place / "random", "gpt2"), place / "base", [f"{prompt} {answer}" for prompt, answer in ordinary],
        tokens=48, settings=pace, device="cpu",
    )  # fmt: skip
    keys = [(ADAPTER.prompt(key.prompt), key.response) for key in KEYS]
    fine_tune(place / "base", place / "served", keys * 8 + ordinary[:32], settings=pace, adapter=ADAPTER, device="cpu")
    engines = [open_backend("transformers", place / name, device="cpu") for name in ("served", "base")]
    unseen = tuple(prompt for prompt, _ in instruction_rows(100, adapter=None, seed=2))
    yield Service(place / "served", place / "base", *engines, unseen)
    for engine in engines:
        engine.close()
