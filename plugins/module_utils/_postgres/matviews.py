# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Materialized views: how old each is, in which order they depend on each other, and which may be refreshed.

PostgreSQL does not record when a view was refreshed. This collection writes it at the end of the view's
comment, as C([refreshed 2030-01-31T18:00:00Z]), where everybody can read it and a dump takes it along.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from graphlib import TopologicalSorter

from .._core.plan import Severity
from .client import Session
from .maintenance import Due, Judged, Wanted, means
from .relation import Relation

_MARK = re.compile(r"\s*\[refreshed (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)\]\s*$")
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

_EDGES = """
SELECT DISTINCT r.ev_class::int8 AS view, d.refobjid::int8 AS source
  FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
  JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('v', 'm')
 WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND r.ev_class <> d.refobjid
"""


@dataclass(frozen=True, slots=True)
class MatView(Relation):
    """A materialized view. C(concurrent) is true where a unique index on plain columns allows CONCURRENTLY."""

    populated: bool
    concurrent: bool
    comment: str
    bytes: int
    may: bool

    @property
    def refreshed(self) -> datetime | None:
        """When this collection refreshed it last."""
        match = _MARK.search(self.comment)
        return datetime.strptime(match[1], _FORMAT).replace(tzinfo=UTC) if match else None


def marked(comment: str, moment: datetime) -> str:
    """The comment with the moment at its end; the rest of it stays as it is."""
    return f"{_MARK.sub('', comment)} [refreshed {moment.astimezone(UTC).strftime(_FORMAT)}]".lstrip()


def in_order(views: Sequence[MatView], edges: Iterable[tuple[int, int]]) -> list[MatView]:
    """Sources before those that read from them, through plain views as well; by name where that does not matter."""
    sources: dict[int, set[int]] = {}
    for view, source in edges:
        sources.setdefault(view, set()).add(source)
    known = {view.oid: view for view in sorted(views, key=lambda view: view.qualified)}
    graph = {oid: sorted(sources.get(oid, ())) for oid in [*known, *sources]}
    return [known[oid] for oid in TopologicalSorter(graph).static_order() if oid in known]


def due_refreshes(
    views: Sequence[MatView], edges: Mapping[int, int] | Iterable[tuple[int, int]], wanted: Wanted, now: datetime
) -> Judged:
    """The views that are too old, in the order in which they have to be refreshed."""
    judged = Judged()
    pairs = edges.items() if isinstance(edges, Mapping) else edges
    for view in in_order([view for view in views if means(wanted.matviews, view.qualified)], pairs):
        age = (now - view.refreshed).total_seconds() if view.refreshed else None
        if view.populated and age is not None and age <= wanted.max_age:
            continue
        if means(wanted.protect, view.qualified):
            judged.spare(view.subject, "protected")
        elif not view.may:
            judged.spare(view.subject, "only its owner may refresh it")
        elif view.populated and not view.concurrent:
            advice = "Create a unique index on plain columns, without WHERE, over all its rows; then run again."
            judged.spare(view.subject, "no unique index on plain columns: readers would wait for its refresh")
            judged.find("matview_not_concurrent", Severity.WARNING, view.qualified, {}, advice)
        else:
            why = "never refreshed by this collection" if age is None else f"refreshed {age:.0f} s ago"
            task = "refresh" if view.populated else "fill"
            why = why if view.populated else "not populated, so that nobody can read it"
            judged.due.append(Due(task, view.oid, view.schema, view.name, why, view.bytes, table=view.oid))
    return judged


def edges_of(session: Session) -> list[tuple[int, int]]:
    """Which view reads from which."""
    return [(row["view"], row["source"]) for row in session.rows(_EDGES)]
