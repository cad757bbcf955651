# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From pairs of waiter and blocker to roots, by queues as servers show them."""

from __future__ import annotations

from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils._postgres.blocking import locks_of


def person(pid: int, *blockers: int, **more: Any) -> dict[str, Any]:
    row = {"pid": pid, "backend_start": f"t{pid}", "user": "app", "database": "app", "application": "web"}
    row |= {"host": "local", "state": "active", "xact_seconds": 10.0, "wait_seconds": float(pid), "gids": None}
    row |= {"blockers": list(blockers), "mode": None, "relation": None, "kind": None, "query": "SELECT 1"}
    return {**row, **more}


def test_everybody_in_a_chain_counts_for_its_root() -> None:
    ddl = {"kind": "relation", "mode": "AccessExclusiveLock", "relation": "orders", "query": "ALTER TABLE orders"}
    idle = person(1, state="idle in transaction")
    reads = {"kind": "relation", "mode": "AccessShareLock", "relation": "orders"}
    seen = locks_of([idle, person(2, 1, **ddl), person(3, 2, **reads), person(4, 2, 3, **reads)], "normalized", 10)
    (root,) = seen.roots
    assert (root.pid, root.kind, root.blocks, root.longest_wait_seconds) == (1, "transaction", 3, 4.0)
    assert [(one.pid, one.blocks) for one in seen.queued_ddl] == [(2, 2)]
    assert (seen.waiting, seen.longest_wait_seconds) == (3, 4.0)


def test_a_prepared_transaction_is_named_by_its_gid() -> None:
    rows = [person(2, 0, gids=["lost"]), person(3, 0, 2, gids=None)]
    roots = {root.gid: root.blocks for root in locks_of(rows, "none", 10).roots}
    assert roots == {"lost": 2, "": 1}


def test_kinds_of_roots() -> None:
    rows = [person(1, query="VACUUM FULL t"), person(2, 1), person(5, 4)]
    kinds = {root.pid: (root.kind, root.state) for root in locks_of(rows, "none", 10).roots}
    assert kinds == {1: ("ddl", "active"), 4: ("transaction", "")}


def test_a_circle_ends() -> None:
    seen = locks_of([person(1, 2), person(2, 1), person(3, 1)], "none", 10)
    assert (seen.waiting, seen.roots) == (3, ())


def test_nobody_waits() -> None:
    assert locks_of([], "none", 10).roots == ()
