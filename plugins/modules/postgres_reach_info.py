#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_reach_info
short_description: See how far one gets on the way to a PostgreSQL, and what stops it there
version_added: 1.1.0
description:
  - Goes the way of a client stage by stage, from the name through a real login to a write, and says where it ends.
  - Never fails because of a server that cannot be reached, or does not serve; that is its answer.
  - Writes nothing. Whether a write would be refused is told from the server's own numbers.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.postgres
  - sre.runbooks.attributes
  - sre.runbooks.attributes.info
options:
  needs:
    description: Rights without which the role is of no use; one that is missing ends the way at the stage C(rights).
    type: list
    elements: str
    choices:
      - superuser
      - pg_monitor
      - pg_read_all_stats
      - pg_read_all_data
      - pg_signal_backend
      - pg_maintain
      - pg_checkpoint
      - pg_use_reserved_connections
    default: []
seealso:
  - module: sre.runbooks.postgres_info
"""

EXAMPLES = r"""
- name: Can this machine work with the PostgreSQL of the application?
  sre.runbooks.postgres_reach_info:
    host: 127.0.0.1
    dbname: app
    user: app
    connect_timeout: 2
  register: way

- name: Say where the way ends
  ansible.builtin.debug:
    var: way.findings
  when: not way.reachable
"""

RETURN = r"""
reachable:
  description: Whether the server lets this role in and serves it.
  returned: always
  type: bool
writable:
  description: Whether it would take a write.
  returned: always
  type: bool
stages:
  description:
    - The way, C(resolve), C(tcp), C(tls), C(login), C(serving), C(rights) and C(writes).
    - Of each, whether it went well (null where it was not reached, or not needed), milliseconds, and what was seen.
  returned: always
  type: list
  elements: dict
  sample:
    - {stage: resolve, ok: true, ms: 0.4, detail: "db.example.com is 192.0.2.17:5432", code: ""}
    - {stage: tcp, ok: false, ms: 0.3, detail: "192.0.2.17:5432 refuses connections", code: refused}
addresses:
  description: The addresses behind the name, from the stage C(tcp) on those that answer.
  returned: always
  type: list
  elements: str
pooled:
  description: Whether a connection pooler stands in between.
  returned: always
  type: bool
rights:
  description: Which of the operators' roles this role has.
  returned: always
  type: dict
findings:
  description:
    - V(postgres.unreachable.*) with dns, refused, timeout, protocol, tls, password, rejected, no_such_database,
      too_many_clients, starting, connection, rights, or the code of another refusal.
    - V(postgres.unwritable.*) with standby, read_only, wraparound or no_sync_standby.
    - V(postgres.address_down) where one of several addresses is dead.
  returned: always
  type: list
  elements: dict
"""

from ..module_utils._core.door import Product
from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._postgres.errors import translate
from ..module_utils._postgres.product import CONNECTION
from ..module_utils._postgres.reach import RIGHTS, Way, approach, findings, summary, target, walk

SPEC = Spec({"needs": {"type": "list", "elements": "str", "choices": list(RIGHTS), "default": []}})

#: The same product, but for a connection that nothing can spoil.
REACH = Product("postgres", "psycopg2", CONNECTION, approach, translate)


def plan(way: Way, _wanted: Params) -> Plan:
    """A plan without steps: the way as it was found."""
    stages = walk(way)
    return Plan(target=target(way), findings=findings(way, stages), facts=summary(way, stages))


DOOR = REACH.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
