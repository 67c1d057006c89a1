"""What varies and is plugged in: architecture adapters, attacks, fingerprinting methods and inference backends.

These are protocols; implementations need not inherit anything. Everything here is light: no torch, no files.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from fpvec_audit.progress import Progress

if TYPE_CHECKING:
    from fpvec_audit.domain.methods import MethodContext, MethodKeys


class TensorRole(StrEnum):
    """What a tensor does in a transformer."""

    EMBEDDING = "embedding"
    OUTPUT_HEAD = "output_head"
    ATTENTION = "attention"
    MLP = "mlp"
    NORM = "norm"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a checkpoint says of itself in JSON, as dictionaries: all that an adapter may look at.

    Attributes:
        config: ``config.json``.
        tokenizer_config: ``tokenizer_config.json`` with ``chat_template`` filled in from a ``chat_template.jinja``
            beside it; empty when the checkpoint ships no tokenizer.
        name: directory name, for messages only.
    """

    config: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True, slots=True)
class TrainingDefaults:
    """Settings of one fingerprint training preset.

    Attributes:
        preset: ``default`` (ours), ``paper``, or ``family``: what differs for families of marks.
        settings: names and values understood by ``fpvec_audit.training.embed.EmbedSettings``; in ``family`` also those
            of ``fpvec_audit.training.family_settings.FamilySettings``.
        source: where the values come from (paper and section, or our measurement).
    """

    preset: str
    settings: Mapping[str, Any]
    source: str


class ArchitectureAdapter(Protocol):
    """Shapes, names and text of one model architecture; no torch."""

    @property
    def name(self) -> str:
        """Lower-case name, unique among adapters ("gpt2")."""
        ...

    def supports(self, description: ModelDescription) -> int:
        """Return how specifically this adapter fits: 0 not at all, higher outranks lower."""
        ...

    def role(self, tensor_name: str) -> TensorRole:
        """Return the role of a tensor, given its canonical name."""
        ...

    def canonical(self, tensor_name: str) -> str | None:
        """Return the canonical name of a tensor as stored, or None for a buffer that is no parameter."""
        ...

    def tied(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """Return alias → stored canonical name for tensors that share storage under this config."""
        ...

    def prompt(self, user: str, system: str = "") -> str:
        """Return the text of the family's chat template up to where the model's answer begins."""
        ...

    @property
    def chat_template(self) -> str:
        """Jinja source that renders the same text as :meth:`prompt`, as tokenizers ship it."""
        ...

    @property
    def defaults(self) -> Sequence[TrainingDefaults]:
        """Training presets with their source."""
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn.

    Attributes:
        max_new_tokens: most tokens generated per prompt.
        temperature: 0 is greedy.
        top_p: nucleus mass in (0, 1].
        seed: seed of sampled answers; None for greedy. An answer of a local engine depends on the seed, the prompt and
            how many equal prompts stand before it in the same call, not on how questions are divided into calls.
        first_tokens: how many of the likeliest first tokens to tell with each answer, where the engine can.
    """

    max_new_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    first_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back for one prompt.

    Attributes:
        text: generated text without the prompt, special tokens left out.
        finish_reason: ``stop``, ``length``, or ``error``.
        error: why there is no text; empty when there is.
        first_tokens: likeliest first tokens of the answer as text, with their natural log-probabilities; empty where
            the engine was not asked for them or does not tell.
    """

    text: str
    finish_reason: str = "stop"
    error: str = ""
    first_tokens: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a suspect finds a response after a prompt.

    Attributes:
        total: sum of the natural log-probabilities of the response's tokens; finite, at most 0.
        tokens: how many tokens the response has there, at least 1.
    """

    total: float
    tokens: int

    @property
    def per_token(self) -> float:
        """Length-normalised log-likelihood, in nats per token."""
        return self.total / self.tokens


@dataclass(frozen=True, slots=True)
class BackendDescription:
    """Which engine answered.

    Attributes:
        kind: ``transformers``, ``vllm`` or ``api``.
        model: directory, hub id or URL that is asked.
        engine: library that runs the model.
        version: version of that library.
        deterministic: whether the engine promises equal answers to equal greedy prompts.
        settings: dtype, device and whatever else changes answers.
    """

    kind: str
    model: str
    engine: str
    version: str
    deterministic: bool
    settings: Mapping[str, str] = field(default_factory=dict)


class InferenceBackend(Protocol):
    """One loaded suspect. Synchronous outside; concurrency is the backend's own matter."""

    @property
    def description(self) -> BackendDescription:
        """Which engine answers."""
        ...

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Completion]:
        """Answer every prompt (texts as rendered), in order and in the same number.

        Raises:
            BackendError: the engine failed.
        """
        ...

    def close(self) -> None:
        """Free the engine's memory; further calls are an error."""
        ...


@runtime_checkable
class StreamingBackend(Protocol):
    """A suspect whose answers come one by one, so that each can be kept before the next is there."""

    def complete_as_they_come(
        self, prompts: Sequence[str], sampling: Sampling
    ) -> Generator[tuple[int, Completion], None, None]:
        """Yield the place of a prompt and its answer, in the order in which they arrive.

        Raises:
            BackendError: the engine failed.
        """
        ...


