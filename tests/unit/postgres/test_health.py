# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Findings follow from numbers; look-alikes get other findings, and what nobody saw is not clear."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.facts import SECTIONS
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.health import SOURCES, Thresholds, blind, findings
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.model import (
    Activity,
    Archiver,
    Bloat,
    Connections,
    Facts,
    Holder,
    Index,
    Indexes,
    Own,
    Replay,
    Replication,
    Settings,
    Slot,
    Standby,
    Statement,
    Statements,
    Table,
    Transaction,
    Wraparound,
)

MB = 1 << 20
ROOM = Connections(10, 97, 100, 3, 0, {}, (), ())
OPEN = Transaction(7, "t", "app", "app", "web", "local", "idle in transaction", 90.0, 100.0, 90.0, "", "")
YOUNG = Wraparound(1000, 0, 200_000_000, 400_000_000, (), ())
STANDBY = Standby("s1", 9, "local", "streaming", "async", 0, 0, None)
SLOT = Slot("s", "physical", "", True, False, "reserved", 0, None)
REPLAY = Replay(0, 0.0, False, "streaming", "h:1", "0/1", "0/1")
ARCHIVE = Archiver("on", True, 5, 0, 10.0, None, "", False)
INDEX = Index("public.i", "public.t", MB, 0, False, "", False, False, False)
TABLE = Table("public.t", 100 * MB, 100_000, 0, 0.0, 0, 0.0, None)
HOLDER = Holder("transaction", "report", 500, 100.0, 7, "t", "app", "app", "active", True)
COSTLY = Statement("1", "app", "app", 100, 1, 100.0, 0.1, 0.8, "")
SETTINGS = Settings({"idle_in_transaction_session_timeout": 60.0, "fsync": "on"}, (), (), 100.0)


def activity(*transactions: Transaction) -> Activity:
    return Activity(100.0, 1, 0, 0, transactions)


