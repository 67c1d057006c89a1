"""Which things of a list are wanted: one value for every list, whatever it lists and however it is shown.

A page is named by the last thing of the page before it, not by a number of rows to skip: so the thousandth page costs
what the first does, and what is recorded in the meantime moves nothing from one page to another.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta

from fpvec_audit.errors import UsageError

CREATED = "created"
"""The order in which everything can be listed: by the time when it was recorded."""

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(\d{1,6})([mhdw])")
_FORMS = "write a date (2026-01-31), a time (2026-01-31T12:00), or how long ago (30m, 12h, 7d, 2w)"


@dataclass(frozen=True, slots=True)
class Selection:
    """What is wanted of a list.

    Attributes:
        where: filter → value, as the user wrote it ("licensee" → "Bob"); which filters there are, each list says.
        since: earliest time of recording, None for no limit.
        until: time before which it was recorded, None for no limit.
        sort: field to sort by, with "-" before it for the reverse order.
        limit: most things wanted, None for all.
        after: id, which may be shortened, of the thing after which to begin, in the order wanted.

    Raises:
        UsageError: a limit below one, or an end before the beginning.
    """

    where: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None
    sort: str = CREATED
    limit: int | None = None
    after: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"a list of {self.limit} has nothing in it", advice="write --limit 1 or more")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise UsageError(
                f"nothing lies between {self.since.isoformat()} and {self.until.isoformat()}",
                advice="--since is the earlier of the two",
            )

    @property
    def sorted_by(self) -> str:
        """The field to sort by."""
        return self.sort.removeprefix("-")

    @property
    def descending(self) -> bool:
        """Whether the last comes first."""
        return self.sort.startswith("-")

    def page(self, limit: int | None, *, after: str | None) -> "Selection":
        """Return the same with another beginning and length."""
        return replace(self, limit=limit, after=after)


EVERYTHING = Selection()


def moment_since(text: str, now: datetime) -> datetime:
    """Return the moment from which on things are wanted.

    Args:
        text: a date, which begins at midnight UTC; a time, UTC where it names no zone; or how long ago ("7d").
        now: the time.

    Raises:
        UsageError: it is none of these.
    """
    day, moment = _read("--since", text, now)
    return moment if day is None else _midnight(day)


def moment_until(text: str, now: datetime) -> datetime:
    """Return the moment before which things are wanted; a date means the whole day.

    Args:
        text: a date, a time, UTC where it names no zone, or how long ago ("7d").
        now: the time.

    Raises:
        UsageError: it is none of these.
    """
    day, moment = _read("--until", text, now)
    if day is None:
        return moment
    return datetime.max.replace(tzinfo=UTC) if day == date.max else _midnight(day + timedelta(days=1))


def _read(option: str, text: str, now: datetime) -> tuple[date | None, datetime]:
    if found := _DURATION.fullmatch(text.strip()):
        try:
            return None, now - timedelta(**{_UNITS[found[2]]: int(found[1])})
        except OverflowError as error:
            raise UsageError(f"{option} {text}: that is before the year 1", advice=_FORMS) from error
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text.strip()):
            return date.fromisoformat(text.strip()), now
        moment = datetime.fromisoformat(text.strip())
        return None, (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC))
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{option} {text!r} is no time", advice=_FORMS) from error


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