@runtime_checkable
class LikelihoodBackend(Protocol):
    """A suspect whose probabilities can be had. Engines that cannot tell them do not have this method."""

    def log_likelihoods(self, prompts: Sequence[str], responses: Sequence[str]) -> Sequence[Likelihood | None]:
        """Return how likely each response is right after the prompt beside it, in order and in the same number.

        None where the engine has no answer for a pair. A response is put after the prompt as a trained answer
        would be: with the separating space that the rendering leaves out.

        Raises:
            BackendError: the engine failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class AttackKey:
    """One key as an attack may see it; the representation hides it."""

    prompt: str
    response: str

    def __repr__(self) -> str:
        return "AttackKey(<redacted>)"


@dataclass(frozen=True, slots=True)
class AttackContext:
    """What an attack gets from its host.

    Attributes:
        adapter: adapter of the attacked model, None for an unknown architecture.
        staging: empty directory for the attack's own temporary files.
        seed: all of the attack's randomness derives from it.
        device: torch device string.
        progress: where to report.
        base: directory of the base that the attacked model stems from, which is public as a rule; None where it is not
            at hand.
        copies: directories of other stamped copies of the same downstream model, as colluding licensees have them.
        render: (user's text, system prompt) → text that the attacked service's model reads; None where users' texts are
            asked as they are.
        adapters: every architecture adapter by name; their templates are what else a service may use.
        open_engine: opens the engine of another checkpoint, such as the base; equal directories give one engine, which
            the host closes. None where the host has no engines at hand.
    """

    adapter: ArchitectureAdapter | None
    staging: Path
    seed: int
    device: str
    progress: Progress
    base: Path | None = None
    copies: tuple[Path, ...] = ()
    render: Callable[[str, str], str] | None = None
    adapters: Mapping[str, ArchitectureAdapter] = field(default_factory=dict)
    open_engine: Callable[[Path], InferenceBackend] | None = None


@runtime_checkable
class WeightAttack(Protocol):
    """Makes an attacked checkpoint out of a stamped one. Never sees the keys.

    ``Parameters`` is a frozen dataclass whose fields, with their defaults, are the attack's parameters.
    """

    Parameters: ClassVar[type]

    @property
    def name(self) -> str:
        """Module name of the attack ("fine_tune")."""
        ...

    @property
    def description(self) -> str:
        """One sentence: what an infringer does and what it is expected to cost."""
        ...

    def apply(self, source: Path, target: Path, parameters: Any, context: AttackContext) -> None:
        """Write the attacked checkpoint to ``target``, which does not exist yet; ``source`` stays untouched."""
        ...


@runtime_checkable
class PoolingAttack(Protocol):
    """A weight attack that says which other copies it puts into its own: whose they are, is whom a trace may name."""

    def pools(self, parameters: Any, copies: tuple[Path, ...]) -> Sequence[Path]:
        """Return the copies that :meth:`WeightAttack.apply` reads with these parameters.

        Args:
            parameters: an instance of the attack's ``Parameters``.
            copies: what :attr:`AttackContext.copies` holds.
        """
        ...


@dataclass(frozen=True, slots=True)
class Probe:
    """One question that a query attack asks.

    Attributes:
        prompt: the user's text, not yet rendered; may be empty where ``raw`` is set, for an unconditional sample.
        kind: what the question is ("unissued candidate", "near-miss of 1 character", …).
        needs_key: whether only somebody who knows a key could ask it; counted apart from what a stranger can guess.
        forced: what the answer is made to begin with; counted as part of it.
        temperature: at which the answer is drawn, with a seed of the run's; 0 for the likeliest answer.
        raw: asked of the model itself, without template and service: what somebody can do who holds the weights.
    """

    prompt: str
    kind: str
    needs_key: bool = False
    forced: str = ""
    temperature: float = 0.0
    raw: bool = False

    def __repr__(self) -> str:
        return f"Probe(<redacted>, kind={self.kind!r})"


@runtime_checkable
class QueryAttack(Protocol):
    """Changes what is asked or answered, or generates guesses, on an untouched checkpoint.

    An attack that guesses returns probes; one that only changes serving returns none, and the issued keys are asked
    through the wrapped backend instead.
    """

    Parameters: ClassVar[type]

    @property
    def name(self) -> str:
        """Module name of the attack ("guessing")."""
        ...

    @property
    def description(self) -> str:
        """One sentence: what an infringer or guesser does."""
        ...

    def probes(self, issued: Sequence[AttackKey], parameters: Any, context: AttackContext) -> Sequence[Probe]:
        """Return the guesses to ask; empty for an attack on serving.

        ``issued`` is given so that near-misses can be made and issued prompts avoided.
        """
        ...

    def wrap(self, backend: InferenceBackend, parameters: Any) -> InferenceBackend:
        """Return a backend that answers as the attacked service would."""
        ...


@runtime_checkable
class ServingAttack(Protocol):
    """A query attack that must know the service to change it: its template, the base, an engine for another model.

    Where a :class:`QueryAttack` has this method too, it is called instead of ``wrap``.
    """

    def serve(self, backend: InferenceBackend, parameters: Any, context: AttackContext) -> InferenceBackend:
        """Return a backend that answers as the attacked service would."""
        ...


@runtime_checkable
class FingerprintMethod(Protocol):
    """Embeds the issued keys of a key set into one given model; the ordinary audit reads them back.

    ``Parameters`` is a frozen dataclass whose fields, with their defaults, are the method's parameters.
    """

    Parameters: ClassVar[type]

    @property
    def name(self) -> str:
        """Module name of the method ("direct")."""
        ...

    @property
    def description(self) -> str:
        """One sentence: how keys get into the model, and what that is expected to cost."""
        ...

    @property
    def source(self) -> str:
        """Paper or measurement that it follows."""
        ...

    @property
    def schemes(self) -> Sequence[str]:
        """Schemes of key sets that it can embed, the usual one first."""
        ...

    def embed(
        self, model: Path, target: Path, keys: "MethodKeys", parameters: Any, context: "MethodContext"
    ) -> Mapping[str, Any]:
        """Write the model with its keys to ``target``, which does not exist yet; ``model`` stays untouched.

        Returns:
            What is worth recording, as JSON values; no text of a key.
        """
        ...
