"""What options of a fleet can be meant; nothing is driven here."""

import pytest

from fpvec_audit.cli.fleet_options import manner_of
from fpvec_audit.errors import UsageError
from fpvec_audit.fleet.sizing import Sizing

NOTHING = dict.fromkeys(("cpus", "memory", "gpus", "in_flight", "parts"))


def test_what_is_said_of_items_is_what_they_are_sized_by():
    manner = manner_of(**NOTHING | {"cpus": 2.0, "memory": "8 GB", "gpus": 4.0, "parts": 2, "in_flight": 3})
    assert (manner.sizing, manner.in_flight) == (Sizing(2.0, 8 * 10**9, 4.0, 2), 3)
    assert manner_of(**NOTHING | {"gpus": 0.5}).sizing.gpus == 0.5
    assert manner_of(**NOTHING | {"gpus": 0.0, "parts": 2}).sizing.tensor_parallel == 2  # on a processor


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"gpus": -1.0}, "--gpus -1"),
        ({"gpus": 1.5}, "--gpus 1.5"),
        ({"parts": 0}, "--tensor-parallel 0"),
        ({"gpus": 2.0, "parts": 4}, "--tensor-parallel 4 and --gpus 2"),
        ({"memory": "much"}, "--memory 'much' is no size"),
        ({"in_flight": 0}, "--in-flight 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(said, problem):
    with pytest.raises(UsageError, match=problem):
        manner_of(**NOTHING | said)
