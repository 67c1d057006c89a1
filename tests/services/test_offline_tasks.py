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


def test_passages_are_of_held_out_documents_and_ask_every_word_once():
    passages = offline_passages()
    assert len(set(passages)) == len(passages) >= 2000
    trained = set(split_documents(standard_library_documents())[0])
    held_out = "\n".join(split_documents(standard_library_documents())[1])
    for text, word in passages[:50]:
        assert f"{text} {word}" in held_out
        assert not any(f"{text} {word}" in document for document in trained)


def test_items_are_the_same_every_time():
    first = offline_questions(), offline_passages()
    offline_questions.cache_clear()
    offline_passages.cache_clear()
    assert (offline_questions(), offline_passages()) == first
