"""Comparisons of tiny random models on a directory of tasks that stands for a user's own."""

import json
import shutil
from types import SimpleNamespace

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.harm_report import HarmVerdict
from fpvec_audit.errors import BackendError, EvaluationError, UnknownNameError, UsageError
from fpvec_audit.services import harm_tasks, paired_asking
from fpvec_audit.services.harm_comparison import HarmSettings, compare_models
from fpvec_audit.services.lm_eval_models import WatchedModel
from fpvec_audit.testing import RecordingProgress
from tests.tiny import make_tiny, perturb, rewrite

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("harm")
    before = make_tiny(place / "before", "gpt2")
    perturb(before, place / "after", size=2e-3)
    tasks = place / "tasks"
    tasks.mkdir()
    for name in ("mine", "yours"):
        rows = [{"question": f"{name} {number}?", "answer": "yes" if number % 2 else "no"} for number in range(12)]
        (tasks / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        (tasks / f"{name}.yaml").write_text(TASK.format(name=name, rows=tasks / f"{name}.jsonl"), encoding="utf-8")
    return place


DOCUMENTS = ("a text of some length that both models read", "and one more", "and a third one, to be drawn from")


@pytest.fixture
def compare(place, registry, settings, monkeypatch):
    monkeypatch.setattr("fpvec_audit.training.ordinary.split_documents", lambda _documents: ((), DOCUMENTS))
    monkeypatch.setattr("fpvec_audit.training.ordinary.standard_library_documents", lambda: ())

    def compared(*tasks, before=place / "before", after=place / "after", backend="transformers", **options):
        logs = options.pop("logs", None)
        progress = options.pop("progress", RecordingProgress())
        chosen = HarmSettings(tasks=tuple(map(str, tasks)), text=options.pop("text", False), **options)
        return compare_models(
            before,
            after,
            registry=registry,
            catalog=load_catalog(),
            home=settings.home,
            settings=chosen,
            logs=logs,
            backend=backend,
            progress=progress,
        )

    return compared


def broken(source, target):
    """Write a model whose every weight is NaN."""
    return rewrite(source, target, lambda _name, tensor: tensor * float("nan"))


def test_a_directory_of_tasks_is_asked_and_every_answer_kept(compare, place, tmp_path, registry):
    progress = RecordingProgress()
    found = compare(place / "tasks", logs=tmp_path / "logs", text=True, progress=progress)
    assert [task.task for task in found.tasks] == ["mine", "yours"]
    assert all(task.items == 12 and task.method == "exact" for task in found.tasks)
    assert found.verdict is HarmVerdict.INCONCLUSIVE  # 12 items show nothing
    assert found.text.divergence > 0
    for side in ("before", "after"):
        lines = (tmp_path / "logs" / side / "mine.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 12
        assert json.loads(lines[0])["arguments"][0][0] == "mine 0?"
    assert json.loads((tmp_path / "logs" / "result.json").read_text(encoding="utf-8")) == found.to_json()
    assert {"mine, before", "yours, after"} <= set(progress.labels)
    with registry.unit_of_work() as uow:
        (job,) = uow.jobs.list()
    assert (job.kind, job.state.value, job.detail["before"]) == ("harmless", "succeeded", found.before.digest)


def test_logs_lie_in_the_home_if_nothing_else_is_said(compare, place, settings):
    found = compare(place / "tasks" / "mine.yaml")
    assert found.logs.startswith(str(settings.home / "harmless"))


def test_a_model_beside_itself_differs_nowhere(compare, place):
    found = compare(place / "tasks", after=place / "before", text=True)
    assert [task.loss for task in found.tasks] == [0.0, 0.0]
    assert found.text.divergence == 0.0
    assert found.text.ratio_interval == (1.0, 1.0)
    assert any("same weights" in warning for warning in found.warnings)


def test_limit_asks_the_first_items_only(compare, place):
    assert [task.items for task in compare(place / "tasks", limit=5).tasks] == [5, 5]


def test_a_name_that_means_nothing_is_left_out_with_the_nearest(compare, place, monkeypatch):
    from lm_eval.tasks import TaskManager

    known = TaskManager(include_path=str(place / "tasks"), include_defaults=False)
    monkeypatch.setattr(harm_tasks, "_all_tasks", lambda: known)
    found = compare("mime", "yours")
    assert [task.task for task in found.tasks] == ["yours"]
    assert "did you mean mine" in found.left_out[0].problem
    with pytest.raises(UnknownNameError, match=r"unknown task 'ofline'.*offline"):
        compare("ofline")


def test_a_data_set_that_cannot_be_fetched_costs_its_own_task_and_is_asked_for_once(compare, place, monkeypatch):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    offline = []

    def away(item):
        offline.append(bool(datasets.config.HF_HUB_OFFLINE))
        raise ConnectionError(f"Couldn't reach '{item.task}' on the Hub")

    monkeypatch.setattr(harm_tasks, "_from_folder", away)
    found = compare("paper", place / "tasks" / "mine.yaml")
    assert [task.task for task in found.tasks] == ["mine"]
    assert len(found.left_out) == 17
    assert "the hub is away" in found.left_out[0].problem
    assert offline == [False] + [True] * 16  # the first failure is enough: each would take half a minute
    assert not datasets.config.HF_HUB_OFFLINE
    assert found.verdict is not HarmVerdict.HARMLESS


def test_a_task_without_items_is_left_out(compare, place, tmp_path):
    tasks = tmp_path / "tasks"
    shutil.copytree(place / "tasks", tasks)
    (tasks / "filter.py").write_text("def none(rows):\n    return rows.select([])\n", encoding="utf-8")
    text = (tasks / "yours.yaml").read_text(encoding="utf-8").replace(str(place), str(tmp_path))
    (tasks / "yours.yaml").write_text(text + "process_docs: !function filter.none\n", encoding="utf-8")
    found = compare(tasks)
    assert [(item.task, "it has no items" in item.problem) for item in found.left_out] == [("yours", True)]


def test_a_directory_without_tasks_is_told(compare, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="holds no task"):
        compare(tmp_path / "empty")


def test_weights_that_are_not_numbers_are_told_and_leave_nothing_behind(compare, place, tmp_path):
    with pytest.raises(EvaluationError, match=r"after: .*NaN"):
        compare(place / "tasks", after=broken(place / "before", tmp_path / "nan"), logs=tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


def test_other_vocabularies_are_refused(compare, place, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(place / "after", other)
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 259, "content": "<more>"})
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(EvaluationError, match=r"different vocabularies: 259 and 260 tokens, .'<more>'."):
        compare(place / "tasks", after=other)


def test_two_number_formats_are_refused(compare, place, tmp_path):
    half = make_tiny(tmp_path / "half", "gpt2", dtype="bfloat16")
    with pytest.raises(EvaluationError, match=r"dtype float32.*dtype bfloat16"):
        compare(place / "tasks", after=half)


def test_where_vllm_cannot_run_the_first_model_both_are_asked_with_transformers(compare, place, monkeypatch):
    def unable(model, engines):
        raise BackendError("vLLM cannot run this")

    monkeypatch.setattr("fpvec_audit.backends.Engines.warm_up", lambda self: None)
    monkeypatch.setattr(paired_asking, "_serve_vllm", unable)
    found = compare(place / "tasks" / "mine.yaml", backend="auto")
    assert found.backend["engine"] == "transformers"
    assert any("vLLM cannot run this" in warning for warning in found.warnings)
    with pytest.raises(BackendError, match="vLLM cannot run this"):
        compare(place / "tasks" / "mine.yaml", backend="vllm")


def test_where_vllm_can_run_the_first_model_only_nothing_is_compared(compare, place, monkeypatch):
    def only_before(model, engines):
        if model.name == "after":
            raise BackendError("vLLM cannot run this")
        return paired_asking.serve_transformers(model)

    monkeypatch.setattr("fpvec_audit.backends.Engines.warm_up", lambda self: None)
    monkeypatch.setattr(paired_asking, "_serve_vllm", only_before)
    with pytest.raises(EvaluationError, match="two engines are not compared"):
        compare(place / "tasks" / "mine.yaml", backend="auto")


@pytest.mark.parametrize(
    ("options", "told"),
    [({"margin": 0.0}, "--margin 0"), ({"limit": 0}, "--limit 0"), ({"task_seconds": 0.0}, "--task-time 0")],
)
def test_settings_that_cannot_be_meant_are_refused(options, told):
    with pytest.raises(UsageError, match=told):
        HarmSettings(**options).checked()
    with pytest.raises(UsageError, match="no task"):
        HarmSettings(tasks=()).checked()


class Slow:
    """Answers every request with its length, and lets a clock run one second a request."""

    now = 0.0
    asked = ()

    def loglikelihood(self, requests):
        self.now += len(requests)
        self.asked = (*self.asked, len(requests))
        return [(-float(request), False) for request in requests]


def test_requests_are_asked_piece_by_piece_and_in_order():
    slow, step = Slow(), SimpleNamespace(advance=lambda amount: None)
    watched = WatchedModel(slow, step, timer=lambda: slow.now)
    assert [value for value, _ in watched.loglikelihood(range(200))] == [-float(number) for number in range(200)]
    assert len(slow.asked) > 2


def test_a_task_that_takes_too_long_ends_and_says_how_far_it_came():
    slow, step = Slow(), SimpleNamespace(advance=lambda amount: None)
    watched = WatchedModel(slow, step, limit=100, timer=lambda: slow.now)
    with pytest.raises(EvaluationError, match="not finished within 100 s: 128 of 200 requests"):
        watched.loglikelihood(range(200))
