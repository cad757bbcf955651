#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_keyspace
short_description: Hold a condition on classes of Redis keys
version_added: 1.0.0
description:
  - Makes true that no key of a class exists, or that none lives longer than O(max_ttl).
  - With O(until_memory_below) keys are deleted only while memory is above that ratio, and no further.
  - Counts first, judges the count, then works in slices of a few milliseconds in which the server itself tests each
    key again before it acts. Other clients wait for one slice at most.
  - Keys of queues, sessions, locks and leases are never deleted, whatever pattern is given; what was spared is counted.
  - Works on one server, on the primary that Sentinels name, and on every primary of a cluster. A replica is refused.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.redis
  - sre.runbooks.guard
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  match:
    description:
      - Glob patterns of the keys that are meant, in the order of least value.
      - V(\\xNN) stands for one byte. A pattern that names nothing, such as V(*), is refused.
    type: list
    elements: str
    required: true
  state:
    description:
      - With V(absent) no such key is left.
      - With V(ttl_capped) no such key lives longer than O(max_ttl). TTLs are lowered and never raised. Session keys
        may be capped when O(match) names them outright.
    type: str
    choices: [absent, ttl_capped]
    default: absent
  max_ttl:
    description: Longest TTL to leave, such as V(2h).
    type: str
  jitter:
    description: Share of O(max_ttl) by which TTLs are spread below it, so that the keys do not all expire at once.
    type: float
    default: 0.1
  include_persistent:
    description: Also give a TTL to keys that have none. They are often configuration.
    type: bool
    default: false
  type:
    description: Only keys of this type.
    type: str
    choices: [string, list, set, zset, hash, stream]
  min_idle:
    description: Only keys that nobody has read or written for so long, such as V(1d). Not with an LFU policy.
    type: str
  min_size:
    description: Only keys that hold at least so much memory, such as V(1mb).
    type: str
  ttl_below:
    description: Only keys that expire within so long, such as V(1h).
    type: str
  no_ttl_only:
    description: Only keys without a TTL.
    type: bool
    default: false
  until_memory_below:
    description:
      - Delete only until so large a share of C(maxmemory) is in use, such as V(0.7), and no further.
      - Nothing is done where memory is below it already.
    type: float
  batch:
    description: Most keys to look at in one slice. The slice adapts to the server and stays below this.
    type: int
    default: 500
  slice_ms:
    description: Milliseconds that one slice may take of the server's time.
    type: float
    default: 5
  rate:
    description: Most keys to act on in a second. Without it as fast as the slices allow.
    type: int
  timeout:
    description: Seconds for all of the work. What was done by then stays done, and the next run goes on.
    type: float
    default: 240
  replica_lag_max:
    description: Pause while a replica is more than this behind.
    type: str
    default: 64mb
  max_count:
    description: Refuse when more keys than this would be acted on.
    type: int
    default: 10000
  max_fraction:
    description: Refuse when more than this share of all keys would be acted on.
    type: float
    default: 1.0
notes:
  - Where the user may run scripts, each slice is one Lua call. Otherwise pipelines do the same, and between test and
    act a client may use a key; its name cannot change.
  - A deleted cache is built again by its owner. There is no undo, so look at a check run first.
seealso:
  - module: sre.runbooks.redis_keyspace_info
  - module: sre.runbooks.redis_info
"""

EXAMPLES = r"""
- name: Delete page cache, then fragments, until memory is below 70 %
  sre.runbooks.redis_keyspace:
    url: redis://127.0.0.1:6379/0
    match: ["cache:page:*", "cache:fragment:*"]
    until_memory_below: 0.7
    max_count: 2000000

- name: No session lives longer than two hours
  sre.runbooks.redis_keyspace:
    match: ["sess:*"]
    state: ttl_capped
    max_ttl: 2h
    max_count: 500000
"""

RETURN = r"""
keyspace:
  description:
    - What was counted before anything was done, in all and for each pattern.
    - C(expired_seen) are keys that had run out and that the count itself made go away.
  returned: always
  type: dict
  sample:
    matched: 1200
    protected: 2
    bytes_estimated: 201600
    expired_seen: 0
    method: lua
    patterns:
      - {match: "cache:*", matched: 1200, protected: 2, bytes_estimated: 201600, bytes_exact: false}
plan:
  description: Identity of the plan and how many keys and bytes it means.
  returned: always
  type: dict
spared:
  description: Matching keys that were left alone, by class, with the reason.
  returned: always
  type: list
  elements: dict
measured:
  description: Memory, or keys above the cap, before and after, and how many keys were acted on.
  returned: when something was done
  type: dict
server:
  description: Name, version, role and managing service.
  returned: always
  type: dict
"""

from ..module_utils._core.guard import guard_options
from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._redis.client import Redis
from ..module_utils._redis.keyspace import Wanted, hold_true
from ..module_utils._redis.product import REDIS

SPEC = guard_options(max_count=10000) | Spec(
    {
        "match": {"type": "list", "elements": "str", "required": True},
        "state": {"type": "str", "choices": ["absent", "ttl_capped"], "default": "absent"},
        "max_ttl": {"type": "str"},
        "jitter": {"type": "float", "default": 0.1},
        "include_persistent": {"type": "bool", "default": False},
        "type": {"type": "str", "choices": ["string", "list", "set", "zset", "hash", "stream"]},
        "min_idle": {"type": "str"},
        "min_size": {"type": "str"},
        "ttl_below": {"type": "str"},
        "no_ttl_only": {"type": "bool", "default": False},
        "until_memory_below": {"type": "float"},
        "batch": {"type": "int", "default": 500},
        "slice_ms": {"type": "float", "default": 5},
        "rate": {"type": "int"},
        "timeout": {"type": "float", "default": 240},
        "replica_lag_max": {"type": "str", "default": "64mb"},
    },
    required_if=(("state", "ttl_capped", ("max_ttl",)),),
    mutually_exclusive=(("ttl_below", "no_ttl_only"),),
)


def plan(redis: Redis, wanted: Params) -> Plan:
    """Counts what is asked for, and plans one step for each class of keys that has any."""
    return hold_true(redis, Wanted.of(wanted), wanted)


DOOR = REDIS.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
