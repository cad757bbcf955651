#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_reach_info
short_description: See how far one gets on the way to a Redis, and what stops it there
version_added: 1.0.0
description:
  - Goes the way of a client stage by stage, from the name to a write, and says where it ends and why.
  - Never fails because of a server that cannot be reached, or does not serve; that is its answer.
  - Writes nothing. Whether a write would be refused is told from the server's own numbers.
  - Of a cluster or a group under Sentinels, the way to one node is gone, and the group's state looked at from there.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.redis
  - sre.runbooks.attributes
  - sre.runbooks.attributes.info
options:
  needs:
    description: Rights without which the user is of no use; one that is missing ends the way at the stage C(acl).
    type: list
    elements: str
    choices:
      - eval
      - unlink
      - pexpire
      - config_get
      - config_set
      - client_list
      - client_kill
      - slowlog
      - memory_purge
    default: []
seealso:
  - module: sre.runbooks.redis_info
"""

EXAMPLES = r"""
- name: Can this machine work with the Redis of the application?
  sre.runbooks.redis_reach_info:
    host: 127.0.0.1
    port: 6379
    connect_timeout: 2
  register: way

- name: Say where the way ends
  ansible.builtin.debug:
    var: way.findings
  when: not way.reachable
"""

RETURN = r"""
reachable:
  description: Whether the server lets this user in and serves it.
  returned: always
  type: bool
writable:
  description: Whether it would take a write.
  returned: always
  type: bool
stages:
  description:
    - The way, C(sentinel), C(resolve), C(tcp), C(tls), C(auth), C(acl), C(serving) and C(writes).
    - Of each, whether it went well (null where it was not reached, or not needed), milliseconds, and what was seen.
  returned: always
  type: list
  elements: dict
  sample:
    - {stage: resolve, ok: true, ms: 0.4, detail: "cache.example.com is 192.0.2.17", code: ""}
    - {stage: tcp, ok: false, ms: 0.3, detail: "192.0.2.17:6379 refuses connections", code: refused}
addresses:
  description: The addresses behind the name, from the stage C(tcp) on those that answer.
  returned: always
  type: list
  elements: str
rights:
  description: What this user may do.
  returned: always
  type: dict
findings:
  description:
    - V(redis.unreachable.*) with dns, refused, timeout, no_route, permission, tls, noauth, wrongpass, no_password_set,
      acl, loading, busy, maxclients, masterdown, clusterdown, protected_mode, no_such_db, protocol, connection or
      sentinel.
    - V(redis.unwritable.*) with replica, misconf, oom or noreplicas, V(redis.unseen.rights) where nobody may ask.
    - V(redis.address_down) where one of several addresses is dead, V(redis.certificate_expires) in its last two weeks.
  returned: always
  type: list
  elements: dict
"""

from ..module_utils._core.door import Product
from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._redis.errors import translate
from ..module_utils._redis.facts import RIGHTS
from ..module_utils._redis.product import CONNECTION
from ..module_utils._redis.reach import Way, approach, findings, summary, target, walk

SPEC = Spec({"needs": {"type": "list", "elements": "str", "choices": list(RIGHTS), "default": []}})

#: The same product, but for a connection that nothing can spoil.
REACH = Product("redis", "redis", CONNECTION, approach, translate)


def plan(way: Way, _wanted: Params) -> Plan:
    """A plan without steps: the way as it was found."""
    stages = walk(way)
    return Plan(target=target(way), findings=findings(way, stages), facts=summary(way, stages))


DOOR = REACH.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
