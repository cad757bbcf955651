# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The order of the stages, and what the server's own numbers say about a write."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import Kind, OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._redis import reach, wire
from ansible_collections.sre.runbooks.plugins.module_utils._redis.address import Address, Tls
from ansible_collections.sre.runbooks.plugins.module_utils._redis.reach import STAGES, Way, findings, summary, walk
from tests.fakes.redis import FakeServer

NOW = datetime(2030, 1, 31, 12, 0, tzinfo=UTC)


class Willing(FakeServer):
    """Answers what a healthy server does to everybody."""

    def call(self, *command: Any) -> Any:
        answers = {"ECHO": b"sre.runbooks", "EXISTS": 0, "INFO": b"role:master", "ACL": b"default"}
        return answers.get(command[0]) if command[0] in answers else super().call(*command)

    def batch(self, commands: Any) -> list[Any]:
        return [b"OK" for _command in commands]


class Line:
    """What a dialed connection has to do here."""

    def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network on which every name is two addresses, and all is well."""
    monkeypatch.setattr(wire, "resolve", lambda _address: ("192.0.2.1", "192.0.2.2"))
    monkeypatch.setattr(wire, "dial", lambda _address, _place: Line())
    good = wire.Certificate("TLSv1.3", NOW + timedelta(days=90))
    monkeypatch.setattr(wire, "handshake", lambda _address, _place, _tls: good)
    monkeypatch.setattr(wire, "greeting", lambda _address, _place, _words=b"": "")
    monkeypatch.setattr(wire, "speaks_tls", lambda _address, _place: False)
    monkeypatch.setattr(reach, "locate", lambda params, _stack: params["address"])


def way(server: Any = None, tls: Tls | None = None, **params: Any) -> Way:
    address = Address(host="cache.example.com", tls=tls)
    return Way({"address": address, **params}, ExitStack(), NOW, open=lambda _address: server or Willing())


def refused(code: str, kind: Kind = Kind.UNREACHABLE) -> Any:
    def fail(*_args: Any, **_more: Any) -> Any:
        raise OpsError(kind, f"made up: {code}", "", code)

    return fail


def ids(found: Way, stages: Any) -> list[str]:
    return [finding.id for finding in findings(found, stages)]


def test_all_stages_are_told_in_their_order() -> None:
    found = way()
    stages = walk(found)
    assert tuple(stage.name for stage in stages) == STAGES
    assert [stage.name for stage in stages if stage.ok is None] == ["sentinel", "tls"]
    assert (ids(found, stages), summary(found, stages)["reachable"], summary(found, stages)["writable"]) == (
        [],
        True,
        True,
    )


@pytest.mark.parametrize(("stage", "name"), [("resolve", "resolve"), ("tcp", "dial"), ("tls", "handshake")])
def test_after_a_failure_nothing_is_tried(monkeypatch: pytest.MonkeyPatch, stage: str, name: str) -> None:
    monkeypatch.setattr(wire, name, refused("made_up"))
    found = way(tls=Tls())
    stages = walk(found)
    assert [one.name for one in stages if one.ok is False] == [stage]
    assert all(one.ok is None for one in stages[STAGES.index(stage) + 1 :])
    assert ids(found, stages) == ["redis.unreachable.made_up"]
    assert summary(found, stages)["writable"] is False


def test_one_dead_address_of_two_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def dial(_address: Address, place: str) -> Line:
        if place == "192.0.2.1":
            raise OpsError(Kind.TIMEOUT, "no answer", "", "timeout")
        return Line()

    monkeypatch.setattr(wire, "dial", dial)
    found = way()
    stages = walk(found)
    assert ids(found, stages) == ["redis.address_down"]
    assert summary(found, stages)["addresses"] == ["192.0.2.2"]


@pytest.mark.parametrize(("days", "expected"), [(13.9, ["redis.certificate_expires"]), (14.1, [])])
def test_a_certificate_that_ends_soon(monkeypatch: pytest.MonkeyPatch, days: float, expected: list[str]) -> None:
    ends = wire.Certificate("TLSv1.3", NOW + timedelta(days=days))
    monkeypatch.setattr(wire, "handshake", lambda *_args: ends)
    found = way(tls=Tls())
    assert ids(found, walk(found)) == expected


class Refusing(FakeServer):
    """Answers every command with the same refusal."""

    code = "noauth"

    def call(self, *_command: Any) -> Any:
        raise OpsError(Kind.PRECONDITION, f"made up: {self.code}", "", self.code)


@pytest.mark.parametrize(
    ("code", "stage"),
    [
        ("noauth", "auth"),
        ("wrongpass", "auth"),
        ("no_password_set", "auth"),
        ("acl", "acl"),
        ("busy", "serving"),
        ("loading", "serving"),
        ("masterdown", "serving"),
        ("maxclients", "serving"),
        ("no_such_db", "serving"),
    ],
)
def test_a_refusal_belongs_to_its_stage(code: str, stage: str) -> None:
    server = Refusing()
    server.code = code
    found = way(server)
    stages = walk(found)
    assert [one.name for one in stages if one.ok is False] == [stage]
    assert ids(found, stages) == [f"redis.unreachable.{code}"]


def test_a_closed_connection_is_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Refusing()
    server.code = "connection"
    monkeypatch.setattr(wire, "greeting", lambda *_args: "-ERR max number of clients reached")
    found = way(server)
    assert ids(found, walk(found)) == ["redis.unreachable.maxclients"]
    monkeypatch.setattr(wire, "greeting", lambda *_args: "")
    monkeypatch.setattr(wire, "speaks_tls", lambda *_args: True)
    found = way(server)
    assert ids(found, walk(found)) == ["redis.unreachable.tls"]


@pytest.mark.parametrize(
    ("info", "settings", "code"),
    [
        ({"role": "master"}, {}, ""),
        ({"role": "slave", "slave_read_only": "1"}, {}, "replica"),
        ({"role": "slave", "slave_read_only": "0"}, {}, ""),
        ({"aof_last_write_status": "err"}, {}, "misconf"),
        ({"rdb_last_bgsave_status": "err"}, {"stop-writes-on-bgsave-error": "yes", "save": "900 1"}, "misconf"),
        ({"rdb_last_bgsave_status": "err"}, {"stop-writes-on-bgsave-error": "no", "save": "900 1"}, ""),
        ({"rdb_last_bgsave_status": "err"}, {"stop-writes-on-bgsave-error": "yes", "save": ""}, ""),
        ({"used_memory": "101", "maxmemory": "100", "maxmemory_policy": "noeviction"}, {}, "oom"),
        ({"used_memory": "101", "maxmemory": "100", "maxmemory_policy": "allkeys-lru"}, {}, ""),
        ({"used_memory": "101", "maxmemory": "0", "maxmemory_policy": "noeviction"}, {}, ""),
        ({"min_slaves_good_slaves": "1"}, {"min-replicas-to-write": "2"}, "noreplicas"),
        ({"min_slaves_good_slaves": "2"}, {"min-replicas-to-write": "2"}, ""),
    ],
)
def test_what_would_refuse_a_write(info: dict[str, str], settings: dict[str, str], code: str) -> None:
    server = FakeServer(settings=settings)
    names = {"replica": reach._replica, "misconf": reach._misconf, "oom": reach._oom, "noreplicas": reach._noreplicas}
    assert [name for name, look in names.items() if look(info, server)] == ([code] if code else [])


def test_who_may_not_read_settings_gets_the_defaults() -> None:
    server = FakeServer(forbidden=frozenset({"CONFIG"}))
    assert reach._misconf({"rdb_last_bgsave_status": "err"}, server)
    assert reach._noreplicas({"min_slaves_good_slaves": "0"}, server)
