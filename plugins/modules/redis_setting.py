#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_setting
short_description: Settings of a running Redis have these values, and keep them
version_added: 1.0.0
description:
  - States values of C(CONFIG), for good or until a moment, and writes them to the configuration file if there is one.
  - Each value is compared right before it is set; when a later one fails, the earlier ones are set back.
  - Refuses a memory limit that the host cannot bear, and settings that can lock everybody out, lose data, or run code.
  - A limit below what is in use, and a policy that may evict the jobs of a queue, have to be confirmed.
  - On a cluster every primary is meant. Replicas keep their own settings; a finding says which they are.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.redis
  - sre.runbooks.guard
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  settings:
    description:
      - Names and values. Sizes may be written V(64mb), booleans as such, C(save) as V("900 1 300 10") or V("").
      - Of C(client-output-buffer-limit) the classes that are not named stay as they are.
    type: dict
    required: true
  until:
    description:
      - Moment with its time zone up to which O(settings) hold, such as V(2030-01-31T18:00:00Z); after it O(otherwise).
      - Nothing is scheduled. The same task, run again after that moment, sets O(otherwise).
    type: str
  otherwise:
    description: Values of the same settings from O(until) on.
    type: dict
  rewrite:
    description:
      - With V(auto) the configuration file is written where the server has one that this user may write; where not,
        RV(persisted) is false and a finding says why.
      - With V(always) that is an error.
      - Values that hold only until a moment are never written.
    type: str
    choices: [auto, always, never]
    default: auto
  host_memory:
    description:
      - Memory that the server may really use, such as V(4gb).
      - Needed where it runs in a container on another machine, whose limit Redis itself does not know.
    type: str
  protect:
    description: Settings that are never changed, as glob patterns, besides those that are always protected.
  max_count:
    description: Refuse when more changes than this would be made, on all servers together.
    type: int
    default: 100
  max_fraction:
    description: Not used by this module.
    type: float
    default: 1.0
seealso:
  - module: sre.runbooks.redis_memory
  - module: sre.runbooks.redis_info
"""

EXAMPLES = r"""
- name: Idle connections end after five minutes
  sre.runbooks.redis_setting:
    host: 127.0.0.1
    settings:
      timeout: 300
      tcp-keepalive: 60

- name: Log slow commands more closely until the evening
  sre.runbooks.redis_setting:
    url: redis://127.0.0.1:6379/0
    settings: {slowlog-log-slower-than: 1000}
    until: "2030-01-31T18:00:00Z"
    otherwise: {slowlog-log-slower-than: 10000}
"""

RETURN = r"""
persisted:
  description: Whether the values survive a restart of the server; true when nothing had to be changed.
  returned: always
  type: bool
temporary:
  description: Whether the values hold only until O(until).
  returned: always
  type: bool
findings:
  description:
    - V(redis.not_persisted) where the configuration file was not written, V(redis.replicas_differ) where there are
      replicas that keep the old values.
  returned: always
  type: list
  elements: dict
undo:
  description: For each change the call of this module that takes it back.
  returned: always
  type: list
  elements: dict
"""

from datetime import UTC, datetime

from ..module_utils._core.guard import guard_options
from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._core.units import parse_size
from ..module_utils._redis import configure
from ..module_utils._redis.client import Redis
from ..module_utils._redis.limits import refuse_hazards
from ..module_utils._redis.product import REDIS
from ..module_utils._redis.settings import refuse_protected, settings_of_now

SPEC = Spec(
    {
        "settings": {"type": "dict", "required": True},
        "until": {"type": "str"},
        "otherwise": {"type": "dict"},
        "rewrite": {"type": "str", "choices": ["auto", "always", "never"], "default": "auto"},
        "host_memory": {"type": "str"},
    },
    required_together=(("until", "otherwise"),),
) | guard_options(max_count=100)


def plan(redis: Redis, wanted: Params) -> Plan:
    """A step for each setting that differs, and one for each file to write."""
    now = datetime.now(UTC)
    settings, temporary = settings_of_now(wanted["settings"], wanted["until"], wanted["otherwise"], now)
    refuse_protected(settings, wanted["protect"])
    changes = configure.changes(redis, settings)
    memory = wanted["host_memory"]
    refuse_hazards(redis, changes, parse_size(memory, "host_memory") if memory else 0, wanted["confirm"] or "")
    persistence = configure.Persistence(wanted["rewrite"], temporary)
    steps = configure.steps(redis, changes, persistence)
    return Plan(
        target=redis.target,
        selector={"settings": settings, "temporary": temporary, "rewrite": wanted["rewrite"]},
        before=configure.as_diff(changes, redis.clustered, "before"),
        after=configure.as_diff(changes, redis.clustered, "after"),
        steps=steps,
        findings=configure.replicas_differ(redis, changes),
        verify=configure.in_force(redis, settings),
        facts={"persisted": configure.persisted(changes, persistence), "temporary": temporary},
        aftermath=configure.outcome(redis, changes, persistence),
    )


DOOR = REDIS.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
