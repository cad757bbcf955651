# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why memory is full, and which declared remedies are enough: numbers in, words out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._redis.causes import (
    Declared,
    Held,
    Remedies,
    View,
    causes,
    remedies,
    together,
)
from ansible_collections.sre.runbooks.plugins.module_utils._redis.census import Census, Group, Queue
from ansible_collections.sre.runbooks.plugins.module_utils._redis.model import Memory

MB = 1024 * 1024
FULL = Memory(
    used=100 * MB,
    counted=100 * MB,
    peak=100 * MB,
    rss=104 * MB,
    limit=100 * MB,
    policy="noeviction",
    evictable=0.0,
    dataset=90 * MB,
    overhead=10 * MB,
    fragmentation_ratio=1.04,
    fragmentation_bytes=4 * MB,
    client_buffers=0,
    replica_buffers=0,
    host_total=1000 * MB,
    bearable=750 * MB,
)


def held(name: str, megabytes: float, *, above: float = 0, cap: int = 0) -> Held:
    group = Group(1000, int(megabytes * MB), 0, 0, int(bool(above)) * 10, int(above * MB))
    return Held(name, group, cap)


def view(memory: Memory = FULL, **known: Any) -> View:
    census = known.pop("census", Census(total=Group(10_000, 90 * MB, 100)))
    return View(memory, census, known.pop("declared", Declared()), known.pop("queues", ()), "here")


def found(of: View) -> list[str]:
    return [finding.id for finding in causes(of)]


def ladder(memory: Memory = FULL, **declared: Any) -> Remedies:
    return remedies([memory], Declared(**declared))


# --- causes ---


def test_causes_are_ranked_by_bytes() -> None:
    declared = Declared(
        disposable=(held("cache:*", 30),), caps=(held("sess:*", 25, above=20, cap=7200),), fragmentation_max=1.5
    )
    memory = replace(FULL, fragmentation_ratio=1.6, fragmentation_bytes=60 * MB)
    census = Census(total=Group(10_000, 90 * MB, 100), largest=[(6 * MB, b"report", "hash", -1)])
    names = found(view(memory, declared=declared, census=census))
    assert names == ["redis.fragmentation", "redis.cache_too_big", "redis.ttl_too_long", "redis.giant_key"]


def test_nothing_that_stands_out_means_the_limit_is_too_low() -> None:
    assert found(view()) == ["redis.limit_too_low"]
    assert found(view(replace(FULL, counted=10 * MB))) == []


@pytest.mark.parametrize(("buffer", "name"), [("client_buffers", "client"), ("replica_buffers", "replica")])
def test_buffers_are_a_cause(buffer: str, name: str) -> None:
    assert f"redis.{name}_buffers" in found(view(replace(FULL, **{buffer: 40 * MB})))


def test_keys_without_a_ttl_disarm_a_volatile_policy() -> None:
    census = Census(total=Group(100, 90 * MB, 90), prefixes={b"cfg:": Group(90, MB, 90), b"a:": Group(10, MB, 0)})
    names = found(view(replace(FULL, policy="volatile-lru"), census=census))
    assert {"redis.no_ttl_share", "redis.policy_cannot_evict"} <= set(names)
    shown = next(one for one in causes(view(census=census)) if one.id == "redis.no_ttl_share")
    assert shown.evidence["most_in"] == "cfg:"


def test_queue_and_cache_need_different_policies() -> None:
    queues = (Queue("bullmq", "bull:mail"),)
    declared = Declared(disposable=(held("cache:*", 1),))
    assert "redis.queue_evictable" in found(view(replace(FULL, policy="allkeys-lru"), queues=queues))
    assert "redis.queue_evictable" not in found(view(queues=queues))
    assert "redis.queue_shares_cache" in found(view(queues=queues, declared=declared))
    assert "redis.queue_shares_cache" not in found(view(declared=declared))


# --- remedies ---


def test_nothing_is_needed_below_the_ratio() -> None:
    told = ladder(replace(FULL, counted=70 * MB), disposable=(held("cache:*", 30),), limit_ceiling=200 * MB)
    assert (told.mendable, told.wanted) == (True, 0)
    assert told.as_dict()["rungs"] == {}


def test_disposable_keys_are_enough() -> None:
    told = ladder(disposable=(held("cache:*", 30),), limit_ceiling=200 * MB)
    assert told.mendable
    assert {name: rung["frees"] for name, rung in told.as_dict()["rungs"].items()} == {"drop_disposable": 20 * MB}


def test_limit_is_raised_only_by_what_the_rest_leaves() -> None:
    told = ladder(disposable=(held("cache:*", 10),), limit_ceiling=200 * MB)
    assert told.mendable
    rungs = told.as_dict()["rungs"]
    assert list(rungs) == ["drop_disposable", "raise_limit"]
    assert rungs["raise_limit"]["limit"] == pytest.approx(90 * MB / 0.8, rel=0.001)


@pytest.mark.parametrize(
    ("memory", "ceiling", "why"),
    [(FULL, 110 * MB, "limit_ceiling"), (replace(FULL, bearable=105 * MB), 900 * MB, "the host can bear")],
)
def test_limit_is_bounded(memory: Memory, ceiling: int, why: str) -> None:
    told = ladder(memory, limit_ceiling=ceiling)
    assert not told.mendable
    assert why in told.as_dict()["refused"]["raise_limit"]
    assert told.next


def test_ttl_caps_count_only_within_the_time_to_settle() -> None:
    soon = ladder(caps=(held("tmp:*", 40, above=40, cap=20),), settle=30)
    assert (soon.mendable, list(soon.as_dict()["rungs"])) == (True, ["cap_ttl"])
    late = ladder(caps=(held("tmp:*", 40, above=40, cap=7200),), settle=30)
    assert not late.mendable
    assert late.as_dict()["rungs"]["cap_ttl"]["frees"] == 0


def test_purge_frees_the_host_and_not_the_limit() -> None:
    memory = replace(FULL, fragmentation_ratio=2.0, fragmentation_bytes=100 * MB)
    told = ladder(memory, fragmentation_max=1.5)
    assert told.as_dict()["rungs"]["purge_allocator"]["frees"] == 0
    assert not told.mendable
    assert "purge_allocator" not in ladder(memory).as_dict()["rungs"]


def test_client_buffers_are_not_treated_by_deleting_keys() -> None:
    told = ladder(replace(FULL, client_buffers=50 * MB), disposable=(held("cache:*", 30),), limit_ceiling=900 * MB)
    assert (told.mendable, told.as_dict()["rungs"]) == (False, {})
    assert "redis_clients_flood" in told.next


def test_one_full_primary_is_full_however_empty_the_others_are() -> None:
    calm = replace(FULL, counted=10 * MB, used=10 * MB)
    told = remedies([calm, FULL], Declared(disposable=(held("cache:*", 30),)))
    assert told.wanted == 20 * MB
    assert told.mendable


def test_primaries_are_added_up() -> None:
    both = together([FULL, replace(FULL, fragmentation_ratio=1.9)])
    assert (both.used, both.limit, both.fragmentation_ratio, both.policy) == (200 * MB, 200 * MB, 1.9, "noeviction")
