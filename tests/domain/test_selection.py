from datetime import UTC, datetime, timedelta

import pytest

from fpvec_audit.domain.selection import Selection, moment_since, moment_until
from fpvec_audit.errors import UsageError

NOW = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31 12:00:30Z", datetime(2026, 1, 31, 12, 0, 30, tzinfo=UTC)),
        ("30m", NOW - timedelta(minutes=30)),
        ("12h", NOW - timedelta(hours=12)),
        ("7d", NOW - timedelta(days=7)),
        ("2w", NOW - timedelta(weeks=2)),
    ],
)
def test_since_is_a_date_a_time_or_how_long_ago(text, moment):
    assert moment_since(text, NOW) == moment


def test_until_a_date_means_the_whole_day():
    assert moment_until("2026-01-31", NOW) == datetime(2026, 2, 1, tzinfo=UTC)
    assert moment_until("2026-01-31T12:00", NOW) == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert moment_until("9999-12-31", NOW).year == 9999


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30", "2026-13", "-7d", "7 days", "999999w", "20260131T99"])
def test_what_is_no_time_is_refused_with_the_forms_that_are(text):
    with pytest.raises(UsageError, match="7d"):
        moment_since(text, NOW)


def test_selection_that_can_hold_nothing_is_refused():
    with pytest.raises(UsageError, match="--limit 1"):
        Selection(limit=0)
    with pytest.raises(UsageError, match="nothing lies between"):
        Selection(since=NOW, until=NOW)


def test_minus_reverses_the_order():
    assert Selection(sort="-name").descending
    assert Selection(sort="-name").sorted_by == Selection(sort="name").sorted_by == "name"
