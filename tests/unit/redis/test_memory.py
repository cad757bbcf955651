# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far a limit has to rise, what a host bears, and what a purge can promise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._redis import limits
from ansible_collections.sre.runbooks.plugins.module_utils._redis.allocator import Allocator
from ansible_collections.sre.runbooks.plugins.module_utils._redis.limits import needed_limit, refuse_unbearable
from ansible_collections.sre.runbooks.plugins.module_utils._redis.model import Memory
from ansible_collections.sre.runbooks.plugins.module_utils._redis.relief import Condition
from tests.fakes.redis import FakeServer

MIB = 1024 * 1024
MEMORY = Memory(
    used=100 * MIB,
    counted=100 * MIB,
    peak=100 * MIB,
    rss=110 * MIB,
    limit=100 * MIB,
    policy="noeviction",
    evictable=0.0,
    dataset=90 * MIB,
    overhead=10 * MIB,
    fragmentation_ratio=1.1,
    fragmentation_bytes=10 * MIB,
    client_buffers=0,
    replica_buffers=0,
    host_total=1000 * MIB,
    bearable=750 * MIB,
)
OPTIONS: dict[str, Any] = {
    "fragmentation_max": None,
    "strict": False,
    "ratio": None,
    "limit_ceiling": None,
    "host_memory": None,
    "rewrite": "auto",
}


@pytest.mark.parametrize("ratio", [0.5, 0.7, 0.8, 0.95])
@pytest.mark.parametrize("counted", [1, 79 * MIB, 80 * MIB, 100 * MIB - 1, 1234567890])
def test_the_needed_limit_holds_and_is_not_wasteful(ratio: float, counted: int) -> None:
    memory = replace(MEMORY, counted=counted)
    limit = needed_limit(memory, ratio)
    assert replace(memory, limit=limit).over(ratio) == 0
    assert limit >= memory.limit
    if limit > memory.limit:
        assert limit % MIB == 0
        assert limit <= counted / ratio * 1.01 + MIB


def test_a_server_without_a_limit_needs_none() -> None:
    assert needed_limit(replace(MEMORY, limit=0), 0.5) == 0


@pytest.mark.parametrize(("limit", "fits"), [(750 * MIB, True), (750 * MIB + 1, False), (0, False)])
def test_what_the_host_bears(limit: int, fits: bool) -> None:
    if fits:
        refuse_unbearable(FakeServer(), limit, MEMORY)
        return
    with pytest.raises(OpsError) as refused:
        refuse_unbearable(FakeServer(), limit, MEMORY)
    assert refused.value.code == "bearable"


def test_an_unknown_host_is_not_judged() -> None:
    refuse_unbearable(FakeServer(), 10**15, replace(MEMORY, bearable=0))


@pytest.mark.parametrize(("ratio", "waste", "fragmented"), [(2.0, 100, True), (1.5, 100, False), (9.0, 15, False)])
def test_what_counts_as_fragmented(ratio: float, waste: int, fragmented: bool) -> None:
    memory = replace(MEMORY, fragmentation_ratio=ratio, fragmentation_bytes=waste * MIB)
    assert Allocator(FakeServer(), memory, "jemalloc-5.3.0", 50 * MIB).fragmented(1.5) is fragmented


@pytest.mark.parametrize(
    ("name", "purgeable", "gives"), [("jemalloc-5.3.0", 50, True), ("jemalloc-5.3.0", 3, False), ("libc", 50, False)]
)
def test_what_can_be_given_back(name: str, purgeable: int, gives: bool) -> None:
    assert Allocator(FakeServer(), MEMORY, name, purgeable * MIB).can_give_back is gives


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ratio": 0.8},
        {"ratio": 1.0, "limit_ceiling": "1gb"},
        {"ratio": -1.0, "limit_ceiling": "1gb"},
        {"fragmentation_max": 0.9},
        {"ratio": 0.8, "limit_ceiling": "a lot"},
    ],
)
def test_conditions_that_cannot_hold(options: dict[str, Any]) -> None:
    with pytest.raises(OpsError) as refused:
        Condition.of({**OPTIONS, **options})
    assert refused.value.code == "bad_parameter"


@pytest.mark.parametrize(
    ("key", "is_queue"),
    [
        (b"bull:mail:id", True),
        (b"{bull}:mail:meta", True),
        (b"_kombu.binding.celery", True),
        (b"unacked", True),
        (b"rq:queue:default", True),
        (b"cache:bull:mail:id", False),
        (b"bulletin:1", False),
        (b"bull:mail:4711", False),
    ],
)
def test_which_keys_belong_to_a_queue(key: bytes, is_queue: bool) -> None:
    assert bool(limits._QUEUES.match(key)) is is_queue
