#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_keyspace_info
short_description: See which keys of a Redis hold its memory
version_added: 1.0.0
description:
  - Walks over the keyspace once and adds up memory by prefix, by declared class, by type and by TTL, with the largest
    keys and the queues that live there.
  - The server adds up slices of a few milliseconds itself; other clients wait for one slice at most.
  - Says why memory is full, and with O(remedies) which of the declared remedies would mend that.
  - Reads only. Key names are returned unless O(key_names) hides them; values never are.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.redis
  - sre.runbooks.attributes
  - sre.runbooks.attributes.info
options:
  match:
    description: Glob pattern of the keys to look at.
    type: str
    default: "*"
  separator:
    description: What parts the levels of a key's name.
    type: str
    default: ":"
  prefix_depth:
    description: How many levels make a prefix.
    type: int
    default: 1
  top:
    description: Number of prefixes and of largest keys to return.
    type: int
    default: 20
  samples:
    description: How many members of a large key to measure. V(0), which would measure all of them, is refused.
    type: int
    default: 5
  method:
    description:
      - V(lua) adds up on the server, V(pipeline) here.
      - V(auto) takes the first where this user may run scripts.
    type: str
    choices: [auto, lua, pipeline]
    default: auto
  budget:
    description: Seconds after which the walk stops and RV(coverage) says how far it came.
    type: float
    default: 60
  fraction:
    description: Share of the keyspace to look at. Sums are then scaled to the whole.
    type: float
    default: 1.0
  prefer_replica:
    description: Read from a replica that is online and can be reached.
    type: bool
    default: false
  classes:
    description: Key classes to add up. A key belongs to the first class that matches.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the class in RV(classes).
        type: str
        required: true
      match:
        description: Glob patterns of its keys.
        type: list
        elements: str
        required: true
      max_ttl:
        description: Longest TTL that is right for the class, such as V(2h).
        type: str
  remedies:
    description: What the owner of this target allows against full memory. RV(remedies) then says what would help.
    type: dict
    suboptions:
      target_ratio:
        description: Share of C(maxmemory) to come below.
        type: float
        default: 0.8
      disposable:
        description: Glob patterns of keys that may be deleted.
        type: list
        elements: str
        default: []
      ttl_caps:
        description: Classes whose TTL may be lowered.
        type: list
        elements: dict
        default: []
        suboptions:
          match:
            description: Glob pattern of the keys.
            type: str
            required: true
          max_ttl:
            description: Longest TTL to leave.
            type: str
            required: true
      protect:
        description: Glob patterns of keys never to touch.
        type: list
        elements: str
        default: []
      fragmentation_max:
        description: Resident over used memory above which the allocator may be purged.
        type: float
      limit_ceiling:
        description: Size up to which C(maxmemory) may be raised.
        type: str
      host_memory:
        description: Memory that the server may really use, where its container's limit cannot be seen from here.
        type: str
      settle:
        description: Seconds within which a lowered TTL counts as a remedy.
        type: int
        default: 30
  key_names:
    description: V(hash) returns digests in place of the names of keys and prefixes.
    type: str
    choices: [show, hash]
    default: show
  batch:
    description: Most keys to look at in one slice.
    type: int
    default: 1000
  slice_ms:
    description: Milliseconds that one slice may take of the server's time.
    type: float
    default: 5
notes:
  - Sizes are those of C(MEMORY USAGE); the server's own tables come on top of them.
  - Queues are known by names under O(match). A key that is renamed or rehashed during the walk may count twice.
seealso:
  - module: sre.runbooks.redis_keyspace
  - module: sre.runbooks.redis_info
"""

EXAMPLES = r"""
- name: Who holds the memory
  sre.runbooks.redis_keyspace_info:
    url: redis://127.0.0.1:6379/0
    prefix_depth: 2
    classes:
      - {name: sessions, match: ["sess:*"], max_ttl: 2h}
  register: census

