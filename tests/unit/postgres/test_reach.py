# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the way finds before there is a server, and what would refuse a write."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import Kind, OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._postgres import reach
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.address import Address
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.line import Place, places

CALM: dict[str, Any] = {"read_only": "off", "read_only_now": "off", "wanted_standbys": "", "commits": "on"}
CALM |= {"standbys": 0, "oldest": 1000, "standby": False}


@pytest.mark.parametrize(
    ("state", "rights", "code"),
    [
        ({}, {}, ""),
        ({"standby": True, "read_only_now": "on"}, {}, "standby"),
        ({"read_only": "on"}, {}, "read_only"),
        ({"oldest": 2**31 - 1_000_000}, {}, "wraparound"),
        ({"wanted_standbys": "s1"}, {"pg_read_all_stats": True}, "no_sync_standby"),
        ({"wanted_standbys": "s1", "standbys": 1}, {"pg_read_all_stats": True}, ""),
        ({"wanted_standbys": "s1", "commits": "local"}, {"pg_read_all_stats": True}, ""),
        # Nobody showed us standbys: that says nothing.
        ({"wanted_standbys": "s1"}, {}, ""),
    ],
)
def test_what_would_refuse_a_write(state: dict[str, Any], rights: dict[str, bool], code: str) -> None:
    way = reach.Way({}, ExitStack(), Address({}), state={**CALM, **state}, rights=rights)
    if code:
        with pytest.raises(OpsError) as caught:
            reach._writes(way)
        assert caught.value.code == code
    else:
        assert reach._writes(way)


def test_where_the_login_ends_the_rest_is_not_tried() -> None:
    def refuse(_address: Address) -> Any:
        words = 'connection to server at "h" (192.0.2.1), port 5432 failed: FATAL: too many connections for role "app"'
        raise OpsError(Kind.EXHAUSTED, words, "", "too_many_clients")

    way = reach.Way({}, ExitStack(), Address({"service": "s"}), open=refuse)
    stages = reach.walk(way)
    assert [(stage.name, stage.ok) for stage in stages[:4]] == [
        *(("resolve", None), ("tcp", None), ("tls", None)),
        ("login", False),
    ]
    (finding,) = reach.findings(way, stages)
    assert finding.id == "postgres.unreachable.too_many_clients"
    assert finding.evidence["detail"] == 'too many connections for role "app"'
    assert "CONNECTION LIMIT" in finding.suggest
    assert reach.summary(way, stages)["reachable"] is False


@pytest.mark.parametrize(
    ("hosts", "ports", "expected"),
    [
        ("127.0.0.1", "5433", [Place("127.0.0.1", 5433)]),
        ("127.0.0.1,127.0.0.2", "5433", [Place("127.0.0.1", 5433), Place("127.0.0.2", 5433)]),
        ("127.0.0.1,127.0.0.2", "1,2", [Place("127.0.0.1", 1), Place("127.0.0.2", 2)]),
        ("/run/postgresql", "5432", [Place("/run/postgresql", 5432)]),
        ("::1", "5432", [Place("::1", 5432)]),
    ],
)
def test_places(hosts: str, ports: str, expected: list[Place]) -> None:
    assert list(places(hosts, ports)) == expected


def test_the_wrong_server_is_not_even_knocked_at() -> None:
    way = reach.Way({"expect_host": "prod"}, ExitStack(), Address({"host": "127.0.0.1", "port": "1"}))
    with pytest.raises(OpsError, match="expect_host"):
        reach.walk(way)
