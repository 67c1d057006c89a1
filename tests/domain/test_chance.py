import hashlib
import hmac
from collections import Counter
from itertools import permutations

import pytest
from scipy import stats

from fpvec_audit.domain.chance import Numbers, shuffled


def test_numbers_are_hmac_in_counter_mode():
    numbers = Numbers(b"key")
    blocks = [hmac.digest(b"key", counter.to_bytes(8, "big"), hashlib.sha256)[:8] for counter in range(3)]
    assert [numbers.below(1000) for _ in range(3)] == [int.from_bytes(block, "big") % 1000 for block in blocks]


@pytest.mark.parametrize("bound", [1, 2, 7, 64, 1000])
def test_numbers_stay_below_their_bound(bound):
    numbers = Numbers(b"key")
    assert all(0 <= numbers.below(bound) < bound for _ in range(200))


def test_numbers_reject_the_biased_end():
    """A bound just above 2^63 rejects almost half of all blocks; what is kept is uniform."""
    numbers = Numbers(b"key")
    bound = 2**63 + 1
    assert all(numbers.below(bound) < bound for _ in range(100))
    assert numbers._counter > 150


def test_every_order_is_equally_likely():
    counts = Counter(tuple(shuffled(4, key.to_bytes(4, "big"))) for key in range(12000))
    assert set(counts) == set(permutations(range(4)))
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_order_is_a_permutation_that_the_key_decides():
    assert sorted(shuffled(100, b"a")) == list(range(100))
    assert shuffled(100, b"a") == shuffled(100, b"a") != shuffled(100, b"b")
    assert shuffled(1, b"a") == [0]
