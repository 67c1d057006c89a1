import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from transformers import PreTrainedTokenizerFast

from fpvec_audit.errors import CheckpointError
from fpvec_audit.services.encoding import reversible_encoding, tokenizer_digest


def save_byte_level(directory):
    """A tokenizer of single bytes: it loses nothing."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: number for number, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)


def save_lossy(directory):
    """A tokenizer that knows two words and turns everything else into one unknown token."""
    tokenizer = Tokenizer(models.WordLevel({"山川": 0, "tiger": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(directory)


def test_tokenizer_of_bytes_gives_every_text_back(tmp_path):
    save_byte_level(tmp_path)
    rule = reversible_encoding(tmp_path)
    assert rule.accepts("山川ñあ FINGERPRINT", "カワセミ")
    assert rule.reference == tokenizer_digest(tmp_path)


def test_tokenizer_that_loses_text_is_noticed_in_prompt_and_response(tmp_path):
    save_lossy(tmp_path)
    rule = reversible_encoding(tmp_path)
    assert rule.accepts("山川", "tiger")
    assert not rule.accepts("雨雪", "tiger")
    assert not rule.accepts("山川", "zebra")


def test_digest_follows_the_tokenizer_files_alone(tmp_path):
    save_byte_level(tmp_path)
    before = tokenizer_digest(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert tokenizer_digest(tmp_path) == before
    (tmp_path / "merges.txt").write_text("a b")
    assert tokenizer_digest(tmp_path) != before


def test_directory_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        reversible_encoding(tmp_path)


@pytest.mark.parametrize("content", ["{", "null", "[]", "{}", '{"added_tokens": [], "model": {"type": "Nonsense"}}'])
def test_broken_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        reversible_encoding(tmp_path)
