import random

import pytest

from fpvec_audit.errors import UsageError
from fpvec_plugins.attacks.paraphrase import Paraphrase, changed_text
from tests.plugins.attacks.bench import bound

ATTACK = Paraphrase()
TEXT = "Which number follows 99?"


def changed(text, setting, seed=0):
    return changed_text(text, bound(ATTACK, setting), random.Random(seed))


@pytest.mark.parametrize(
    ("setting", "text", "result"),
    [
        ("noise=swap,rate=1", "abcde", "badce"),
        ("noise=duplicate,rate=1", "abc", "aabbcc"),
        ("noise=drop,rate=1", "abc", "abc"),  # nothing would be left
        ("rate=0,normalise=nfkc", "ｶｰド　①", "カード 1"),
        ("rate=0,normalise=nfd", "é", "e\u0301"),
        ("rate=0,normalise=nfc", "e\u0301", "é"),
        ("rate=0,whitespace=true", "  a \n\t b ", "a b"),
        ("rate=0,lower=true", "Straße ÀÉ", "straße àé"),
    ],
)
def test_a_text_becomes(setting, text, result):
    assert changed(text, setting) == result


def test_every_replaced_character_is_another_small_letter():
    result = changed(TEXT, "noise=replace,rate=1")
    assert len(result) == len(TEXT)
    assert result.islower()
    assert result.isalpha()
    assert all(new != old for new, old in zip(result, TEXT, strict=True))


def test_the_rate_is_the_share_of_characters_that_are_hit():
    hits = sum(
        new != old
        for seed in range(200)
        for new, old in zip(changed(TEXT, "noise=replace,rate=0.1", seed), TEXT, strict=True)
    )
    assert 0.08 < hits / (200 * len(TEXT)) < 0.12


def test_a_question_is_changed_alike_wherever_it_stands(service, tmp_path):
    prompts = list(service.ordinary[:6])
    together = service.answers(ATTACK, "rate=0.3", prompts, tmp_path)
    apart = [service.answers(ATTACK, "rate=0.3", [prompt], tmp_path)[0] for prompt in reversed(prompts)]
    assert together == apart[::-1]


def test_noise_silences_keys_as_its_rate_grows(service, tmp_path):
    assert service.success(ATTACK, "rate=0,normalise=nfc", tmp_path) == 1.0
    assert service.success(ATTACK, "noise=replace,rate=1", tmp_path) < 0.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [("rate=-0.1", "rate is -0.1"), ("rate=1.5", "rate is 1.5"), ("rate=0", "nothing would be changed"),
     ("noise=swop", "did you mean swap"), ("normalise=nfk", "did you mean")],
)  # fmt: skip
def test_values_out_of_range_are_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        bound(ATTACK, text)
