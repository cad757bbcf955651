#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_info
short_description: See what is wrong with a PostgreSQL, by its own numbers
version_added: 1.1.0
description:
  - One pass over one connection, at most twelve queries, each with its own time limit and its own failure.
  - Returns findings with stable ids, on which a playbook can branch, and what this role was not allowed to see.
  - Reads only, and waits for no table's lock. Works on a standby, through a pooler, and with C(pg_monitor) only.
  - Statements are shown without their literals.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.postgres
  - sre.runbooks.clear
  - sre.runbooks.attributes
  - sre.runbooks.attributes.info
options:
  sections:
    description:
      - What to look at. V(bloat) includes stale statistics and who holds old row versions.
      - V(indexes), V(bloat) and V(prepared) are about the database that one is connected to, all else about the server.
    type: list
    elements: str
    choices:
      - connections
      - activity
      - locks
      - prepared
      - replication
      - wraparound
      - archiver
      - indexes
      - bloat
      - statements
      - settings
    default:
      - connections
      - activity
      - locks
      - prepared
      - replication
      - wraparound
      - archiver
      - indexes
      - bloat
      - statements
      - settings
  connections_ratio:
    description: Share of the usable connections, or of a role's or database's own limit, from which it is a finding.
    type: float
    default: 0.8
  pools:
    description: The applications' pools; together they must not be able to open more than there is.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the application.
        type: str
        required: true
      size:
        description: Connections that one pool keeps.
        type: int
        required: true
      overflow:
        description: Connections that one pool may open beyond O(pools[].size).
        type: int
        default: 0
      replicas:
        description: Number of processes that have such a pool.
        type: int
        default: 1
      surge:
        description: Processes that a rollout adds for a while.
        type: int
        default: 0
  xact_seconds:
    description: Seconds from which a transaction, or a prepared one, is a finding.
    type: float
    default: 60.0
  idle_xact_seconds:
    description: Seconds from which a session that does nothing inside a transaction is a finding.
    type: float
    default: 60.0
  lock_wait:
    description: Time, such as V(30s), from which waiting for a lock is a finding.
    type: str
    default: 5s
  lag_bytes:
    description: WAL that a standby may be behind, such as V(64mb).
    type: str
    default: 64mb
  lag_seconds:
    description: Seconds that a standby which is behind may need.
    type: float
    default: 60.0
  wraparound_ratio:
    description: Share of all transaction numbers from which the age of the oldest row is a finding.
    type: float
    default: 0.4
  dead_ratio:
    description: Share of dead rows from which a table is a finding.
    type: float
    default: 0.2
  bloat_ratio:
    description: Share of a table's bytes beyond need, by estimate, from which it is a finding.
    type: float
    default: 0.5
  stale_ratio:
    description: Changed rows since the last ANALYZE, as a share of all, from which statistics are a finding.
    type: float
    default: 0.2
  slow_seconds:
    description: Mean seconds from which a statement is a finding.
    type: float
    default: 1.0
  heavy_share:
    description: Share of all statements' time from which one statement is a finding.
    type: float
    default: 0.5
  show_queries:
    description:
      - How statements are shown. V(normalized) has V($1) and so on in place of what was written into them.
      - V(raw) may show data, and passwords of C(ALTER ROLE).
    type: str
    choices: [none, normalized, raw]
    default: normalized
  top:
    description: Most entries of each list, 1 to 100.
    type: int
    default: 10
  section_timeout:
    description: Seconds that one section may take; O(statement_timeout) counts where it is less.
    type: float
    default: 5.0
seealso:
  - module: sre.runbooks.postgres_reach_info
"""

EXAMPLES = r"""
- name: Look at a PostgreSQL
  sre.runbooks.postgres_info:
    host: 127.0.0.1
    dbname: app
    user: monitor
  register: seen

- name: Wait until nobody waits for a lock, three times in a row
  sre.runbooks.postgres_info:
    dsn: postgresql://monitor@127.0.0.1:5432/app
    sections: [locks]
    clear_of: [postgres.lock_root]
    timeout: 60
"""

RETURN = r"""
findings:
  description:
    - What is wrong, the worst first.
    - Of connections, V(postgres.connections_high), V(postgres.role_limit_near), V(postgres.database_limit_near) and
      V(postgres.pools_above_limit).
    - Of sessions, V(postgres.idle_in_transaction), V(postgres.long_transaction), V(postgres.lock_root),
      V(postgres.ddl_queued) and V(postgres.prepared_transaction).
    - Of replication and archive, V(postgres.replica_lagging), V(postgres.receiver_down), V(postgres.replay_paused),
      V(postgres.slot_inactive), V(postgres.slot_lost) and V(postgres.archiver_failing).
    - Of tables and indexes, V(postgres.wraparound), V(postgres.bloat), V(postgres.statistics_stale),
      V(postgres.xmin_held), V(postgres.index_invalid), V(postgres.index_unused) and V(postgres.index_missing).
    - Of statements and settings, V(postgres.statement_heavy), V(postgres.statement_slow),
      V(postgres.pending_restart), V(postgres.no_timeout) and V(postgres.unsafe_setting).
    - V(postgres.unseen.*) for each section that could not be read.
  returned: always
  type: list
  elements: dict
  sample:
    - id: postgres.connections_high
      severity: critical
      subject: 127.0.0.1:5432/app
      evidence: {used: 46, limit: 47, ratio: 0.9787, reserved: 3, most_role: app, most_total: 44, most_idle: 44}
      suggest: Run postgres_connections_exhausted.
