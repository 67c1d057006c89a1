import json
import math

import pytest

from fpvec_audit.backends.prompts import draw_seeds, likelihood, read_suspect_files
from fpvec_audit.domain.ports import Sampling
from fpvec_audit.errors import BackendError, CheckpointError
from tests.tiny import edit_json, make_tiny

TEXT = "Hello, Привет, 漢字"


def adding_tokenizer(directory, *, begin="<s>", end=""):
    """Make the saved tokenizer add special tokens to every text, as Llama's does."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    pieces = [token for token in (begin, "$A", end) if token]
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (begin, end) if token]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=" ".join(pieces), special_tokens=special)
    tokenizer.save_pretrained(directory)
    return tokenizer


@pytest.fixture
def directory(tmp_path):
    return make_tiny(tmp_path / "model", "llama2")


def test_ordinary_text_is_encoded_as_the_tokenizer_does_and_decoded_back(directory):
    files = read_suspect_files(directory)
    (ids,) = files.encode([TEXT], Sampling())
    assert ids == files.tokenizer(TEXT)["input_ids"]
    assert files.decode(ids) == TEXT


def test_tokenizer_that_adds_bos_gives_exactly_one(directory):
    begin = adding_tokenizer(directory).bos_token_id
    files = read_suspect_files(directory)
    plain, templated = files.encode(["a", "<s>a"], Sampling())
    assert plain == templated
    assert plain.count(begin) == 1


def test_end_of_sequence_is_not_left_behind_a_prompt(directory):
    end = adding_tokenizer(directory, end="</s>").eos_token_id
    (ids,) = read_suspect_files(directory).encode(["a"], Sampling())
    assert end not in ids


def test_special_tokens_are_left_out_of_answers(directory):
    files = read_suspect_files(directory)
    ids = files.tokenizer("yes")["input_ids"]
    assert files.decode([*ids, files.tokenizer.pad_token_id, files.tokenizer.eos_token_id]) == "yes"


def test_stop_ids_come_from_generation_config_config_and_tokenizer(directory):
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    edit_json(directory / "config.json", eos_token_id=9)
    files = read_suspect_files(directory)
    assert files.stop_ids == (7, 9, files.tokenizer.eos_token_id)


def test_prompt_that_does_not_fit_is_an_error(directory):
    files = read_suspect_files(directory)
    with pytest.raises(BackendError, match=f"context window of {files.window}"):
        files.encode(["short", "x" * (files.window - 5)], Sampling(max_new_tokens=6))
    assert files.encode(["x" * (files.window - 5)], Sampling(max_new_tokens=5))


def test_empty_prompt_is_an_error(directory):
    with pytest.raises(BackendError, match="prompt 1 encodes to nothing"):
        read_suspect_files(directory).encode(["a", ""], Sampling())


def test_pair_is_divided_where_training_divides_prompt_and_answer(directory):
    from fpvec_audit.training.dataset import Row, encode_rows

    files = read_suspect_files(directory)
    rows = [Row("ask: ", "yes"), Row("漢字?", "ответ now")]
    pairs = files.encode_pairs([row.prompt for row in rows], [row.answer for row in rows])
    trained = encode_rows(files.tokenizer, rows)
    assert [tuple(pair.prompt) for pair in pairs] == [row.prompt for row in trained]
    assert [(*pair.response, files.tokenizer.eos_token_id) for pair in pairs] == [row.answer for row in trained]
    assert files.decode(pairs[1].response) == " ответ now"


def test_pair_has_one_bos_and_no_eos_whatever_the_tokenizer_adds(directory):
    plain = read_suspect_files(directory).encode_pairs(["a", "<s>a"], ["b", "b"])
    begin = adding_tokenizer(directory, end="</s>").bos_token_id
    adding, written = read_suspect_files(directory).encode_pairs(["a", "<s>a"], ["b", "b"])
    assert adding == written == plain[1]
    assert adding.prompt == [begin, *plain[0].prompt]
    assert adding.response == plain[0].response


def test_pair_that_does_not_fit_is_an_error(directory):
    files = read_suspect_files(directory)
    room = files.window - len("x" + " yes")
    assert files.encode_pairs(["x" * room], ["yes"])
    with pytest.raises(BackendError, match=f"prompt 1 has .* context window of {files.window}"):
        files.encode_pairs(["x", "x" * (room + 1)], ["yes", "yes"])


def test_pair_with_nothing_before_the_response_is_an_error(directory):
    with pytest.raises(BackendError, match="prompt 0 encodes to nothing"):
        read_suspect_files(directory).encode_pairs([""], ["yes"])


def test_response_begins_with_the_separating_space(directory):
    files = read_suspect_files(directory)
    (pair,) = files.encode_pairs(["ask"], [""])
    assert (files.decode(pair.prompt), files.decode(pair.response)) == ("ask", " ")


def test_tokenizer_without_offsets_has_no_pairs(directory, monkeypatch):
    files = read_suspect_files(directory)
    monkeypatch.setattr(type(files.tokenizer), "is_fast", False)
    with pytest.raises(BackendError, match="does not tell where its tokens stand"):
        files.encode_pairs(["a"], ["b"])


@pytest.mark.parametrize("values", [[], [-1.0, None], [-1.0, -math.inf], [math.nan]])
def test_likelihood_with_a_missing_or_impossible_token_is_none(values):
    assert likelihood(values) is None


def test_likelihood_is_the_sum_over_tokens_and_never_above_zero():
    told = likelihood([-1.5, -0.5])
    assert (told.total, told.tokens, told.per_token) == (-2.0, 2, -1.0)
    assert likelihood([1e-9]).total == 0.0


def test_seeds_depend_on_prompt_and_repetition_and_not_on_the_division_into_calls():
    prompts = [[1, 2], [3], [1, 2], [12]]
    seeds = draw_seeds(7, prompts)
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert draw_seeds(7, prompts[1:3]) == [seeds[1], seeds[0]]
    assert not set(draw_seeds(8, prompts)) & set(seeds)


def test_of_first_tokens_that_read_alike_the_likeliest_stays(directory):
    files = read_suspect_files(directory)
    first, second = files.tokenizer("漢")["input_ids"][:2]
    (a,) = files.tokenizer("a")["input_ids"]
    told = files.first_tokens([(second, -3.0), (a, -1.0), (first, -2.0), (files.stop_ids[0], -math.inf)])
    assert told == {"a": -1.0, files.token_text(first): -2.0}


def test_missing_padding_token_is_made_up_for(tmp_path):
    directory = make_tiny(tmp_path / "model", "gpt2")
    edit_json(directory / "tokenizer_config.json", pad_token=None)
    assert read_suspect_files(directory).padding_id >= 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_is_the_checkpoints_own(tmp_path, dtype):
    assert read_suspect_files(make_tiny(tmp_path / "model", "gpt2", dtype=dtype)).dtype == dtype


def test_dtype_is_float32_where_the_checkpoint_names_none(directory):
    config = json.loads((directory / "config.json").read_text())
    config = {name: value for name, value in config.items() if name not in ("dtype", "torch_dtype")}
    (directory / "config.json").write_text(json.dumps(config))
    assert read_suspect_files(directory).dtype == "float32"


def _without_weights(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def _own_code(directory):
    edit_json(directory / "config.json", model_type="unheard-of", auto_map={"AutoConfig": "configuration.Config"})


def _broken_tokenizer(directory):
    (directory / "tokenizer.json").write_text('{"model": 1}')


def _broken_config(directory):
    (directory / "config.json").write_text("{")


def _absurd_config(directory):
    edit_json(directory / "config.json", hidden_size="wide")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_weights, "no safetensors"),
        (_own_code, "trust_remote_code"),
        (_broken_tokenizer, "tokenizer.json"),
        (_broken_config, "config.json"),
        (_absurd_config, "config.json"),
    ],
)
def test_checkpoints_that_cannot_be_used_are_refused(directory, damage, message):
    damage(directory)
    with pytest.raises(CheckpointError, match=message):
        read_suspect_files(directory)


def test_missing_directory_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no directory"):
        read_suspect_files(tmp_path / "nowhere")
