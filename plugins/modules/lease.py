#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: lease
short_description: One runbook at a time works on a target
version_added: 1.0.0
description:
  - States that a run holds a lease, or no longer does. Another run that asks for it meanwhile fails with a conflict
    that says who has it, since when, and until when.
  - The lease ends by itself after O(ttl); a run that works longer takes it again, which renews it.
  - The lease of a run that was killed is taken over at once where its death is certain, on the same machine; elsewhere
    after its time.
  - It can be taken on a server that is at C(maxmemory), as long as the user may run scripts.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.redis
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  name:
    description: What is leased. Runbooks that must not meet use the same name.
    type: str
    required: true
  owner:
    description: Who asks, an id that is unique to the run.
    type: str
    required: true
  state:
    description: V(released) gives back one's own lease only; that of another run is left alone, and a finding says so.
    type: str
    choices: [held, released]
    default: held
  ttl:
    description:
      - How long the lease lasts, such as V(5m), should nobody give it back.
      - Taking one's own lease again is a change only when less than half of this is left.
    type: str
    default: 5m
  wait:
    description: Seconds to wait for another run to give the lease back.
    type: float
    default: 0
  backend:
    description: Where the lease is kept.
    type: str
    choices: [redis]
    default: redis
notes:
  - Where the server may evict keys (C(allkeys-*), or C(volatile-*)) it may evict the lease too. Runbooks verify what
    they did by the patient's own numbers, so a lost lease costs order, not correctness.
seealso:
  - module: sre.runbooks.redis_info
"""

EXAMPLES = r"""
- name: Take the lease, and wait a while for another run
  sre.runbooks.lease:
    host: 127.0.0.1
    name: cache
    owner: run-4711
    ttl: 10m
    wait: 5

- name: Give the lease back
  sre.runbooks.lease:
    host: 127.0.0.1
    name: cache
    owner: run-4711
    state: released
"""

RETURN = r"""
lease:
  description: The lease after the run. C(fence) grows each time it changes hands, for whoever can check it.
  returned: always
  type: dict
  sample:
    name: cache
    key: sre.runbooks:lease:cache
    held: true
    ours: true
    owner: run-4711
    by: root@bastion
    since: "2030-01-31T17:00:00Z"
    until: "2030-01-31T17:10:00Z"
    fence: 1895763600000000
findings:
  description: V(lease.taken_over) from a dead run, V(lease.held_by_other) when there was nothing of ours to give back.
  returned: always
  type: list
  elements: dict
"""

import time

from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._redis.client import Redis, primary_only
from ..module_utils._redis.lease import cell
from ..module_utils._redis.product import REDIS
from ..module_utils._redis.tenure import Asked, plan_release, plan_take

SPEC = Spec(
    {
        "name": {"type": "str", "required": True},
        "owner": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["held", "released"], "default": "held"},
        "ttl": {"type": "str", "default": "5m"},
        "wait": {"type": "float", "default": 0},
        "backend": {"type": "str", "choices": ["redis"], "default": "redis"},
    }
)


def plan(redis: Redis, wanted: Params) -> Plan:
    """At most one step: take, take over, renew, or give back."""
    primary_only(redis)
    asked = Asked.of(wanted, time.monotonic())
    place = cell(redis, asked.name)
    return plan_take(redis, place, asked) if wanted["state"] == "held" else plan_release(redis, place, asked)


DOOR = REDIS.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
