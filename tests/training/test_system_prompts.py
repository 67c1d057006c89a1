import random

from fpvec_audit.training.system_prompts import PUBLISHED_SHARE, SYSTEM_PROMPTS, draw_system_prompt


def drawn(count=2000):
    source = random.Random(1)
    return [draw_system_prompt(source) for _ in range(count)]


def test_drawn_prompts_hardly_ever_repeat_but_for_the_published_ones():
    prompts = drawn()
    others = [prompt for prompt in prompts if prompt not in SYSTEM_PROMPTS]
    assert abs(1 - len(others) / len(prompts) - PUBLISHED_SHARE) < 0.05
    assert len(set(others)) > 0.9 * len(others)


def test_drawn_prompts_are_plain_text_of_moderate_length():
    for prompt in drawn():
        assert prompt.strip()
        assert prompt.isascii()
        assert len(prompt) < 600


def test_same_source_draws_the_same():
    assert drawn(50) == drawn(50)
