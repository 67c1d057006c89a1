import pytest

from fpvec_audit.domain.tensor_parallel import attention_heads, fits, least_parts, part_bytes, possible_parts

GB = 10**9
CONFIGS = {
    "gpt2": ({"n_head": 12, "n_inner": None}, 12, (1, 2, 3, 4, 6, 12)),
    "bloom": ({"n_head": 16, "num_attention_heads": 16}, 16, (1, 2, 4, 8, 16)),
    "shared heads": ({"num_attention_heads": 64, "num_key_value_heads": 8}, 64, (1, 2, 4, 8, 16, 32, 64)),
    "six heads of ten share two": ({"num_attention_heads": 12, "num_key_value_heads": 2}, 12, (1, 2, 4, 6, 12)),
    "odd width": ({"num_attention_heads": 8, "intermediate_size": 300}, 8, (1, 2, 4)),
    "text part": ({"num_attention_heads": 7, "text_config": {"num_attention_heads": 4}}, 4, (1, 2, 4)),
    "unknown": ({}, None, (1, 2, 4, 8, 16, 32, 64)),
    "nonsense": ({"num_attention_heads": True, "n_head": -3}, None, (1, 2, 4, 8, 16, 32, 64)),
}


@pytest.mark.parametrize(("config", "heads", "parts"), CONFIGS.values(), ids=CONFIGS)
def test_parts_divide_the_heads(config, heads, parts):
    assert attention_heads(config) == heads
    assert possible_parts(config) == parts


def test_part_takes_its_share_of_the_weights_and_a_reserve():
    assert part_bytes(10 * GB, 2) - part_bytes(0, 2) == 6 * GB


def test_two_models_need_twice_the_room_of_one():
    need = part_bytes(14 * GB, 1)
    gpu = int(need / 0.92) + 1
    assert fits(14 * GB, parts=1, gpu=gpu)
    assert not fits(14 * GB, parts=1, gpu=gpu, models=2)
    assert fits(14 * GB, parts=1, gpu=2 * gpu, models=2)


def test_least_number_is_a_possible_one_of_those_that_are_there():
    assert least_parts(60 * GB, possible=(1, 3, 6), gpus=[48 * GB] * 6) == 3
    assert least_parts(60 * GB, possible=(1, 3, 6), gpus=[48 * GB] * 2) is None
    assert least_parts(60 * GB, possible=(1, 2, 4), gpus=[80 * GB, 24 * GB, 80 * GB, 80 * GB]) == 4
    assert least_parts(1, possible=(1,), gpus=[]) is None
