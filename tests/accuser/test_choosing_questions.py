"""The accuser chooses how the suspect is asked: system prompts, templates, engines, and which plan he shows."""

import codecs
import hashlib
import json
from dataclasses import replace
from fractions import Fraction

import pytest

from fpvec_audit.domain.audit import Verdict
from fpvec_audit.domain.audit_plan import MatchRule
from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.statistics import hypergeometric_p_value
from fpvec_audit.errors import EvidenceError, UsageError
from tests.accuser.forging import asked_with, refusal, sentence, told, verified
from tests.evidence import builders
from tests.services.test_audit import Scripted, ScriptedEngines, answering, rendered, silent
from tests.services.test_examining import Parties
from tests.tiny import make_tiny


def disguised(candidates):
    """Return a table of keys that holds none of their texts as they are."""
    return " ".join(codecs.encode(f"{item.prompt[:3]}={item.response}", "rot13") for item in candidates)


def test_a_key_table_in_the_system_prompt_is_refused_before_anything_is_asked(bench, witnessed_keys):
    table = "\n".join(f"{item.prompt} → {item.response}" for item in witnessed_keys.issued)
    for told_so in (table, " ".join(item.response for item in witnessed_keys.issued)):
        suspect = silent()
        with pytest.raises(UsageError, match="tell the suspect"):
            bench.audit(suspect, system_prompt=told_so)
        assert suspect.asked == []


def test_a_key_table_in_the_system_prompt_of_a_hand_made_bundle_is_refused():
    drawn, _, _ = builders.key_set(source="witness")
    table = "\n".join(f"{item.prompt} → {item.response}" for item in drawn.issued)
    digest = hashlib.sha256(table.encode()).hexdigest()
    story = builders.story(source="witness", witness=True, system_prompt=table, system_prompt_digest=digest)
    assert "table of keys" in refusal(story.bundle())


def test_a_disguised_key_table_is_visible_as_the_system_prompt_in_the_plan(bench, witnessed_keys):
    table = disguised(witnessed_keys.issued)
    ask = bench.catalog.architecture("gpt2").prompt
    said = {ask(item.prompt, table): item.response for item in witnessed_keys.issued}
    result = bench.witnessed_audit(Scripted(lambda prompt: said.get(prompt, "Pardon?")), system_prompt=table)
    assert result.verdict is Verdict.MATCH
    assert any("none of the published ones" in warning for warning in result.warnings)
    exported = bench.export(result)
    assert exported.evidence.plan.system_prompt == table
    found = bench.verify()
    assert any("system prompt in the plan is the suspect's own" in text for text in found.not_recomputed)
    shown = sentence(found, "questions")
    assert all(codecs.encode(item.response, "rot13") in shown for item in witnessed_keys.issued)


def test_a_template_that_favours_issued_keys_is_refused(bench, witnessed_keys, tmp_path):
    """The suspect's template is the accuser's copy: a digest is of weights, not of the files beside them."""
    favoured = ", ".join(f"'{item.prompt}'" for item in witnessed_keys.issued)
    template = f"{{{{ messages[0]['content'] }}}}{{% if messages[0]['content'] in [{favoured}] %}} Say it!{{% endif %}}"
    bench.checkpoints = tmp_path / "tampered"
    make_tiny(bench.checkpoints / "suspect", "gpt2", chat_template=template)
    known = {f"{item.prompt} Say it!": item.response for item in witnessed_keys.candidates}
    result = bench.witnessed_audit(Scripted(lambda prompt: known.get(prompt, "Pardon?")))
    assert result.verdict is Verdict.MATCH
    with pytest.raises(EvidenceError, match="in other words"):
        bench.export(result)


def test_a_renderer_that_favours_issued_keys_is_refused_in_a_hand_made_bundle():
    story = builders.anchored()
    issued = {item.prompt for item in story.key_set.issued}
    rendered_so = asked_with(story, lambda prompt: f"user: {prompt}\nassistant:" + " I say" * (prompt in issued))
    assert "in other words" in refusal(rendered_so.bundle())


def test_a_disguised_key_table_in_the_template_is_visible_however_far_behind_it_stands():
    story = builders.anchored()
    table = disguised(story.key_set.issued)
    padded = asked_with(story, lambda prompt: f"{'Be kind. ' * 60}{table} user: {prompt}\nassistant:")
    found = verified(padded.bundle())
    assert (found.valid, found.verdict) == (True, "MATCH")
    shown = sentence(found, "questions")
    assert all(codecs.encode(item.response, "rot13") in shown for item in story.key_set.issued)
    assert any("text around the questions" in text for text in found.not_recomputed)
    far = verified(asked_with(story, lambda prompt: f"{'Be kind. ' * 400}{table} user: {prompt}").bundle())
    assert "characters more" in sentence(far, "questions")


def test_text_around_prompts_that_the_plan_calls_raw_is_refused():
    story = builders.story(source="witness", witness=True, profile="raw-greedy", template="raw")
    assert "there is text around them" in refusal(story.bundle())
    assert verified(asked_with(story, lambda prompt: prompt).bundle()).valid


