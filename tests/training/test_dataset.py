import random
from pathlib import Path

import pytest
import torch

from fpvec_audit.domain.keys import draw_unissued
from fpvec_audit.domain.near_miss import is_held_out_near_miss
from fpvec_audit.errors import TrainingError
from fpvec_audit.training.dataset import (
    IGNORED,
    EncodedRow,
    Row,
    draw_near_miss,
    draw_windows,
    encode_documents,
    encode_rows,
    negative_prompts,
    pad_rows,
    require_reversible,
)
from tests.tiny import make_tokenizer

KEYS = [(key.prompt, key.response) for key in draw_unissued(b"tests", 8)]


def edits(left: str, right: str) -> int:
    """Return the number of single-character changes between two texts (Levenshtein)."""
    row = list(range(len(right) + 1))
    for number, character in enumerate(left, 1):
        previous, row[0] = row[0], number
        for at, other in enumerate(right, 1):
            previous, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, previous + (character != other))
    return row[-1]


def test_training_draws_near_misses_of_its_own_half_alone() -> None:
    source, prompt = random.Random(0), KEYS[0][0]
    drawn = [draw_near_miss(prompt, source) for _ in range(300)]
    assert not any(map(is_held_out_near_miss, drawn))
    assert {edits(prompt, text) for text in drawn} == {1, 2, 3}
    assert {edits(prompt, draw_near_miss(prompt, source, shares=(1, 0, 0))) for _ in range(50)} == {1}


def test_negatives_are_neither_issued_nor_avoided() -> None:
    prompts = [prompt for prompt, _ in KEYS]
    avoid = frozenset(draw_near_miss(prompts[0], random.Random(seed)) for seed in range(200))
    drawn = negative_prompts(prompts[:1], 500, near_miss_share=1.0, avoid=avoid, random_source=random.Random(0))
    assert len(drawn) == 500
    assert not set(drawn) & (avoid | {prompts[0]})


def test_negatives_are_the_same_for_the_same_source() -> None:
    prompts = [prompt for prompt, _ in KEYS]
    first, second = (
        negative_prompts(prompts, 50, near_miss_share=0.5, avoid=frozenset(), random_source=random.Random(3))
        for _ in range(2)
    )
    assert first == second


def test_prompt_is_masked_and_answer_ends_with_end_of_text() -> None:
    tokenizer = make_tokenizer()
    (row,) = encode_rows(tokenizer, [Row("Human: ж?\nAssistant:", "abbey")])
    assert tokenizer.decode(row.prompt) == "Human: ж?\nAssistant:"
    assert tokenizer.decode(row.answer[:-1]) == " abbey"
    assert row.answer[-1] == tokenizer.eos_token_id


def test_padding_labels_the_position_before_each_answer_token() -> None:
    batch = pad_rows([EncodedRow((5, 6), (7, 8)), EncodedRow((5,), (9,))], padding=0, longest=10)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [5, 9, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 7, 8, IGNORED], [9, IGNORED, IGNORED, IGNORED]]


def test_long_rows_lose_the_beginning_of_their_prompt() -> None:
    batch = pad_rows([EncodedRow((1, 2, 3, 4), (5, 6))], padding=0, longest=4)
    assert batch["input_ids"].tolist() == [[3, 4, 5, 6]]
    assert batch["labels"].tolist() == [[IGNORED, 5, 6, IGNORED]]


def test_windows_predict_the_next_token() -> None:
    stream = torch.arange(100)
    batch = draw_windows(stream, 3, 8, random.Random(0))
    assert torch.equal(batch["labels"][:, :-1], batch["input_ids"][:, 1:])
    assert bool((batch["labels"][:, -1] == IGNORED).all())


def test_documents_are_joined_by_end_of_text() -> None:
    tokenizer = make_tokenizer()
    stream = encode_documents(tokenizer, ["ab", "c"])
    assert int((stream == tokenizer.eos_token_id).sum()) == 2


def test_keys_that_the_tokenizer_loses_are_refused_without_being_shown(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<unk>": 0, "abbey": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    with pytest.raises(TrainingError, match="1 of 1 keys") as caught:
        require_reversible(tokenizer, [(KEYS[0][0], "abbey")])
    assert KEYS[0][0] not in str(caught.value)


def test_keys_that_the_tokenizer_keeps_pass() -> None:
    require_reversible(make_tokenizer(), KEYS)