- name: A tenth of a large keyspace, from a replica
  sre.runbooks.redis_keyspace_info:
    fraction: 0.1
    prefer_replica: true
"""

RETURN = r"""
prefixes:
  description: Keys, bytes, share of all bytes, keys without a TTL and average TTL (seconds), the largest first.
  returned: always
  type: list
  elements: dict
  sample: [{prefix: "cache:", count: 1000, bytes: 168000, share: 0.93, no_ttl: 0, avg_ttl: 3600.0}]
largest:
  description: The largest keys with bytes, type and TTL (seconds, V(-1) without one).
  returned: always
  type: list
  elements: dict
ttl:
  description: Number of keys by TTL.
  returned: always
  type: dict
types:
  description: Number of keys by type.
  returned: always
  type: dict
no_ttl_share:
  description: Share of the keys that have no TTL.
  returned: always
  type: float
classes:
  description: The declared classes by name, each like a prefix, with keys and bytes above its V(max_ttl).
  returned: always
  type: dict
protected:
  description: Keys of queues, sessions, locks and leases, which M(sre.runbooks.redis_keyspace) never deletes.
  returned: always
  type: list
  elements: dict
queues:
  description: Queues that live here, with kind, name and version.
  returned: always
  type: list
  elements: dict
remedies:
  description:
    - C(mendable) says whether the declared remedies bring memory below the ratio, C(rungs) which
      of them are needed, C(refused) why the others are not, C(next) what else would help.
  returned: when O(remedies) is given
  type: dict
coverage:
  description: How many keys were seen of how many, and whether the walk came to its end.
  returned: always
  type: dict
findings:
  description: Why memory is full, the worst first.
  returned: always
  type: list
  elements: dict
server:
  description: Name, version, role and managing service.
  returned: always
  type: dict
"""

from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._redis.causes import causes
from ..module_utils._redis.client import Redis
from ..module_utils._redis.product import REDIS
from ..module_utils._redis.report import described, looked_at

_CAP = {"match": {"type": "str", "required": True}, "max_ttl": {"type": "str", "required": True}}
_CLASS = {
    "name": {"type": "str", "required": True},
    "match": {"type": "list", "elements": "str", "required": True},
    "max_ttl": {"type": "str"},
}
_REMEDIES = {
    "target_ratio": {"type": "float", "default": 0.8},
    "disposable": {"type": "list", "elements": "str", "default": []},
    "ttl_caps": {"type": "list", "elements": "dict", "default": [], "options": _CAP},
    "protect": {"type": "list", "elements": "str", "default": []},
    "fragmentation_max": {"type": "float"},
    "limit_ceiling": {"type": "str"},
    "host_memory": {"type": "str"},
    "settle": {"type": "int", "default": 30},
}

SPEC = Spec(
    {
        "match": {"type": "str", "default": "*"},
        "separator": {"type": "str", "default": ":"},
        "prefix_depth": {"type": "int", "default": 1},
        "top": {"type": "int", "default": 20},
        "samples": {"type": "int", "default": 5},
        "method": {"type": "str", "choices": ["auto", "lua", "pipeline"], "default": "auto"},
        "budget": {"type": "float", "default": 60},
        "fraction": {"type": "float", "default": 1.0},
        "prefer_replica": {"type": "bool", "default": False},
        "classes": {"type": "list", "elements": "dict", "default": [], "options": _CLASS},
        "remedies": {"type": "dict", "options": _REMEDIES},
        "key_names": {"type": "str", "choices": ["show", "hash"], "default": "show"},
        "batch": {"type": "int", "default": 1000},
        "slice_ms": {"type": "float", "default": 5},
    }
)


def plan(redis: Redis, wanted: Params) -> Plan:
    """A plan without steps: the sums, and why memory is full."""
    seen = looked_at(redis, wanted)
    return Plan(target=redis.target, findings=causes(seen.view), facts=described(seen, wanted))


DOOR = REDIS.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
