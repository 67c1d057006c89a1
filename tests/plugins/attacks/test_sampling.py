import pytest

from fpvec_audit.errors import UsageError
from fpvec_plugins.attacks.sampling import SampledServing
from tests.plugins.attacks.bench import bound

ATTACK = SampledServing()


def test_a_temperature_near_zero_gives_the_likeliest_answers(service, tmp_path):
    assert service.success(ATTACK, "temperature=0.001", tmp_path) == 1.0


def test_a_nucleus_of_one_token_gives_the_likeliest_answers_at_any_temperature(service, tmp_path):
    assert service.success(ATTACK, "temperature=1.5,top_p=0.000001", tmp_path) == 1.0


def test_heat_melts_the_answers_and_the_seed_brings_them_back(service, tmp_path):
    questions = list(service.ordinary[:4])
    one, again, other = (
        service.answers(ATTACK, f"temperature=10,top_p=1,seed={seed}", questions, tmp_path) for seed in (1, 1, 2)
    )
    assert one == again != other
    assert service.success(ATTACK, "temperature=10,top_p=1", tmp_path) < 0.5


def test_a_service_that_draws_promises_no_equal_answers(service):
    assert service.engine.description.deterministic
    assert not ATTACK.wrap(service.engine, bound(ATTACK)).description.deterministic


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("temperature=0", "temperature is 0"),
        ("temperature=11", "temperature is 11"),
        ("temperature=nan", "not finite"),
        ("top_p=0", "top_p is 0"),
        ("top_p=1.1", "top_p is 1.1"),
        ("seed=-1", "seed is -1"),
    ],
)
def test_values_out_of_range_are_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        bound(ATTACK, text)
