#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_setting
short_description: A setting of a PostgreSQL has this value
version_added: 1.0.0
description:
  - States the value of one setting for the whole server, for a role, for a database, or for a role in a database, for
    good or until a moment.
  - Values are compared as the server understands them, so that V(1s), V(1000ms) and V(1000) are the same where the unit
    is milliseconds.
  - For the whole server it uses C(ALTER SYSTEM), lets the server read its files again, and waits until the value is in
    force or the server says that it takes a restart. It never restarts a server.
  - Says who gives some sessions another value all the same, and when open sessions keep the old one.
  - Refuses settings that can lock everybody out, run code or lose data, and wants O(confirm) for those that can hurt.
  - C(ALTER SYSTEM) works on a standby too, and is for that standby only. It does not work through a pooler, and managed
    services forbid it; the other scopes work there.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.postgres
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  name:
    description: Name of the setting. That of an application, such as V(app.tenant), is for a role or database only.
    type: str
    required: true
  value:
    description:
      - The value, with its unit where it has one, such as V(64MB); a boolean, a number, or a list of names.
      - Null takes away what the scope holds, so that the next wider scope, the files or the default count again.
      - Put C(no_log) on the task where it is a secret. Results and diff mask the values of settings whose names say so.
    type: raw
    required: true
  scope:
    description:
      - Whose value it is. V(system) means the whole server; the others hold for sessions that start from then on.
    type: str
    choices: [system, role, database, role_in_database]
    default: system
  role:
    description: The role, with O(scope=role) and O(scope=role_in_database).
    type: str
  database:
    description: The database, with O(scope=database) and O(scope=role_in_database).
    type: str
  reload:
    description: Whether the server reads its files again, with O(scope=system).
    type: bool
    default: true
  until:
    description:
      - Moment with its time zone up to which O(value) holds, such as V(2030-01-31T18:00:00Z); after it O(otherwise).
      - Nothing is scheduled. The same task, run again after that moment, sets O(otherwise).
    type: str
  otherwise:
    description: The value from O(until) on; null, the default, takes away what the scope holds.
    type: raw
  protect:
    description: Settings that are never changed, as glob patterns, besides those that are always protected.
    type: list
    elements: str
    default: []
  confirm:
    description: Must equal the name of the setting where a refusal asks for it.
    type: str
  approved_plan:
    description:
      - The RV(ignore:plan.id) of a check run that somebody has approved; the run is refused when the plan is another.
    type: str
seealso:
  - module: sre.runbooks.postgres_info
  - module: sre.runbooks.postgres_session
"""

EXAMPLES = r"""
- name: Statements that take longer than a second are logged until the evening
  sre.runbooks.postgres_setting:
    host: 127.0.0.1
    name: log_min_duration_statement
    value: 1s
    until: "2030-01-31T18:00:00Z"

- name: Transactions of the application do not stay idle for longer than ten minutes
  sre.runbooks.postgres_setting:
    dsn: postgresql://operator@127.0.0.1:5432/app
    name: idle_in_transaction_session_timeout
    value: 10min
    scope: role
    role: app

- name: Sorts of one database get the server's own memory limit again
  sre.runbooks.postgres_setting:
    host: 127.0.0.1
    name: work_mem
    value: null
    scope: database
    database: app
"""

RETURN = r"""
setting:
  description:
    - The setting. C(value) is what O(scope) holds after the run and C(was) what it held before, null for nothing.
    - C(in_force) is the server's value in C(unit), null where this session has one of its own; C(source) is the file
      and line, or the kind of place, that it comes from.
    - C(takes_effect) is V(now), V(new_sessions), V(after_restart), V(after_reload) where O(reload=false), or
      V(overridden) where the server was started with another value.
  returned: always
  type: dict
  sample:
    name: work_mem
    scope: system
    role: ""
    database: ""
    value: 64MB
    was: null
    in_force: "65536"
    source: /var/lib/postgresql/data/postgresql.auto.conf:3
    unit: kB
    type: integer
    context: user
    takes_effect: now
    pending_restart: false
temporary:
  description: Whether the value holds only until O(until).
  returned: always
  type: bool
findings:
  description:
    - V(postgres.pending_restart) where it takes a restart, V(postgres.setting_overridden) with those who win over the
      scope, V(postgres.setting_new_sessions) with the number of sessions that keep the old value,
      V(postgres.setting_not_loaded) where O(reload=false), V(postgres.standbys_differ) with the standbys, which keep
      their own settings.
  returned: always
  type: list
  elements: dict
undo:
  description: For the change the call of this module that takes it back.
  returned: always
  type: list
  elements: dict
"""

from datetime import UTC, datetime

from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._core.units import parse_moment
from ..module_utils._postgres.client import Postgres
from ..module_utils._postgres.configure import plan_of, prepare
from ..module_utils._postgres.product import POSTGRES
from ..module_utils._postgres.setting_hazards import refuse_protected
from ..module_utils._postgres.setting_scopes import Scope, look

SPEC = Spec(
    {
        "name": {"type": "str", "required": True},
        "value": {"type": "raw", "required": True},
        "scope": {"type": "str", "choices": ["system", "role", "database", "role_in_database"], "default": "system"},
        "role": {"type": "str"},
        "database": {"type": "str"},
        "reload": {"type": "bool", "default": True},
        "until": {"type": "str"},
        "otherwise": {"type": "raw"},
        "protect": {"type": "list", "elements": "str", "default": []},
        "confirm": {"type": "str"},
        "approved_plan": {"type": "str"},
    },
    required_by={"otherwise": ["until"]},
)


def plan(postgres: Postgres, wanted: Params) -> Plan:
    """A step for the value where it differs, and one for the server to load it."""
    refuse_protected(wanted["name"], wanted["protect"])
    scope, until, reload = Scope.of(wanted), wanted["until"], wanted["reload"]
    temporary = bool(until) and datetime.now(UTC) < parse_moment(until, "until")
    value = wanted["value"] if temporary or not until else wanted["otherwise"]
    now = look(postgres.session, scope, wanted["name"])
    change = prepare(postgres, now, value, reload=reload, confirm=wanted["confirm"] or "")
    return plan_of(postgres, change, {"reload": reload}, temporary=temporary)


DOOR = POSTGRES.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
