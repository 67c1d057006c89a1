"""How one chain of attacks is carried out: weights first, one copy after the other, then what is asked of the last.

Attacks never see more than they need: weight attacks no keys, guessing attacks the issued keys so that none of them is
asked. Whatever a plugin raises becomes a PluginError of that plugin. Copies are removed when their cell ends.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.catalog import plugin_code
from fpvec_audit.domain.attack_spec import AttackChain, AttackLink
from fpvec_audit.domain.audit import MatchRule
from fpvec_audit.domain.chance import shuffled
from fpvec_audit.domain.keys import KeySet
from fpvec_audit.domain.plugins import ATTACK
from fpvec_audit.domain.ports import (
    ArchitectureAdapter,
    AttackContext,
    AttackKey,
    Completion,
    InferenceBackend,
    Probe,
    QueryAttack,
    Sampling,
    WeightAttack,
)
from fpvec_audit.domain.robustness import AttackOutcome, grouped, triggers
from fpvec_audit.domain.serving import served
from fpvec_audit.domain.statistics import clopper_pearson, hypergeometric_p_value
from fpvec_audit.errors import BackendError, EvaluationError, PluginError
from fpvec_audit.progress import Progress
from fpvec_audit.services.audit_result import as_float
from fpvec_audit.services.collecting import PROMPTS_AT_ONCE
from fpvec_audit.services.keys import open_key_set
from fpvec_audit.services.rendering import EXPLORATORY
from fpvec_audit.services.serving import (
    OtherEngines,
    Question,
    beginning_of_text,
    portions,
    probe_questions,
    service_template,
)
from fpvec_audit.services.subjects import answer_length

if TYPE_CHECKING:
    from fpvec_audit.backends import Engines
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry

Audit = Callable[[Path], Mapping[str, Any]]
"""Checkpoint directory → audit document."""

Utility = Callable[[Path], Mapping[str, float]]
"""Checkpoint directory → measure → value: what the model is still worth to whoever uses it."""


@dataclass(slots=True, kw_only=True)
class AttackBench:
    """Everything that carrying out a chain needs.

    Attributes:
        stamped: directory of the stamped model.
        stamped_digest: its model id.
        key_set: id.
        registry: where audits are.
        catalog: plugins.
        adapter: architecture of the stamped model, None when unknown.
        engines: what answers.
        device: torch device of the attacks.
        seed: all randomness derives from it.
        staging: private directory for attacked copies.
        progress: where to report.
        audit: audits a checkpoint.
        utility: measures what a checkpoint is still worth.
        base: base that the stamped model stems from, None where it is not at hand.
        copies: other stamped copies of the same downstream model.
    """

    stamped: Path
    stamped_digest: str
    key_set: str
    registry: "Registry"
    catalog: "Catalog"
    adapter: ArchitectureAdapter | None
    engines: "Engines"
    device: str
    seed: int
    staging: Path
    progress: Progress
    audit: Audit
    utility: Utility
    base: Path | None = None
    copies: tuple[Path, ...] = ()
    _fsr_before: float | None = field(default=None, init=False)
    _utility_before: Mapping[str, float] | None = field(default=None, init=False)

    def carry_out(self, chain: AttackChain) -> tuple[AttackOutcome, str]:
        """Carry out a chain and return what was measured, with a remark where something could not be.

        Raises:
            FpvecError: an attack, the engine or the audit failed.
        """
        place = Path(tempfile.mkdtemp(dir=self.staging))
        try:
            attacked = self._attack_weights(chain, place)
            outcome = self._ask(chain, attacked, place)
            if attacked == self.stamped:
                return outcome, ""
            return self._with_utility(outcome, attacked)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _attack_weights(self, chain: AttackChain, place: Path) -> Path:
        """Apply the weight attacks in order and return the last copy; the stamped model itself where there is none."""
        current = self.stamped
        for number, link in enumerate(chain.links):
            attack = self.catalog.attack(link.name)
            if not isinstance(attack, WeightAttack):
                continue
            target = place / f"{number}-{link.name}"
            with plugin_code(self.catalog.info(ATTACK, link.name)):
                attack.apply(current, target, link.parameters, self.context(place / f"{number}-work"))
            if not (target / "config.json").is_file():
                raise PluginError(f"attack {link.name} wrote no checkpoint", advice="see docs/plugins.md")
            if current != self.stamped:
                shutil.rmtree(current)
            current = target
        return current

    def _ask(self, chain: AttackChain, attacked: Path, place: Path) -> AttackOutcome:
        queries = [
            (number, link, attack)
            for number, link in enumerate(chain.links)
            if isinstance(attack := self.catalog.attack(link.name), QueryAttack)
        ]
        if not queries:
            return self._audited(attacked)
        keys = open_key_set(self.key_set, registry=self.registry, purpose=f"attack {chain.name}")
        issued = tuple(AttackKey(key.prompt, key.response) for key in keys.issued)
        probes: list[Probe] = []
        for number, link, attack in queries:
            with plugin_code(self.catalog.info(ATTACK, link.name)):
                probes += _checked(attack.probes(issued, link.parameters, self.context(place / f"{number}-work")), link)
        service = _AttackedService(self, attacked, [(link, attack) for _, link, attack in queries], keys, place)
        return service.guesses(probes) if probes else service.keys_asked(self._before())

    def _audited(self, attacked: Path) -> AttackOutcome:
        before = self._before()
        document = self.audit(attacked)
        low, high = document["interval"]
        return AttackOutcome(
            fsr_before=before,
            fsr_after=document["fsr"],
            interval=(low, high),
            p_value=document["p_value"],
            tests=tuple(document["tests"]),
            verdict=document["verdict"],
            queries=document["queries"],
        )

    def _before(self) -> float:
        """Return the stamped model's FSR: of its latest audit with this key set, or of a fresh one."""
        if self._fsr_before is None:
            with self.registry.unit_of_work() as uow:
                audits = uow.audits.of_suspect(self.stamped_digest, key_set=self.key_set)
            known = [
                audit.result["fsr"]
                for audit in audits
                if audit.ended_at is not None and audit.plan.get("profile") != EXPLORATORY
            ]
            self._fsr_before = known[-1] if known else self.audit(self.stamped)["fsr"]
        return self._fsr_before

    def _with_utility(self, outcome: AttackOutcome, attacked: Path) -> tuple[AttackOutcome, str]:
        """Add what the attack cost; a copy too broken to be measured is worth a remark, not a failed cell."""
        if self._utility_before is None:
            self._utility_before = self.utility(self.stamped)
        try:
            after = self.utility(attacked)
        except EvaluationError as error:
            return replace(outcome, utility_before=self._utility_before), f"utility was not measured: {error}"
        return replace(outcome, utility_before=self._utility_before, utility_after=after), ""

    def context(self, staging: Path) -> AttackContext:
        """Return what an attack gets, with an empty directory for its own files."""
        staging.mkdir()
        return AttackContext(self.adapter, staging, self.seed, self.device, self.progress, self.base, self.copies)


