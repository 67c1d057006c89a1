import random

import pytest

from fpvec_audit.training.ordinary import (
    CLOSED_KINDS,
    KINDS,
    MATHS_KINDS,
    TEXT_KINDS,
    draw_instruction,
    held_out_instructions,
    is_held_out,
    split_documents,
    standard_library_documents,
)


def test_questions_to_train_on_are_never_held_out() -> None:
    source = random.Random(0)
    drawn = [draw_instruction(source) for _ in range(3000)]
    assert {item.kind for item in drawn} == set(KINDS)
    assert not any(is_held_out(item.question) for item in drawn if item.kind not in CLOSED_KINDS)


@pytest.mark.parametrize("kinds", [MATHS_KINDS, TEXT_KINDS])
def test_enough_distinct_questions_are_held_out(kinds: tuple[str, ...]) -> None:
    questions = held_out_instructions(kinds, 450, seed=1)
    assert len({item.question for item in questions}) == 450
    assert all(is_held_out(item.question) for item in questions)
    assert {item.kind for item in questions} == set(kinds)


def test_equal_seeds_draw_equal_questions() -> None:
    assert held_out_instructions(MATHS_KINDS, 20, seed=4) == held_out_instructions(MATHS_KINDS, 20, seed=4)
    assert held_out_instructions(MATHS_KINDS, 20, seed=4) != held_out_instructions(MATHS_KINDS, 20, seed=5)


def test_closed_kinds_have_no_held_out_questions() -> None:
    with pytest.raises(ValueError, match="capital"):
        held_out_instructions(("capital",), 1, seed=0)


@pytest.mark.parametrize(
    ("kind", "question", "answer"),
    [
        ("add", "Add 300 and 45.", "345"),
        ("next", "Which number follows 99?", "100"),
        ("swap", "Swap the words: red fox", "fox red"),
        ("upper_case", "Write in capitals: red fox", "RED FOX"),
        ("last_letter", "Last letter of each: red fox", "d x"),
    ],
)
def test_answers_are_right(kind: str, question: str, answer: str) -> None:
    source = random.Random(0)
    answers = dict(KINDS[kind](source) for _ in range(20_000))
    assert answers[question] == answer


def test_documents_are_split_without_overlap() -> None:
    documents = standard_library_documents(most=300)
    trained, held_out = split_documents(documents)
    assert len(documents) == 300
    assert set(trained) | set(held_out) == set(documents)
    assert trained
    assert held_out
    assert not set(trained) & set(held_out)
