# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sums over a fake's keys, bounded memory, and scaling of a part to the whole."""

from __future__ import annotations

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.redact import digest
from ansible_collections.sre.runbooks.plugins.module_utils._redis import census as module
from ansible_collections.sre.runbooks.plugins.module_utils._redis.census import (
    OTHER,
    Census,
    Chain,
    Group,
    KeyClass,
    Piped,
    Question,
    Tour,
    as_facts,
    prefix_of,
    queues,
)
from ansible_collections.sre.runbooks.plugins.module_utils._redis.walk import Deadline, Pace
from tests.fakes.redis import FakeServer


def take(server: FakeServer, question: Question, fraction: float = 1.0) -> Census:
    return Tour(question, Piped(clustered=False), Pace(largest=50), Deadline(60), fraction).take([server])


def seeded() -> FakeServer:
    server = FakeServer()
    for number in range(200):
        server.call("SET", f"cache:page:{number}", "x" * 100, *(("EX", 7200) if number % 2 else ()))
    for number in range(50):
        server.call("SET", f"sess:{number}", "x", "EX", 90_000)
    server.call("SET", "plain", "x" * 5000)
    return server


@pytest.mark.parametrize(
    ("key", "depth", "prefix"),
    [
        (b"a:b:c", 1, b"a:"),
        (b"a:b:c", 2, b"a:b:"),
        (b"a:b", 2, b"a:"),
        (b"abc", 1, b""),
        (b":a", 1, b":"),
        (b"", 1, b""),
    ],
)
def test_prefixes(key: bytes, depth: int, prefix: bytes) -> None:
    assert prefix_of(key, Question(depth=depth)) == prefix


def test_sums() -> None:
    facts = as_facts(take(seeded(), Question(top=3)), 3)
    prefixes = {entry["prefix"]: entry for entry in facts["prefixes"]}
    assert prefixes["cache:"]["count"] == 200
    assert prefixes["cache:"]["no_ttl"] == 100
    assert prefixes["sess:"]["avg_ttl"] == pytest.approx(90_000, abs=1)
    assert prefixes["(none)"]["count"] == 1
    assert facts["largest"][0] == {"key": "plain", "bytes": 5061, "type": "string", "ttl": -1}
    assert facts["ttl"] == {
        "none": 101,
        "below 1m": 0,
        "below 1h": 0,
        "below 1d": 100,
        "below 7d": 50,
        "7d and more": 0,
    }
    assert facts["protected"] == [{"what": "session", "count": 50, "bytes": prefixes["sess:"]["bytes"]}]
    assert facts["coverage"]["complete"]


def test_names_are_hidden_on_request() -> None:
    facts = as_facts(take(seeded(), Question()), 3, digest)
    assert "plain" not in str(facts)
    assert "cache" not in str(facts)


def test_first_class_wins_and_kept_keys_count_for_no_remedy() -> None:
    pages = KeyClass("pages", (b"cache:page:1*",), cap=3_600_000)
    chains = (Chain((pages, KeyClass("all", (b"*",)))), Chain((KeyClass("s", (b"s*",)),), spares=True))
    census = take(seeded(), Question(chains=chains))
    first, rest = census.chains[0]
    assert (first.count, rest.count) == (111, 140)
    assert first.above == sum(number % 2 for number in range(200) if str(number).startswith("1"))
    assert census.chains[1][0].count == 0


def test_sessions_count_for_a_cap() -> None:
    chain = Chain((KeyClass("s", (b"s*",), cap=3_600_000),), spares=True, sessions=False)
    assert take(seeded(), Question(chains=(chain,))).chains[0][0].above == 50


def test_part_is_scaled_to_the_whole() -> None:
    census = take(seeded(), Question(), fraction=0.5)
    assert not census.complete
    assert 0.4 < census.fraction < 0.8
    assert as_facts(census, 5)["keys_total"] == pytest.approx(251, abs=2)


def test_prefixes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PREFIXES", 10)
    census = Census()
    for number in range(200):
        census.add(Census(prefixes={b"%d:" % number: Group(1, number)}), 5)
    assert len(census.prefixes) <= 21
    assert census.prefixes[OTHER].bytes + sum(g.bytes for p, g in census.prefixes.items() if p != OTHER) == sum(
        range(200)
    )


def test_largest_keeps_no_key_twice() -> None:
    census = Census()
    for _turn in range(2):
        census.add(Census(largest=[(10, b"a", "string", -1), (20, b"b", "string", -1)]), 5)
    assert sorted(entry[1] for entry in census.largest) == [b"a", b"b"]
    assert census.threshold(5) == 0
    assert census.threshold(2) == 10


def test_queues_are_known_by_their_marks() -> None:
    server = FakeServer()
    server.call("HSET", "my:mail:meta", "version", "bullmq:5.81.5")
    server.call("HSET", "page:meta", "title", "x")
    server.call("SET", "_kombu.binding.celery", "x")
    found = queues([server], take(server, Question()))
    assert {(queue.kind, queue.name, queue.version) for queue in found} == {
        ("bullmq", "my:mail", "bullmq:5.81.5"),
        ("celery", "celery", ""),
    }
