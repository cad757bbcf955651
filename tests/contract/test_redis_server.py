# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One suite over the fake and a real server: what a plan relies on is the same in both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import Kind, OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._redis.address import Address
from ansible_collections.sre.runbooks.plugins.module_utils._redis.client import Arg, DriverServer, Server, require
from ansible_collections.sre.runbooks.plugins.module_utils._redis.errors import translate
from ansible_collections.sre.runbooks.plugins.module_utils._redis.replies import number, pairs, parse_info
from tests.fakes.redis import FakeServer
from tests.lab import fixtures
from tests.lab.redis_servers import start_single
from tests.lab.world import Lab

redis_session_lab = fixtures.redis_session_lab
pytestmark = pytest.mark.compat


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.redis)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """An empty server whose user may do anything but run scripts and DEL."""
    if request.param == "fake":
        yield FakeServer(forbidden=frozenset({"DEL"}))
        return
    lab: Lab = request.getfixturevalue("redis_session_lab")
    real = lab.start(start_single, users={"noscript": "~* &* +@all -@scripting -del"})
    address = Address(real.host, real.port, username="noscript", password=real.passwords["noscript"])
    driver = DriverServer(address)
    yield driver
    driver.close()
    real.stop()


def scan(server: Server, *options: Arg) -> set[bytes]:
    found: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, page = server.call("SCAN", cursor, *options)
        found |= set(page)
        if cursor == b"0":
            return found


def test_scan_finds_all_that_match(server: Server) -> None:
    for count in range(250):
        server.call("SET", f"{'ab'[count % 2]}:{count}", "x")
    server.call("HSET", "b:hash", "f", "v")
    assert len(scan(server, "COUNT", 7)) == server.call("DBSIZE") == 251
    assert len(scan(server, "COUNT", 50, "MATCH", "a:*")) == 125
    assert scan(server, "MATCH", "b:*", "TYPE", "hash") == {b"b:hash"}
    assert scan(server, "MATCH", b"[ab]:1?", "COUNT", 1000) == {
        b"%c:%d" % ("ab"[n % 2].encode(), n) for n in range(10, 20)
    }


def test_unlink_counts_what_was_there(server: Server) -> None:
    server.call("SET", b"k\x00\xff", "x")
    assert server.call("UNLINK", b"k\x00\xff", "nothing") == 1
    assert server.call("UNLINK", b"k\x00\xff") == 0


def test_ttl(server: Server) -> None:
    server.call("SET", "short", "x", "EX", 100)
    server.call("SET", "lasting", "x")
    assert 90_000 < server.call("PTTL", "short") <= 100_000
    assert (server.call("PTTL", "lasting"), server.call("PTTL", "nothing")) == (-1, -2)


def test_pexpire_with_conditions(server: Server) -> None:
    server.call("SET", "k", "x", "PX", 100_000)
    server.call("SET", "lasting", "x")
    assert server.call("PEXPIRE", "k", 200_000, "LT") == 0
    assert server.call("PEXPIRE", "k", 50_000, "XX", "LT") == 1
    assert server.call("PEXPIRE", "lasting", 50_000, "XX", "LT") == 0
    assert server.call("PEXPIRE", "lasting", 50_000, "LT") == 1
    assert server.call("PEXPIRE", "nothing", 1) == 0


def test_descriptions_of_a_key(server: Server) -> None:
    server.call("SET", "k", "x" * 1000)
    server.call("HSET", "h", "f", "v")
    assert [server.call("TYPE", name) for name in ("k", "h", "nothing")] == [b"string", b"hash", b"none"]
    assert server.call("MEMORY", "USAGE", "k", "SAMPLES", 5) >= 1000
    assert server.call("MEMORY", "USAGE", "nothing") is None
    assert server.call("OBJECT", "IDLETIME", "k") == 0
    assert server.call("OBJECT", "IDLETIME", "nothing") is None
    assert (server.call("HGET", "h", "f"), server.call("HGET", "h", "none")) == (b"v", None)


def test_settings(server: Server) -> None:
    assert dict(pairs(server.call("CONFIG", "GET", "maxmemory"))) == {"maxmemory": "0"}
    assert server.call("CONFIG", "SET", "maxmemory", "104857600") == b"OK"
    assert dict(pairs(server.call("CONFIG", "GET", "maxmemory-polic?"))) == {"maxmemory-policy": "noeviction"}
    assert number(parse_info(server.call("INFO", "memory")), "maxmemory") == 104857600
    with pytest.raises(Exception, match="Unknown option"):
        server.call("CONFIG", "SET", "no-such-setting", "1")


def test_memory_grows_with_the_data(server: Server) -> None:
    before = number(parse_info(server.call("INFO", "memory")), "used_memory")
    server.call("SET", "k", "x" * 500_000)
    assert number(parse_info(server.call("INFO", "memory")), "used_memory") - before >= 500_000


def test_errors_in_a_batch_stand_in_their_place(server: Server) -> None:
    replies = server.batch([("SET", "k", "x"), ("HSET", "k", "f", "v"), ("DEL", "k"), ("NOSUCH",), ("PTTL", "k")])
    assert (replies[0], replies[4]) == (b"OK", -1)
    kinds = [reply.kind for reply in replies[1:4] if isinstance(reply, OpsError)]
    assert kinds == [Kind.PRECONDITION, Kind.FORBIDDEN, Kind.UNSUPPORTED]


def test_scripts_are_forbidden(server: Server) -> None:
    with pytest.raises(Exception, match="perm") as caught:
        server.script("return 1")
    known = translate(caught.value)
    assert known is not None
    assert known.kind == Kind.FORBIDDEN


def test_rights_are_told_beforehand(server: Server) -> None:
    require(server, ("UNLINK", "x"), ("PEXPIRE", "x", "1"))
    with pytest.raises(OpsError, match="may not send DEL") as caught:
        require(server, ("UNLINK", "x"), ("DEL", "x"))
    assert caught.value.kind == Kind.FORBIDDEN
