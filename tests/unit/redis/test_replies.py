# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Replies as recorded from a server, and what errors mean."""

from __future__ import annotations

import socket
import ssl

import pytest
import redis

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._redis.errors import translate
from ansible_collections.sre.runbooks.plugins.module_utils._redis.replies import (
    pairs,
    parse_fields,
    parse_info,
    parse_nodes,
)

NODES = """\
07c3 127.0.0.1:30004@31004,host4 slave e7d1 0 1426238317239 4 connected
e7d1 :30001@31001 myself,master - 0 0 1 connected 0-5460 [93-<-292f]
292f 127.0.0.1:30003@31003 master,fail - 0 1426238318243 3 connected 10923-16383
67ed [::1]:30002@31002 master - 0 1426238316232 2 connected 5461-10922
"""


def test_info_lines_may_hold_colons() -> None:
    assert parse_info(b"# Server\r\nredis_version:7.0.15\r\nexecutable:/a:b\r\n\r\n") == {
        "redis_version": "7.0.15",
        "executable": "/a:b",
    }


def test_fields_and_pairs() -> None:
    assert parse_fields("keys=5,expires=1,avg_ttl=0", ",") == {"keys": "5", "expires": "1", "avg_ttl": "0"}
    assert dict(pairs([b"save", b"", b"maxmemory", b"1"])) == {"save": "", "maxmemory": "1"}


def test_cluster_nodes() -> None:
    nodes = parse_nodes(NODES, "10.0.0.1")
    assert [(node.host, node.port, node.primary, node.slots) for node in nodes] == [
        ("127.0.0.1", 30004, False, ()),
        ("10.0.0.1", 30001, True, ("0-5460",)),
        ("127.0.0.1", 30003, False, ("10923-16383",)),
        ("::1", 30002, True, ("5461-10922",)),
    ]
    assert [node.myself for node in nodes] == [False, True, False, False]


def _caused(by: Exception) -> Exception:
    error = redis.exceptions.ConnectionError(f"Error connecting: {by}")
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (redis.exceptions.ResponseError("WRONGPASS invalid username-password pair"), "auth", "wrongpass"),
        (redis.exceptions.AuthenticationError("NOAUTH Authentication required."), "auth", "noauth"),
        (redis.exceptions.ResponseError("NOPERM this user has no permissions"), "forbidden", "acl"),
        (redis.exceptions.ResponseError("OOM command not allowed when used memory > 'maxmemory'"), "exhausted", "oom"),
        (redis.exceptions.ResponseError("BUSY Redis is busy running a script"), "precondition", "busy"),
        (redis.exceptions.ResponseError("MISCONF Redis is configured to save"), "precondition", "misconf"),
        (
            redis.exceptions.ResponseError("READONLY You can't write against a read only replica."),
            "precondition",
            "replica",
        ),
        (redis.exceptions.ConnectionError("max number of clients reached"), "exhausted", "maxclients"),
        (redis.exceptions.ResponseError("ERR unknown command 'CONFIG'"), "unsupported", "unknown_command"),
        (redis.exceptions.ResponseError("ERR DB index is out of range"), "not_found", "no_such_db"),
        (redis.exceptions.ResponseError("ERR something else"), "precondition", "refused_command"),
        (_caused(ConnectionRefusedError(111, "refused")), "unreachable", "refused"),
        (_caused(socket.gaierror(-2, "Name or service not known")), "unreachable", "dns"),
        (_caused(ssl.SSLCertVerificationError("self-signed")), "unreachable", "tls"),
        (redis.exceptions.TimeoutError("Timeout reading from socket"), "timeout", "timeout"),
        (redis.exceptions.ConnectionError("Connection closed by server."), "unreachable", "connection"),
        (ConnectionResetError(104, "reset by peer"), "unreachable", "connection"),
    ],
)
def test_each_failure_has_its_kind_and_code(error: Exception, kind: str, code: str) -> None:
    found = translate(error)
    assert found is not None
    assert (found.kind.value, found.code) == (kind, code)
    assert found.hint


def test_an_error_of_ours_passes_and_a_bug_stays_a_bug() -> None:
    ours = OpsError("conflict", "x")  # type: ignore[arg-type]
    assert translate(ours) is ours
    assert translate(KeyError("x")) is None
