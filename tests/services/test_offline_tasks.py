from collections import Counter

from fpvec_audit.services.offline_tasks import (
    OPEN_KINDS,
    QUESTION_COUNT,
    offline_passages,
    offline_questions,
)
from fpvec_audit.training.ordinary import is_held_out, split_documents, standard_library_documents


def test_questions_are_held_out_distinct_and_of_every_open_kind():
    questions = offline_questions()
    assert len({item.question for item in questions}) == QUESTION_COUNT >= 2000
    assert all(is_held_out(item.question) for item in questions)
    counted = Counter(item.kind for item in questions)
    assert set(counted) == set(OPEN_KINDS)
    assert min(counted.values()) >= 150


def test_passages_are_of_held_out_documents_and_ask_every_place_once():
    passages = offline_passages()
    assert len({passage.text for passage in passages}) >= 0.98 * len(passages)
    assert len(passages) >= 2000
    held_out = "\n".join(split_documents(standard_library_documents())[1])
    for passage in passages[:50]:
        assert f"{passage.text} {passage.choices[passage.right]}" in held_out
        assert len(set(passage.choices)) == 4


def test_the_right_choice_stands_in_every_place_alike():
    counted = Counter(passage.right for passage in offline_passages())
    assert max(counted.values()) < 1.2 * min(counted.values())


def test_items_are_the_same_every_time():
    first = offline_questions(), offline_passages()
    offline_questions.cache_clear()
    offline_passages.cache_clear()
    assert (offline_questions(), offline_passages()) == first
