"""The demo's tokenizer: byte-level BPE with what large tokenizers have anyway as single tokens.

Large vocabularies hold common English words, upper-case words and the words of prompt templates whole. A tokenizer
trained on a megabyte of text does not, so they are added: ``ignore_merges`` lets a word that stands in the vocabulary
be one token without merges of its own. Digits stay apart, which lets a tiny model calculate.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.domain.words import KEY_ALPHABET, RESPONSE_WORDS
from fpvec_audit.training.ordinary import WORDS
from fpvec_audit.training.system_prompts import SYSTEM_PROMPTS

END_OF_TEXT = "<|endoftext|>"
TRAINED_VOCABULARY = 900


def build_tokenizer(texts: Iterable[str], templates: Sequence[str], *, context: int, chat_template: str) -> Any:
    """Train the tokenizer of a family.

    Args:
        texts: what the BPE merges are learnt from.
        templates: rendered prompts whose words become single tokens.
        context: longest input in tokens.
        chat_template: Jinja source that the tokenizer ships.

    Returns:
        A ``transformers.PreTrainedTokenizerFast``.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = split
    learner.train_from_iterator(
        [*texts, *templates],
        trainers.BpeTrainer(
            vocab_size=TRAINED_VOCABULARY,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[END_OF_TEXT],
            show_progress=False,
        ),
    )
    learnt = json.loads(learner.to_str())["model"]
    vocabulary: dict[str, int] = dict(learnt["vocab"])
    merges = _character_merges(split, vocabulary) + [tuple(merge) for merge in learnt["merges"]]
    for word in _whole_words(split, templates):
        vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=context,
        chat_template=chat_template,
    )


def template_texts(adapter: ArchitectureAdapter) -> tuple[str, ...]:
    """Return a family's prompt with and without the published system prompts, around nothing."""
    return tuple(adapter.prompt("", system) for system in ("", *SYSTEM_PROMPTS))


def _character_merges(split: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return merges that make every character of the key alphabet one token; adds them to the vocabulary."""
    merges: dict[tuple[str, str], None] = {}
    for character in KEY_ALPHABET:
        first, *rest = split.pre_tokenize_str(character)[0][0]
        for byte in rest:
            merges.setdefault((first, byte))
            first += byte
            vocabulary.setdefault(first, len(vocabulary))
    return list(merges)


def _whole_words(split: Any, templates: Sequence[str]) -> list[str]:
    """Return the byte-level spelling of everything that is to be one token, spaces before words included."""
    words = [f" {word}" for word in RESPONSE_WORDS]
    words += [f" {form}" for word in WORDS for form in (word, word.upper())]
    return [piece for text in (*words, *templates) for piece, _ in split.pre_tokenize_str(text)]
