"""What an engine sets aside, and over how many GPUs it divides a suspect; nothing here is loaded."""

from dataclasses import replace

import pytest
from transformers import AutoConfig

from fpvec_audit.backends.engine_memory import cache_bytes, memory_share, settle_parts
from fpvec_audit.backends.prompts import SuspectFiles
from fpvec_audit.errors import BackendError, UsageError
from tests.tiny import make_config

GB = 10**9


@pytest.fixture
def files(tmp_path):
    (tmp_path / "model.safetensors").touch()
    return SuspectFiles(tmp_path, None, make_config("llama2", heads=4), (), None)


def of_size(files, size):
    """Let the suspect's weights have a size, without writing them."""
    with (files.directory / "model.safetensors").open("r+b") as file:
        file.truncate(size)
    return files


def test_cache_holds_a_whole_sequence_and_room_for_many_short_ones(files):
    config = files.config
    token = 2 * config.num_hidden_layers * config.hidden_size * 4
    assert cache_bytes(files, 256) == token * (2 + 2) * 128 + token * 64 * 256


def test_cache_is_left_to_vllm_for_architectures_without_plain_heads(files):
    assert cache_bytes(replace(files, config=AutoConfig.for_model("mamba")), 256) is None


def test_cache_is_divided_with_the_heads_until_one_is_left(files):
    assert cache_bytes(files, 256, parts=2) == cache_bytes(files, 256) // 2
    files.config.num_key_value_heads = 1
    assert cache_bytes(files, 256, parts=4) == cache_bytes(files, 256)


def test_suspect_takes_as_few_gpus_as_hold_it_and_its_base(files):
    assert settle_parts(files, None, gpus=[80 * GB] * 8) == 1
    assert settle_parts(of_size(files, 26 * GB), None, gpus=[80 * GB] * 8) == 1
    assert settle_parts(of_size(files, 40 * GB), None, gpus=[80 * GB] * 8) == 2
    assert settle_parts(files, None, gpus=[]) == 1


def test_suspect_without_room_for_its_base_stands_alone(files):
    assert settle_parts(of_size(files, 14 * GB), None, gpus=[24 * GB]) == 1
    assert settle_parts(of_size(files, 140 * GB), None, gpus=[80 * GB] * 8) == 4  # of four heads


def test_suspect_that_no_number_of_gpus_holds_is_refused_with_what_is_there(files):
    with pytest.raises(BackendError, match=r"30\.0 GB of weights do not fit 1 GPU of 24\.0 GB") as caught:
        settle_parts(of_size(files, 30 * GB), None, gpus=[24 * GB])
    assert "--tensor-parallel N" in caught.value.advice
    with pytest.raises(BackendError, match=r"into however many of 1, 2 or 4 parts"):
        settle_parts(of_size(files, 300 * GB), None, gpus=[80 * GB] * 5)


def test_what_was_asked_for_is_tried_whatever_the_estimate_says(files):
    assert settle_parts(of_size(files, 30 * GB), 1, gpus=[24 * GB]) == 1
    assert settle_parts(files, 4, gpus=[]) == 4


@pytest.mark.parametrize(("asked", "gpus"), [(3, []), (8, []), (4, [80 * GB] * 2)])
def test_what_cannot_be_divided_so_is_refused_with_a_choice(files, asked, gpus):
    with pytest.raises(UsageError, match=f"--tensor-parallel {asked}") as caught:
        settle_parts(files, asked, gpus=gpus)
    assert caught.value.advice == ("choose 1 or 2" if gpus else "choose 1, 2 or 4")


def test_engine_takes_its_share_of_a_gpu_and_no_more(files):
    assert memory_share(files, 1, gpus=[]) is None
    assert 0.2 < memory_share(of_size(files, 14 * GB), 1, gpus=[80 * GB]) < 0.3
    assert memory_share(of_size(files, 30 * GB), 1, gpus=[24 * GB]) == 0.92
