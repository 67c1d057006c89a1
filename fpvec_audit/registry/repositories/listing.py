"""The one way in which lists are read: filters, order and page of a selection become one statement.

Every list is served by an index. An order is that of an index, and a filter on a column stands before the order in one
(``tables.py``). A filter on what a column only refers to ("the audits of an owner": of the owner's key sets) is
answered key by key while there are few keys, each part from the index and no longer than the page; where there are many
keys, many rows fit, and walking along the order finds a page of them soon.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, literal, select, tuple_, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session

from fpvec_audit.domain.selection import CREATED, Selection
from fpvec_audit.errors import UnknownNameError
from fpvec_audit.registry.repositories.lookup import Directory

FEW_KEYS = 100
"""Most keys that are answered one by one; SQLite joins at most 500 parts."""

FEW_ROWS = 2000
"""Most rows that a filter names one by one and that are fetched to be sorted; no driver takes 30,000 parameters."""

AT_ONCE = 500
"""Rows whose companions are fetched with one statement."""


@dataclass(frozen=True, slots=True)
class Equal:
    """A filter on a column.

    Attributes:
        column: what is compared.
        value: makes what the column holds of what the user wrote; it raises where there is no such thing.
    """

    column: InstrumentedAttribute[Any]
    value: Callable[[Session, str], object] = field(default=lambda _, written: written)


@dataclass(frozen=True, slots=True)
class Through:
    """A filter on what a column refers to.

    Attributes:
        column: a reference.
        keys: statement that gives the references that fit what the user wrote.
    """

    column: InstrumentedAttribute[Any]
    keys: Callable[[Session, str], Select[Any]]


@dataclass(frozen=True, slots=True)
class Listing:
    """How one kind of thing is listed.

    Attributes:
        directory: what it is called by.
        row: mapped class.
        recorded: column of the time when it was recorded.
        filters: what it can be filtered by.
        orders: further fields to sort by → columns, whose last is unique; time of recording is always one.
    """

    directory: Directory
    row: type[Any]
    recorded: InstrumentedAttribute[datetime]
    filters: Mapping[str, Equal | Through] = field(default_factory=dict)
    orders: Mapping[str, tuple[InstrumentedAttribute[Any], ...]] = field(default_factory=dict)

    def rows(self, session: Session, selection: Selection) -> Sequence[Any]:
        """Return the rows of a page, in order.

        Raises:
            UnknownNameError: there is no such filter or field to sort by, or nothing that a filter names.
            AmbiguousNameError: a filter, or the beginning of the page, fits several things.
        """
        columns = self._order(selection)
        conditions, referring = self._conditions(session, selection, columns)
        ordering = [column.desc() if selection.descending else column for column in columns]

        def ordered(chosen: Select[Any], *further: ColumnElement[bool]) -> Select[Any]:
            return chosen.where(*conditions, *further).order_by(*ordering).limit(selection.limit)

        if not referring:
            return session.scalars(ordered(select(self.row))).all()
        column, keys = referring[0]
        others = [_refers(other, wanted) for other, wanted in referring[1:]]
        if column is self.directory.id:
            counted = _count(session, keys, most=FEW_ROWS)
            if counted > FEW_ROWS:
                return session.scalars(ordered(select(self.row), *others, _refers(column, keys))).all()
            if counted == 0:
                return ()
            # Read first, whatever the planner thinks of walking along the dates until it has found enough.
            chosen = keys.distinct().cte("chosen").prefix_with("MATERIALIZED")
            (identifier,) = chosen.columns
            return session.scalars(ordered(select(self.row).join(chosen, identifier == column), *others)).all()
        found = session.scalars(keys.distinct().limit(FEW_KEYS + 1)).all()
        if not found:
            return ()
        if len(found) == 1:
            return session.scalars(ordered(select(self.row), *others, column == found[0])).all()
        if len(found) > FEW_KEYS or selection.limit is None:
            return session.scalars(ordered(select(self.row), *others, _refers(column, keys))).all()
        parts = [ordered(select(self.directory.id, *columns), *others, column == key).subquery() for key in found]
        joined = union_all(*(select(part) for part in parts)).subquery()
        places = [joined.c[place.key] for place in columns]
        order = [place.desc() if selection.descending else place for place in places]
        page = session.scalars(select(joined.c[self.directory.id.key]).order_by(*order).limit(selection.limit)).all()
        return session.scalars(select(self.row).where(self.directory.id.in_(page)).order_by(*ordering)).all()

    def _order(self, selection: Selection) -> tuple[InstrumentedAttribute[Any], ...]:
        orders = {CREATED: (self.recorded, self.directory.id), **self.orders}
        if selection.sorted_by not in orders:
            raise UnknownNameError("field to sort by", selection.sorted_by, orders)
        return orders[selection.sorted_by]

    def _conditions(
        self, session: Session, selection: Selection, columns: tuple[InstrumentedAttribute[Any], ...]
    ) -> tuple[list[ColumnElement[bool]], list[tuple[InstrumentedAttribute[Any], Select[Any]]]]:
        conditions: list[ColumnElement[bool]] = []
        referring: list[tuple[InstrumentedAttribute[Any], Select[Any]]] = []
        for name, written in selection.where.items():
            if name not in self.filters:
                raise UnknownNameError("filter", name, self.filters)
            wanted = self.filters[name]
            if isinstance(wanted, Equal):
                conditions.append(wanted.column == wanted.value(session, written))
            else:
                referring.append((wanted.column, wanted.keys(session, written)))
        if selection.since is not None:
            conditions.append(self.recorded >= selection.since)
        if selection.until is not None:
            conditions.append(self.recorded < selection.until)
        if selection.after is not None:
            conditions.append(self._beyond(session, selection, columns))
        return conditions, referring

    def _beyond(
        self, session: Session, selection: Selection, columns: tuple[InstrumentedAttribute[Any], ...]
    ) -> ColumnElement[bool]:
        """Return the condition of coming after a row in the order wanted."""
        identifier = self.directory.resolve(session, selection.after or "")
        last = session.execute(select(*columns).where(self.directory.id == identifier)).one()
        values = [literal(value, column.type) for value, column in zip(last, columns, strict=True)]
        here = tuple_(*columns)
        beyond = here < tuple_(*values) if selection.descending else here > tuple_(*values)
        # The first column once more, because not every planner sees that a row of columns limits the first of them.
        first = columns[0] <= values[0] if selection.descending else columns[0] >= values[0]
        return and_(first, beyond)


def _count(session: Session, keys: Select[Any], *, most: int) -> int:
    """Return how many different keys there are, counted up to one more than ``most``."""
    return session.scalar(select(func.count()).select_from(keys.distinct().limit(most + 1).subquery())) or 0


def _refers(column: InstrumentedAttribute[Any], keys: Select[Any]) -> ColumnElement[bool]:
    """Return the condition of referring to one of many keys, looked at row by row and not made a list of."""
    return keys.where(keys.selected_columns[0] == column).correlate(column.class_).exists()


def in_parts(identifiers: Sequence[str]) -> list[Sequence[str]]:
    """Return identifiers in lists that one statement can take."""
    return [identifiers[start : start + AT_ONCE] for start in range(0, len(identifiers), AT_ONCE)]
