#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_memory
short_description: A Redis wastes little memory, and uses no more than a share of its limit
version_added: 1.0.0
description:
  - States conditions on memory itself; no key is touched. Conditions on keys are M(sre.runbooks.redis_keyspace)'s.
  - With O(fragmentation_max), purges the allocator where it has something to give back.
  - With O(ratio), raises C(maxmemory) just enough, never above O(limit_ceiling) or three quarters of the host's memory,
    and never lowers it.
  - On a cluster every primary is meant, and all get the same limit.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.redis
  - sre.runbooks.guard
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  fragmentation_max:
    description:
      - Largest resident over used memory. Below 16 MiB of waste nothing is done.
      - What is scattered inside pages in use cannot be purged; then a finding says so.
    type: float
  strict:
    description: Fail when memory stays above O(fragmentation_max) although nothing is left to purge.
    type: bool
    default: false
  ratio:
    description: Largest share of C(maxmemory) in use, such as V(0.8). Holds on a server without a limit.
    type: float
  limit_ceiling:
    description: The largest C(maxmemory) that O(ratio) may lead to, such as V(6gb).
    type: str
  host_memory:
    description:
      - Memory that the server may really use, such as V(8gb).
      - Needed where it runs in a container on another machine, whose limit Redis itself does not know.
    type: str
  rewrite:
    description: Whether the new limit is written to the configuration file; as for M(sre.runbooks.redis_setting).
    type: str
    choices: [auto, always, never]
    default: auto
  max_count:
    description: Refuse when more steps than this would be taken, on all servers together.
    type: int
    default: 100
  max_fraction:
    description: Not used by this module.
    type: float
    default: 1.0
seealso:
  - module: sre.runbooks.redis_keyspace
  - module: sre.runbooks.redis_setting
"""

EXAMPLES = r"""
- name: The allocator gives back what it does not need
  sre.runbooks.redis_memory:
    host: 127.0.0.1
    fragmentation_max: 1.5

- name: At most 80 % of the limit is in use, by a higher limit if need be
  sre.runbooks.redis_memory:
    url: redis://127.0.0.1:6379/0
    ratio: 0.8
    limit_ceiling: 2gb
"""

RETURN = r"""
memory:
  description: Memory in bytes, after the run where something was done.
  returned: always
  type: dict
nodes:
  description: The same for each primary of a cluster.
  returned: on a cluster
  type: dict
persisted:
  description: Whether the limit survives a restart of the server; true when it had not to be changed.
  returned: always
  type: bool
measured:
  description: The share of the limit in use, or resident memory, before and after, against what was forecast.
  returned: when something was done
  type: dict
findings:
  description:
    - V(redis.fragmentation_stays) where a purge cannot help, V(redis.not_persisted) and V(redis.replicas_differ) as for
      M(sre.runbooks.redis_setting).
  returned: always
  type: list
  elements: dict
"""

from ..module_utils._core.guard import guard_options
from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._redis.client import Redis
from ..module_utils._redis.product import REDIS
from ..module_utils._redis.relief import Condition, needed_relief

SPEC = Spec(
    {
        "fragmentation_max": {"type": "float"},
        "strict": {"type": "bool", "default": False},
        "ratio": {"type": "float"},
        "limit_ceiling": {"type": "str"},
        "host_memory": {"type": "str"},
        "rewrite": {"type": "str", "choices": ["auto", "always", "never"], "default": "auto"},
    },
    required_one_of=(("fragmentation_max", "ratio"),),
    required_by={"ratio": "limit_ceiling"},
) | guard_options(max_count=100)


def plan(redis: Redis, wanted: Params) -> Plan:
    """A purge for each server that wastes memory, a higher limit for each that needs one."""
    relief = needed_relief(redis, Condition.of(wanted))
    steps = relief.steps()
    before, after = relief.diff()
    return Plan(
        target=redis.target,
        selector={name: wanted[name] for name in ("fragmentation_max", "ratio", "limit_ceiling", "rewrite")},
        before=before,
        after=after,
        steps=steps,
        findings=relief.findings(),
        forecast=relief.forecast(),
        verify=relief.verify(),
        facts=relief.facts(),
        aftermath=relief.aftermath,
    )


DOOR = REDIS.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
