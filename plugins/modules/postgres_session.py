#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_session
short_description: No session of a kind is left on a PostgreSQL
version_added: 1.0.0
description:
  - States that no session matching the selection exists, and cancels or ends those that do.
  - Only client sessions are ever ended, and of these never a backup or another tool that works for the server, one that
    holds an advisory lock, listens, has exported its snapshot, copies rows, vacuums, analyzes or builds an index, one
    that waits for a synchronous standby, one of a superuser or replication role, or one of this collection.
    Whoever is meant and spared is returned with the reason.
  - Each session is known by process id and start, and is looked at again in the statement that signals it. One that has
    gone, has woken up or is no longer that old is left alone.
  - Listening cannot be seen from outside. A session counts as a listener when C(LISTEN) is its latest statement; name
    the others in O(protect).
  - The server replaces what is not ASCII in application names, so O(application) has to be written with V(?) there.
  - Works on a standby, and through a pooler, whose server sessions are then the ones that are meant.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.postgres
  - sre.runbooks.guard
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  database:
    description: Glob pattern of the database.
    type: str
  role:
    description: Glob pattern of the role that the session logged in with; O(user) is the one to connect as.
    type: str
  application:
    description:
      - Glob pattern of the application's name. V("") means sessions without a name, and needs another filter beside it.
    type: str
  client_addr:
    description: Where the client connects from, an address or a network such as V(10.0.0.0/8).
    type: str
  query_regex:
    description:
      - Only sessions whose latest statement matches this regular expression of PostgreSQL's own kind.
      - The server shows no more of a statement than C(track_activity_query_size) bytes.
    type: str
  state:
    description: Only sessions in this state.
    type: str
    choices: [idle, idle in transaction, idle in transaction (aborted), active, any]
    default: any
  min_state_age:
    description:
      - Only sessions that have been in their state for this long, such as V(10m).
      - One of O(min_state_age), O(min_xact_age) and O(min_query_age), and one of O(database), O(role), O(application),
        O(client_addr), O(query_regex), O(root_blockers_only) and O(queued_ddl), have to be given; or O(prepared) alone.
    type: str
  min_xact_age:
    description: Only sessions whose transaction has been open for this long.
    type: str
  min_query_age:
    description: Only active sessions whose statement has been running for this long.
    type: str
  blocking:
    description: Only sessions that others wait for.
    type: bool
  root_blockers_only:
    description: Only sessions that others wait for and that wait for nobody themselves.
    type: bool
  queued_ddl:
    description: Only sessions that wait for a lock on a table so strong that everybody who comes later has to queue.
    type: bool
  superusers:
    description: Whether sessions of superusers may be ended too.
    type: bool
    default: false
  action:
    description:
      - V(cancel) stops the statement and leaves the session. V(terminate) ends the session.
      - V(cancel_then_terminate) ends it only when the same statement still runs after O(grace); a session that runs no
        statement is ended at once, for there is nothing to cancel.
    type: str
    choices: [cancel, terminate, cancel_then_terminate]
    default: cancel_then_terminate
  grace:
    description: Seconds that cancelled statements have to stop.
    type: float
    default: 5.0
  settle:
    description: Seconds to wait before connections are counted again; pools come back within that time.
    type: float
    default: 1.0
  prepared:
    description:
      - Names (gid) of prepared transactions of the connection's database that must not exist; they are rolled back.
      - Not together with a selection of sessions. O(confirm) must repeat the name, or the names joined with commas.
    type: list
    elements: str
    default: []
  protect:
    description: Application names and roles that are never touched, as glob patterns; added to the built-in ones.
  max_count:
    description: Refuse when more sessions than this would be signalled.
    type: int
    default: 20
  max_fraction:
    description: Refuse when more than this share of all client sessions would be signalled.
    type: float
    default: 0.5
seealso:
  - module: sre.runbooks.postgres_info
  - module: sre.runbooks.postgres_setting
"""

EXAMPLES = r"""
- name: No session of the web application has been idle for more than ten minutes
  sre.runbooks.postgres_session:
    host: 127.0.0.1
    application: "web*"
    state: idle
    min_state_age: 10m
    max_count: 200

- name: Nobody has kept others waiting for five minutes
  sre.runbooks.postgres_session:
    dsn: postgresql://operator@127.0.0.1:5432/app
    root_blockers_only: true
    min_xact_age: 5m
    protect: ["billing*"]

- name: No DDL makes a queue for more than half a minute
  sre.runbooks.postgres_session:
    host: 127.0.0.1
    queued_ddl: true
    min_query_age: 30s
    action: cancel
"""

RETURN = r"""
sessions:
  description:
    - C(connected) client sessions at the start, how many of them C(matched) and may be signalled, what they are C(by)
      database, role, application and state, and the oldest fifty of them as C(list), with ages in seconds.
    - After the run, how many were C(signalled); of these C(cancelled) and not ended, C(ended), of which so many are
      C(gone); and how many like the ended ones C(reconnected) since.
  returned: always
  type: dict
  sample:
    connected: 48
    matched: 40
    by: [{database: app, user: app, application: web, state: idle, count: 40}]
    list: []
    signalled: 40
    cancelled: 0
    ended: 40
    gone: 40
    reconnected: 0
prepared:
  description: Prepared transactions, the oldest first. C(age) is in seconds, C(blocks) says how many sessions wait.
  returned: always
  type: list
  elements: dict
  sample: [{gid: order-7, owner: app, database: app, blocks: 3, prepared: "2026-01-31T09:30:00+00:00", age: 912.5}]
spared:
  description: Sessions that the selection means but that were left alone, each with the reason.
  returned: always
  type: list
  elements: dict
  sample:
    - subject: pid=412 start=2026-01-31T09:30:00.120000+00:00 user=app application=pg_dump
      reason: protected by pg_dump
      count: 1
measured:
  description: Client sessions before and after O(settle), against what was forecast; the difference came back.
  returned: when something was signalled
  type: dict
findings:
  description:
    - V(postgres.sessions_reconnect) where pools came back, V(postgres.no_idle_timeout) where nothing ends idle
      sessions, V(postgres.prepared_blocks) where a prepared transaction is the root, V(postgres.pooled) behind a
      pooler.
  returned: always
  type: list
  elements: dict
"""

from ..module_utils._core.guard import guard_options
from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._postgres.client import Postgres
from ..module_utils._postgres.conditions import no_prepared, no_session
from ..module_utils._postgres.product import POSTGRES
from ..module_utils._postgres.sessions import AGES, FILTERS

STATES = ["idle", "idle in transaction", "idle in transaction (aborted)", "active", "any"]

SPEC = Spec(
    {
        **{name: {"type": "str"} for name in (*FILTERS[:5], *AGES)},
        **{name: {"type": "bool"} for name in ("blocking", "root_blockers_only", "queued_ddl")},
        "state": {"type": "str", "choices": STATES, "default": "any"},
        "superusers": {"type": "bool", "default": False},
        "action": {
            "type": "str",
            "choices": ["cancel", "terminate", "cancel_then_terminate"],
            "default": "cancel_then_terminate",
        },
        "grace": {"type": "float", "default": 5.0},
        "settle": {"type": "float", "default": 1.0},
        "prepared": {"type": "list", "elements": "str", "default": []},
    }
) | guard_options(max_count=20, max_fraction=0.5)


def plan(postgres: Postgres, wanted: Params) -> Plan:
    """A step for each session, or prepared transaction, that is meant and may be ended."""
    return (no_prepared if wanted["prepared"] else no_session)(postgres, wanted, tuple(SPEC.options))


DOOR = POSTGRES.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
