"""How the tests themselves are run: what is made once for many tests is made in one process."""

import os

import pytest

pytestmark = pytest.mark.xdist_group("together")


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="all tests run in one process here")
def test_tests_of_a_group_stay_together(request):
    """Or else every worker would train and serve models of its own, and the suite would take twice as long."""
    assert request.node.nodeid.endswith("@together")
