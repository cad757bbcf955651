#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_client
short_description: No client connection of a kind is left on a Redis
version_added: 1.0.0
description:
  - States that no client matching the selection is connected, and ends those that are, each by its id.
  - Never ends a replication link, a Sentinel's connection, a client inside C(MULTI), a C(MONITOR) that was not asked
    for, or a connection of this collection; subscribers and workers that wait for work only when told to.
  - Right before a connection is ended, it is looked at again. One that has woken up or gone is left alone.
  - On a cluster the clients of every primary are meant.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.redis
  - sre.runbooks.guard
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  name:
    description:
      - Glob pattern of the name that the client gave itself.
      - V("") means clients without a name, and needs another filter beside it.
    type: str
  user:
    description: Glob pattern of the ACL user.
    type: str
  addr:
    description: Where the client connects from, a network (V(10.0.0.0/8)), an address, or C(address:port).
    type: str
  lib:
    description: Glob pattern of the client library's name; Redis 7.2 and later know it.
    type: str
  cmd:
    description: Glob pattern of the latest command, in lower case, with C(|) before a subcommand.
    type: str
  flags:
    description:
      - Only clients that bear all these letters of C(CLIENT LIST).
      - A C(MONITOR) is ended only with V(O) among them.
    type: str
  min_idle:
    description:
      - Only clients that have sent nothing for this long, such as V(10m).
      - One of O(min_idle) and O(min_age), and one of O(name), O(user), O(addr), O(lib) and O(cmd), have to be given.
    type: str
  min_age:
    description: Only clients that have been connected for this long, such as V(1h).
    type: str
  type:
    description: The type of client that may be ended. A subscriber is idle by nature, so V(pubsub) needs O(min_age).
    type: str
    choices: [normal, pubsub]
    default: normal
  protect_blocked:
    description: Leave workers alone that wait in a blocking command, or had one as their latest.
    type: bool
    default: true
  protect:
    description: Names, users, addresses and networks that are never touched, as glob patterns or networks.
  max_count:
    description: Refuse when more connections than this would be ended.
    type: int
    default: 50
  max_fraction:
    description: Refuse when more than this share of all connections would be ended.
    type: float
    default: 0.8
  settle:
    description: Seconds to wait before connections are counted again; pools come back within that time.
    type: float
    default: 1.0
seealso:
  - module: sre.runbooks.redis_info
  - module: sre.runbooks.redis_setting
"""

EXAMPLES = r"""
- name: No connection of the web application has been idle for more than ten minutes
  sre.runbooks.redis_client:
    host: 127.0.0.1
    name: "web*"
    min_idle: 10m

- name: No leaked connection of one host is left
  sre.runbooks.redis_client:
    url: redis://127.0.0.1:6379/0
    addr: 192.0.2.17
    min_idle: 1h
    protect: ["cron*"]
    max_count: 500
"""

RETURN = r"""
clients:
  description:
    - C(connected) at the start, how many of them C(matched) and may be ended, and who they are C(by_name).
    - After the run, how many were C(ended), and how many C(reconnected) since.
  returned: always
  type: dict
  sample:
    connected: 523
    matched: 500
    by_name: [{name: web, user: default, count: 500}]
    ended: 500
    reconnected: 0
spared:
  description: Connections that the selection means but that were left alone, each with the reason.
  returned: always
  type: list
  elements: dict
  sample: [{subject: "id=12 addr=127.0.0.1:40112 name=web", reason: waits in brpop, count: 1}]
measured:
  description: Connected clients before and after O(settle), against what was forecast; the difference came back.
  returned: when something was ended
  type: dict
findings:
  description: V(redis.clients_reconnect) where pools came back, V(redis.timeout_unset) where nothing ends idle clients.
  returned: always
  type: list
  elements: dict
"""

from ..module_utils._core.guard import guard_options
from ..module_utils._core.plan import Forecast, Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._redis.client import Redis
from ..module_utils._redis.kills import connections, gone, no_timeout, steps, take_census, who_came_back
from ..module_utils._redis.product import REDIS
from ..module_utils._redis.sessions import Wanted, by_name, spared_classes

FILTERS = ("name", "user", "addr", "lib", "cmd")

SPEC = Spec(
    {
        **{name: {"type": "str"} for name in (*FILTERS, "flags", "min_idle", "min_age")},
        "type": {"type": "str", "choices": ["normal", "pubsub"], "default": "normal"},
        "protect_blocked": {"type": "bool", "default": True},
        "settle": {"type": "float", "default": 1.0},
    },
    required_one_of=(FILTERS, ("min_idle", "min_age")),
) | guard_options(max_count=50, max_fraction=0.8)


def plan(redis: Redis, wanted: Params) -> Plan:
    """A step for each connection that is meant and may be ended."""
    selection = Wanted.of(wanted)
    census = take_census(redis, selection)
    meant = [session for _server, session in census.selected]
    facts = {"connected": census.total, "matched": len(meant), "by_name": by_name(meant), "ended": 0, "reconnected": 0}
    return Plan(
        target=redis.target,
        selector={name: wanted[name] for name in SPEC.options if name not in ("settle", "confirm", "approved_plan")},
        before={"matching": len(meant)},
        after={"matching": 0},
        steps=steps(census, selection, redis.clustered),
        spared=spared_classes(census.spared),
        findings=no_timeout(redis) if meant else (),
        forecast=Forecast(
            "connected_clients",
            "connections",
            census.total,
            census.total - len(meant),
            lambda: connections(redis, wanted["settle"]),
        ),
        verify=gone(census) if meant else None,
        facts={"clients": facts},
        exact=False,
        population=census.total,
        aftermath=who_came_back(redis, census, facts),
    )


DOOR = REDIS.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
