#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_info
short_description: See what is wrong with a Redis, by its own numbers
version_added: 1.0.0
description:
  - One pass over memory, clients, replication, persistence, databases, slow commands, latency and settings.
  - Returns findings with stable ids, on which a playbook can branch, and what this user was not allowed to see.
  - Reads only. Arguments of slow commands and secret settings are never returned.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.redis
  - sre.runbooks.clear
  - sre.runbooks.attributes
  - sre.runbooks.attributes.info
options:
  sections:
    description: What to look at. V(rates) needs O(sample).
    type: list
    elements: str
    choices:
      - memory
      - clients
      - connections
      - replication
      - persistence
      - databases
      - slow
      - costs
      - latency
      - rates
      - settings
      - rights
    default: [memory, clients, replication, persistence, databases, slow, costs, latency]
  memory_ratio:
    description: Share of C(maxmemory) from which memory is a finding.
    type: float
    default: 0.8
  clients_ratio:
    description: Share of C(maxclients) from which connections are a finding.
    type: float
    default: 0.8
  fragmentation_max:
    description: Resident over used memory from which fragmentation is a finding.
    type: float
    default: 1.5
  slow_ms:
    description: Milliseconds from which a command, or a latency event, is a finding.
    type: float
    default: 10.0
  host_memory:
    description:
      - Memory that the server may really use, such as V(4gb).
      - Needed where it runs in a container on another machine, whose limit Redis itself does not know.
    type: str
  sample:
    description: Seconds between the two readings that rates are made of; V(0) takes none.
    type: float
    default: 0
  top:
    description: Number of slow commands, command costs and groups of connections to return.
    type: int
    default: 10
seealso:
  - module: sre.runbooks.redis_keyspace_info
"""

EXAMPLES = r"""
- name: Look at a Redis
  sre.runbooks.redis_info:
    host: 127.0.0.1
    port: 6379
  register: seen

- name: Wait until memory has been fine three times in a row
  sre.runbooks.redis_info:
    url: redis://127.0.0.1:6379/0
    sections: [memory]
    clear_of: [redis.memory_full, redis.memory_high]
    timeout: 60
"""

RETURN = r"""
findings:
  description: What is wrong, the worst first.
  returned: always
  type: list
  elements: dict
  sample:
    - id: redis.memory_full
      severity: critical
      subject: 127.0.0.1:6379
      evidence: {ratio: 0.99, counted: 66436300, limit: 67108864, policy: noeviction}
      suggest: Run redis_memory_full.
memory:
  description: Bytes; C(ratio) is the share of the limit in use, C(bearable) the largest limit that the host can stand.
  returned: when asked for and seen
  type: dict
clients:
  description: Connections, how many wait in a blocking command, the limit, and how many were refused.
  returned: when asked for and seen
  type: dict
connections:
  description: Who holds the connections, by name, user and host, the most first.
  returned: when asked for and seen
  type: list
  elements: dict
replication:
  description: Role, link, and each replica with its lag in bytes.
  returned: when asked for and seen
  type: dict
persistence:
  description: Whether data is being loaded, and whether snapshots and the append-only file work.
  returned: when asked for and seen
  type: dict
databases:
  description: Keys, expiring keys and average TTL (seconds) of each database.
  returned: when asked for and seen
  type: dict
slow:
  description: The slowest entries of the slow log, without arguments.
  returned: when asked for and seen
  type: list
  elements: dict
costs:
  description: The commands that took most of the server's time since its start.
  returned: when asked for and seen
  type: list
  elements: dict
latency:
  description: Latency events in milliseconds.
  returned: when asked for and seen
  type: list
  elements: dict
rates:
  description: Events per second over O(sample).
  returned: when O(sample) is above 0
  type: dict
settings:
  description: Settings, without the secret ones.
  returned: when asked for and seen
  type: dict
rights:
  description: What this user may do.
  returned: when asked for and seen
  type: dict
unseen:
  description: Sections that could not be read, and why.
  returned: always
  type: dict
nodes:
  description: The same sections for each primary of a cluster.
  returned: on a cluster
  type: dict
server:
  description: Name, version, role and managing service.
  returned: always
  type: dict
"""

from collections.abc import Mapping

from ..module_utils._core.clear import CLEAR_OPTIONS, clear
from ..module_utils._core.plan import Finding, Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._core.units import parse_size
from ..module_utils._redis.client import Redis, Server
from ..module_utils._redis.facts import SECTIONS, Look, read_facts
from ..module_utils._redis.health import Thresholds, findings
from ..module_utils._redis.model import Facts, as_facts
from ..module_utils._redis.product import REDIS
from ..module_utils._redis.replies import parse_info

SPEC = Spec(
    {
        "sections": {
            "type": "list",
            "elements": "str",
            "choices": list(SECTIONS),
            "default": ["memory", "clients", "replication", "persistence", "databases", "slow", "costs", "latency"],
        },
        "memory_ratio": {"type": "float", "default": 0.8},
        "clients_ratio": {"type": "float", "default": 0.8},
        "fragmentation_max": {"type": "float", "default": 1.5},
        "slow_ms": {"type": "float", "default": 10.0},
        "host_memory": {"type": "str"},
        "sample": {"type": "float", "default": 0},
        "top": {"type": "int", "default": 10},
    }
)


def plan(redis: Redis, wanted: Params) -> Plan:
    """A plan without steps: what each primary shows, and what that means."""
    look = _look(wanted)
    limits = Thresholds(
        wanted["memory_ratio"], wanted["clients_ratio"], wanted["fragmentation_max"], slow_ms=wanted["slow_ms"]
    )
    seen = {server.address.name: _facts(redis, server, look) for server in redis.servers}
    entry = seen[redis.entry.address.name]
    nodes = {"nodes": {name: as_facts(facts) for name, facts in seen.items()}} if redis.clustered else {}
    return Plan(
        target=redis.target,
        findings=_all(seen, limits),
        facts={"unseen": {}, **as_facts(entry), **nodes},
        verify=clear(wanted, lambda: _again(redis, look, limits)),
    )


def _look(wanted: Params) -> Look:
    size = wanted["host_memory"]
    sections = frozenset(wanted["sections"])
    return Look(sections, wanted["sample"], wanted["top"], parse_size(size, "host_memory") if size else 0)


def _facts(redis: Redis, server: Server, look: Look) -> Facts:
    info = redis.info if server is redis.entry else parse_info(server.call("INFO"))
    return read_facts(server, info, look)


def _all(seen: Mapping[str, Facts], limits: Thresholds) -> tuple[Finding, ...]:
    return tuple(finding for name, facts in seen.items() for finding in findings(facts, limits, name))


def _again(redis: Redis, look: Look, limits: Thresholds) -> tuple[Finding, ...]:
    return _all({s.address.name: read_facts(s, parse_info(s.call("INFO")), look) for s in redis.servers}, limits)


DOOR = REDIS.door(SPEC | CLEAR_OPTIONS, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