connections:
  description:
    - C(used) client connections but this one, C(limit) without the C(reserved) ones, C(ratio), C(states).
    - C(by) role, database, application and host, the most first; C(limits) of roles and databases that have their own.
  returned: when asked for and seen
  type: dict
activity:
  description: C(transactions), the oldest first, and how many sessions are active, idle in transaction and waiting.
  returned: when asked for and seen
  type: dict
locks:
  description:
    - How many are C(waiting); the C(roots) of the queues, of kind C(transaction), C(ddl) or C(prepared), with how many
      each C(blocks); and C(queued_ddl) that others wait behind.
  returned: when asked for and seen
  type: dict
prepared:
  description: Prepared transactions with C(gid), C(owner), C(database), C(seconds) and C(age) in transactions.
  returned: when asked for and seen
  type: list
  elements: dict
replication:
  description: C(standbys) and C(slots) with lag and retained WAL in bytes; on a standby, in C(standby), how it follows.
  returned: when asked for and seen
  type: dict
wraparound:
  description: Ages of the oldest rows, C(ratio) of what there is, by C(databases), and by C(tables) of this one.
  returned: when asked for and seen
  type: dict
archiver:
  description: Whether WAL is archived, when it last was, and whether the latest attempt failed.
  returned: when asked for and seen
  type: dict
indexes:
  description: Those C(invalid), C(unused) since C(counted_seconds), and tables where one may be C(missing).
  returned: when asked for and seen
  type: dict
bloat:
  description: C(tables) with dead rows and an estimate of what they hold beyond need, C(stale) with old statistics.
  returned: when asked for and seen
  type: dict
holders:
  description: Who keeps old row versions, a C(transaction), C(prepared), a C(slot) or a C(standby), the oldest first.
  returned: with C(bloat), when seen
  type: list
  elements: dict
statements:
  description: Those that took most time in C(total) and in the C(mean), from C(pg_stat_statements).
  returned: when asked for and seen
  type: dict
settings:
  description: C(values) of settings that matter here, in bytes and seconds, and those C(pending_restart).
  returned: when asked for and seen
  type: dict
unseen:
  description: Sections that could not be read, and why.
  returned: always
  type: dict
server:
  description: Name, version, role and managing service.
  returned: always
  type: dict
"""

from ..module_utils._core.clear import CLEAR_OPTIONS, clear
from ..module_utils._core.door import Product
from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._postgres.client import Postgres
from ..module_utils._postgres.errors import translate
from ..module_utils._postgres.facts import SECTIONS, read_facts
from ..module_utils._postgres.health import blind, findings
from ..module_utils._postgres.model import as_facts
from ..module_utils._postgres.product import CONNECTION
from ..module_utils._postgres.scope import look_of, patient, thresholds_of

_POOL = {
    "name": {"type": "str", "required": True},
    "size": {"type": "int", "required": True},
    "overflow": {"type": "int", "default": 0},
    "replicas": {"type": "int", "default": 1},
    "surge": {"type": "int", "default": 0},
}
SPEC = Spec(
    {
        "sections": {"type": "list", "elements": "str", "choices": list(SECTIONS), "default": list(SECTIONS)},
        "connections_ratio": {"type": "float", "default": 0.8},
        "pools": {"type": "list", "elements": "dict", "default": [], "options": _POOL},
        "xact_seconds": {"type": "float", "default": 60.0},
        "idle_xact_seconds": {"type": "float", "default": 60.0},
        "lock_wait": {"type": "str", "default": "5s"},
        "lag_bytes": {"type": "str", "default": "64mb"},
        "lag_seconds": {"type": "float", "default": 60.0},
        "wraparound_ratio": {"type": "float", "default": 0.4},
        "dead_ratio": {"type": "float", "default": 0.2},
        "bloat_ratio": {"type": "float", "default": 0.5},
        "stale_ratio": {"type": "float", "default": 0.2},
        "slow_seconds": {"type": "float", "default": 1.0},
        "heavy_share": {"type": "float", "default": 0.5},
        "show_queries": {"type": "str", "choices": ["none", "normalized", "raw"], "default": "normalized"},
        "top": {"type": "int", "default": 10},
        "section_timeout": {"type": "float", "default": 5.0},
    }
)


def plan(postgres: Postgres, wanted: Params) -> Plan:
    """A plan without steps: what the server shows, and what that means."""
    look, limits, name = look_of(wanted), thresholds_of(wanted), postgres.target.name
    unsure = blind(wanted["clear_of"], look.sections)
    facts = read_facts(postgres, look)
    return Plan(
        target=postgres.target,
        findings=findings(facts, limits, name),
        facts=as_facts(facts, look.top),
        verify=clear(wanted, lambda: findings(read_facts(postgres, look), limits, name), unsure),
    )


DOOR = Product("postgres", "psycopg2", CONNECTION, patient, translate).door(SPEC | CLEAR_OPTIONS, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