class _AttackedService:
    """A model as a stranger meets it: served through the query attacks of a chain."""

    def __init__(
        self,
        bench: AttackBench,
        model: Path,
        attacks: Sequence[tuple[AttackLink, QueryAttack]],
        keys: KeySet,
        staging: Path,
    ) -> None:
        from fpvec_audit.backends.prompts import load_tokenizer

        tokenizer = load_tokenizer(model)
        self._sampling = Sampling(max_new_tokens=answer_length([keys], tokenizer))
        self._template = service_template(tokenizer, bench.adapter)
        self._beginning = beginning_of_text(tokenizer)
        self._bench, self._model, self._attacks, self._keys, self._staging = bench, model, attacks, keys, staging

    def guesses(self, probes: Sequence[Probe]) -> AttackOutcome:
        """Ask guesses and count those that draw any issued response; the rate is that of a stranger's guesses."""
        questions = probe_questions(
            probes, render=self._render, beginning=self._beginning, sampling=self._sampling, seed=self._bench.seed
        )
        answers = self._complete(questions, "guess")
        issued = [key.response for key in self._keys.issued]
        hits = [
            (probe.kind, triggers(probe.forced + answer, issued)) for probe, answer in zip(probes, answers, strict=True)
        ]
        guessed = [hit for probe, (_, hit) in zip(probes, hits, strict=True) if not probe.needs_key]
        counted = guessed or [hit for _, hit in hits]
        return AttackOutcome(
            fsr_after=sum(counted) / len(counted),
            interval=clopper_pearson(sum(counted), len(counted)),
            groups=grouped(hits),
            queries=len(hits),
        )

    def keys_asked(self, fsr_before: float) -> AttackOutcome:
        """Ask all candidates in an order that does not follow from the assignment, and test as an audit does."""
        order = shuffled(len(self._keys.candidates), f"attack {self._bench.seed}".encode())
        candidates = [self._keys.candidates[index] for index in order]
        questions = [Question(self._render(candidate.prompt), self._sampling) for candidate in candidates]
        answers = self._complete(questions, "ask all candidates")
        matched = {
            candidate.index
            for candidate, answer in zip(candidates, answers, strict=True)
            if MatchRule.PREFIX.matches(answer, candidate.response)
        }
        issued = self._keys.issued_indices
        hits = len(matched.intersection(issued))
        p_value = as_float(
            hypergeometric_p_value(
                candidates=len(candidates), issued=len(issued), matched=len(matched), issued_matched=hits
            )
        )
        return AttackOutcome(
            fsr_before=fsr_before,
            fsr_after=hits / len(issued),
            interval=clopper_pearson(hits, len(issued)),
            p_value=p_value,
            tests=({"name": "exact", "statistic": f"{hits} of {len(issued)} issued", "p_value": p_value},),
            queries=len(candidates),
        )

    def _render(self, prompt: str) -> str:
        return prompt if self._template is None else self._template(prompt, "")

    def _complete(self, questions: Sequence[Question], label: str) -> list[str]:
        bench = self._bench
        with bench.progress.step(f"load {self._model.name}"):
            engine = bench.engines.open(self._model)
        try:
            answers: list[str] = []
            with OtherEngines(bench.engines) as others, bench.progress.step(label, len(questions), "prompts") as step:
                service = self._wrapped(engine, others)
                for asked, sampling, raw in portions(questions, PROMPTS_AT_ONCE):
                    answers += self._answered(engine if raw else service, asked, sampling)
                    step.advance(len(asked))
            return answers
        finally:
            engine.close()

    def _wrapped(self, engine: InferenceBackend, others: OtherEngines) -> InferenceBackend:
        for number, (link, attack) in enumerate(self._attacks):
            context = replace(
                self._bench.context(self._staging / f"{number}-serving"),
                render=self._template,
                adapters=self._bench.catalog.architectures,
                open_engine=others.open,
            )
            with plugin_code(self._bench.catalog.info(ATTACK, link.name)):
                engine = served(attack, engine, link.parameters, context)
        return engine

    def _answered(self, service: InferenceBackend, asked: Sequence[str], sampling: Sampling) -> list[str]:
        """Return the answers' texts; one that failed is an answer without text, as in an audit."""
        link, _ = self._attacks[-1]
        with plugin_code(self._bench.catalog.info(ATTACK, link.name)):
            completions: Sequence[Completion] = service.complete(asked, sampling)
        if len(completions) != len(asked):
            raise BackendError(f"attack {link.name}: {len(completions)} answers came to {len(asked)} prompts")
        return ["" if completion.error else completion.text for completion in completions]


def _checked(probes: Any, link: AttackLink) -> list[Probe]:
    found = list(probes)
    if not all(isinstance(probe, Probe) for probe in found):
        raise PluginError(f"attack {link.name} gave probes that are no Probe", advice="see docs/plugins.md")
    return found