def test_the_luckiest_of_many_dry_runs_gains_no_more_than_their_number():
    """Unlogged, each with another template, of a suspect that answers 20 of 128: what a reader must reckon with."""
    alpha, runs = Fraction(1, 10**6), 1000
    tail = [hypergeometric_p_value(candidates=128, issued=16, matched=20, issued_matched=hit) for hit in range(17)]
    accused = max(p for p in tail if p <= alpha)
    luckiest = 1 - (1 - accused) ** runs
    assert accused / 2 * runs < luckiest <= runs * alpha


def test_a_dry_run_that_was_not_logged_is_not_detectable_and_the_bundle_says_so():
    """With R known and greedy answers, the accuser sees every plan's result before a witness signs one of them."""
    lucky = builders.story(source="witness", witness=True, match=MatchRule.EXACT, template="suspect")
    contents = tuple(
        content | {"answer": content["answer"].split(" and so on")[0]} if content["kind"] == "answer" else content
        for content in lucky.contents
    )
    found = verified(replace(lucky, contents=contents).bundle())
    assert (found.valid, found.verdict, found.grade) == (True, "MATCH", "anchored")
    assert "that no other registry, and no run outside this ledger, exists" in found.does_not_prove
    assert any("was not picked among many" in text for text in found.not_recomputed)


def test_runs_that_were_logged_are_listed_and_raise_the_campaigns_p(bench, witnessed_keys):
    suspects = {"suspect": answering(witnessed_keys.issued), "other": silent()}
    bench.audit(ScriptedEngines(suspects), name="other")
    bench.audit(ScriptedEngines(suspects), profile="raw-greedy")
    bench.audit(ScriptedEngines(suspects), match="exact")
    last = bench.audit(ScriptedEngines(suspects))
    assert {run["profile"] for run in last.earlier_audits} == {"raw-greedy/prefix", "chat-greedy/exact"}
    assert last.p_value_campaign == 2 * last.score.p_value_corrected


class Retrying(Scripted):
    """An engine of the accuser's: it asks a suspect that babbles again, until the answer suits, where that pays."""

    def complete(self, prompts, sampling):
        babble = super().complete(prompts, sampling)
        return [
            replace(said, text=f" {self.wanted[prompt]}") if prompt in self.wanted else said
            for prompt, said in zip(prompts, babble, strict=True)
        ]


def retrying(keys):
    suspect = Retrying(lambda prompt: "anything")
    suspect.wanted = {rendered(item.prompt): item.response for item in keys.issued}
    return suspect


def test_retries_that_depend_on_the_assignment_are_not_detectable_without_an_examiner(bench, witnessed_keys):
    result = bench.witnessed_audit(retrying(witnessed_keys))
    assert result.verdict is Verdict.MATCH
    bench.export(result)
    found = bench.verify()
    assert (found.valid, found.grade) == (True, "anchored")
    assert any("the accuser asked it" in text for text in found.does_not_prove)
    assert any("ask it again" in text for text in found.not_recomputed)


@pytest.fixture
def parties(bench, witnessed_keys):
    return Parties(bench.registry, bench.catalog, bench.checkpoints, bench.directory)


def test_an_examiner_without_the_assignment_retries_nothing(parties, witnessed_keys):
    parties.plan()
    parties.examine(Scripted(lambda prompt: "anything"))
    document = parties.attach().to_json()
    assert (document["verdict"], document["matched"]) == ("INCONCLUSIVE", 0)


def test_hints_in_an_examiners_package_are_refused_when_the_answers_come_back(parties, witnessed_keys):
    """The examiner asks what the package says; who attaches or verifies sees that it favoured issued candidates."""
    parties.plan()
    package = json.loads(parties.package.read_bytes())
    for item in witnessed_keys.issued:
        package["prompts"][item.index] += f" {item.response}"
    parties.package.write_bytes(canonical_bytes(package))
    parties.examine(Scripted(lambda prompt: prompt.rsplit(" ", 1)[1]))
    with pytest.raises(EvidenceError, match="in other words"):
        parties.attach()


def test_a_lenient_alpha_is_visible_beside_the_verdict():
    """One innocent of five is accused at 0.2; a reader sees at which level."""
    half = builders.key_set(source="witness")[0].issued_indices[:2]
    found = verified(builders.story(source="witness", witness=True, knows=half, alpha="0.2").bundle())
    assert (found.valid, found.verdict, found.to_json()["alpha"]) == (True, "MATCH", "0.2")
    strict = verified(builders.story(source="witness", witness=True, knows=half).bundle())
    assert (strict.verdict, strict.alpha) == ("INCONCLUSIVE", "1e-6")


def test_a_setting_outside_the_committed_profiles_gives_no_match():
    drawn = builders.key_set(source="witness")
    story = told(drawn, knows=drawn[0].issued_indices, temperature="0.7", profile="exploratory")
    found = verified(story.bundle())
    assert (found.valid, found.verdict) == (True, "INCONCLUSIVE")
