import sys

import pytest

from fpvec_audit.domain.harmlessness import QuestionTask
from fpvec_audit.errors import EvaluationError
from fpvec_audit.services.harmlessness import evaluate, measure_harm
from fpvec_audit.testing import RecordingProgress
from tests.tiny import make_tiny

QUESTIONS = QuestionTask("own", tuple((f"Human: say {number}\nAssistant:", str(number)) for number in range(5)))
DOCUMENTS = ("some text that is scored", "and some more of it")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("harm") / "gpt2", "gpt2")


def test_same_model_on_both_sides_shows_no_difference(model):
    harm = measure_harm(model, model, tasks=[QUESTIONS], documents=DOCUMENTS)
    assert harm.perplexity_ratio == 1.0
    assert harm.tasks[0].difference == 0.0
    assert harm.tasks[0].items == 5
    assert harm.before.perplexity > 1.0


def test_an_answer_is_right_when_it_is_exactly_the_models_own(model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model)
    prompt = QUESTIONS.questions[0][0]
    tokens = tokenizer(prompt, return_tensors="pt")
    made = network.generate(**tokens, max_new_tokens=16, do_sample=False, pad_token_id=0)[
        0, tokens.input_ids.shape[1] :
    ]
    text = tokenizer.decode(made, skip_special_tokens=True).split("\n")[0].strip()
    task = QuestionTask("echo", ((prompt, text), (prompt, text + "!")))
    assert evaluate(model, tasks=[task], documents=()).correct["echo"] == (True, False)


def test_libraries_keep_quiet_and_progress_is_reported(model, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # outside a repository, where git would complain
    progress = RecordingProgress()
    evaluate(model, tasks=[QUESTIONS], documents=DOCUMENTS, progress=progress)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
    assert any("evaluate" in label for label in progress.labels)


def test_a_task_without_items_is_refused(model):
    with pytest.raises(EvaluationError, match="task 'empty' has no items"):
        evaluate(model, tasks=[QuestionTask("empty", ())], documents=())


def test_a_directory_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(EvaluationError, match="cannot be loaded"):
        evaluate(tmp_path, tasks=[QUESTIONS], documents=())


def test_streams_are_given_back(model):
    before = (sys.stdout, sys.stderr)
    evaluate(model, tasks=[QUESTIONS], documents=())
    assert (sys.stdout, sys.stderr) == before