def ids(limits: Thresholds | None = None, **sections: Any) -> dict[str, str]:
    seen = findings(Facts(**sections), limits or Thresholds(), "s")
    return {finding.id.removeprefix("postgres."): finding.severity.name for finding in seen}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"connections": ROOM}, {}),
        ({"connections": replace(ROOM, used=80)}, {"connections_high": "WARNING"}),
        ({"connections": replace(ROOM, used=93)}, {"connections_high": "CRITICAL"}),
        ({"connections": replace(ROOM, limits=(Own("role", "a", 9, 10),))}, {"role_limit_near": "WARNING"}),
        ({"connections": replace(ROOM, limits=(Own("database", "a", 10, 10),))}, {"database_limit_near": "CRITICAL"}),
        # A role that nobody is to use is not full.
        ({"connections": replace(ROOM, limits=(Own("role", "a", 0, 0),))}, {}),
        ({"activity": activity(OPEN)}, {"idle_in_transaction": "WARNING"}),
        # Just back from a long statement: it is long, and not forgotten.
        ({"activity": activity(replace(OPEN, state_seconds=1.0))}, {"long_transaction": "WARNING"}),
        ({"activity": activity(replace(OPEN, state="active"))}, {"long_transaction": "WARNING"}),
        ({"activity": activity(replace(OPEN, application="pg_dump"))}, {"long_transaction": "INFO"}),
        ({"activity": activity(replace(OPEN, state_seconds=5.0, xact_seconds=5.0))}, {}),
        ({"wraparound": YOUNG}, {}),
        ({"wraparound": replace(YOUNG, xid_age=310_000_000)}, {"wraparound": "WARNING"}),
        ({"wraparound": replace(YOUNG, mxid_age=1_700_000_000)}, {"wraparound": "CRITICAL"}),
        ({"replication": Replication((STANDBY,), (SLOT,), None)}, {}),
        (
            {"replication": Replication((replace(STANDBY, lag_bytes=65 * MB),), (), None)},
            {"replica_lagging": "WARNING"},
        ),
        # Seconds alone are the age of the latest change on a server where nothing happens.
        ({"replication": Replication((replace(STANDBY, lag_seconds=900.0),), (), None)}, {}),
        ({"replication": Replication((replace(STANDBY, state="backup", lag_bytes=99 * MB),), (), None)}, {}),
        ({"replication": Replication((), (replace(SLOT, active=False),), None)}, {"slot_inactive": "WARNING"}),
        ({"replication": Replication((), (replace(SLOT, wal_status="lost"),), None)}, {"slot_lost": "CRITICAL"}),
        ({"replication": Replication((), (), REPLAY)}, {}),
        ({"replication": Replication((), (), replace(REPLAY, paused=True))}, {"replay_paused": "WARNING"}),
        ({"replication": Replication((), (), replace(REPLAY, receiver=""))}, {"receiver_down": "CRITICAL"}),
        ({"archiver": ARCHIVE}, {}),
        ({"archiver": replace(ARCHIVE, failing=True)}, {"archiver_failing": "CRITICAL"}),
        ({"indexes": Indexes((INDEX,), (), (), None)}, {"index_invalid": "WARNING"}),
        ({"indexes": Indexes((replace(INDEX, building=True),), (), (), None)}, {}),
        ({"indexes": Indexes((), (INDEX,), (), None)}, {"index_unused": "INFO"}),
        ({"bloat": Bloat((TABLE,), ())}, {}),
        ({"bloat": Bloat((replace(TABLE, dead=50_000, dead_ratio=0.33),), ())}, {"bloat": "WARNING"}),
        ({"bloat": Bloat((replace(TABLE, bloat_bytes=60 * MB, bloat_ratio=0.6),), ())}, {"bloat": "WARNING"}),
        ({"bloat": Bloat((replace(TABLE, dead=50, dead_ratio=0.9, bytes=8192),), ())}, {}),
        # An old snapshot matters where something waits for its end, or once it is old by far.
        ({"bloat": Bloat((TABLE,), ()), "holders": (HOLDER,)}, {}),
        (
            {"bloat": Bloat((replace(TABLE, dead=50_000, dead_ratio=0.33),), ()), "holders": (HOLDER,)},
            {"bloat": "WARNING", "xmin_held": "WARNING"},
        ),
        ({"holders": (replace(HOLDER, age=2_000_000),)}, {"xmin_held": "WARNING"}),
        ({"holders": (replace(HOLDER, age=2_000_000, here=False),)}, {}),
        ({"statements": Statements("1.10", 5.0, (COSTLY,), (COSTLY,))}, {"statement_heavy": "WARNING"}),
        (
            {"statements": Statements("1.10", 5.0, (), (replace(COSTLY, mean_seconds=2.0),))},
            {"statement_slow": "WARNING"},
        ),
        ({"settings": SETTINGS}, {}),
        ({"settings": replace(SETTINGS, pending_restart=("port",))}, {"pending_restart": "INFO"}),
        ({"settings": replace(SETTINGS, values={"fsync": "off"})}, {"no_timeout": "INFO", "unsafe_setting": "WARNING"}),
    ],
)
def test_findings(sections: dict[str, Any], expected: dict[str, str]) -> None:
    assert ids(**sections) == expected


def test_pools_may_not_open_more_than_there_is() -> None:
    assert ids(Thresholds(pool_connections=98), connections=ROOM) == {"pools_above_limit": "WARNING"}
    assert ids(Thresholds(pool_connections=97), connections=ROOM) == {}


def test_every_finding_is_documented_with_its_source() -> None:
    from ansible_collections.sre.runbooks.plugins.modules import postgres_info

    assert not [name for name in SOURCES if f"V({name})" not in postgres_info.RETURN]
    assert {section for source in SOURCES.values() for section in source} <= {*SECTIONS, "holders"}


def test_what_was_not_seen_is_not_clear() -> None:
    assert blind(["postgres.lock_root"], SECTIONS) == ("postgres.unseen.locks",)
    assert blind(["postgres.xmin_held"], ["bloat"]) == ("postgres.unseen.bloat", "postgres.unseen.holders")
    assert blind(["postgres.*"], ["locks"]) == ("postgres.unseen.locks",)
    assert blind([], SECTIONS) == ()


@pytest.mark.parametrize(("name", "sections"), [("postgres.typo", SECTIONS), ("postgres.bloat", ["locks"])])
def test_what_cannot_be_found_cannot_be_waited_for(name: str, sections: list[str]) -> None:
    with pytest.raises(OpsError, match="clear_of"):
        blind([name], sections)
