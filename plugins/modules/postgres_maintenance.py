#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_maintenance
short_description: The tables and indexes of a PostgreSQL database are healthy
version_added: 1.0.0
description:
  - States that tables have few dead rows and fresh statistics, that indexes are valid and little bloated, that an index
    is there, and that materialized views are young enough. Works only on what is beyond a threshold, one at a time.
  - Never runs C(VACUUM FULL), C(REINDEX) without C(CONCURRENTLY), or anything else that readers or writers wait for.
  - A table whose dead rows somebody still holds (a transaction, a prepared transaction, a slot, a standby) is left
    alone, and the holder is named; so is an index whose build would have to wait for an old transaction.
  - What a failed build of this module leaves is dropped at once. Whatever another session builds is left alone.
  - Advises on indexes; creates one only when it is asked for.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.postgres
  - sre.runbooks.guard
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  tables:
    description:
      - Tables, materialized views and indexes that are meant, as glob patterns of C(schema.table), without quotes and
        as the catalog has them. A pattern without a dot means any schema. An index is meant with its table, too.
    type: list
    elements: str
    default: ["*.*"]
  tasks:
    description:
      - V(vacuum) by O(dead_ratio), O(dead_min) and O(freeze_age); V(analyze) by O(analyze_ratio); V(reindex) by
        O(bloat_ratio) and O(bloat_min).
      - V(drop_leftovers) drops the invalid indexes of failed C(REINDEX CONCURRENTLY) whose origin is valid.
      - V(create_index) builds O(index); V(refresh) refreshes O(matviews) that are older than O(max_age).
    type: list
    elements: str
    choices: [vacuum, analyze, reindex, drop_leftovers, refresh, create_index]
    required: true
  dead_ratio:
    description: Vacuum a table of whose rows more than this share are dead.
    type: float
    default: 0.2
  dead_min:
    description: Leave a table with fewer dead rows alone.
    type: int
    default: 1000
  analyze_ratio:
    description: Analyze a table of whose rows more than this share were modified since.
    type: float
    default: 0.1
  freeze_age:
    description:
      - Vacuum and freeze a table whose oldest row is older, in transactions or multixacts.
      - By default three quarters of the server's C(autovacuum_freeze_max_age).
    type: int
  bloat_ratio:
    description:
      - Rebuild a b-tree of which more than this share is empty.
      - That is estimated from statistics; where the extension C(pgstattuple) is installed, those that look bloated are
        read to make sure. Partial indexes are never estimated, only read.
    type: float
    default: 0.3
  bloat_min:
    description: Leave smaller indexes and tables out of it.
    type: str
    default: 16mb
  index:
    description: The index that V(create_index) is about.
    type: dict
    suboptions:
      table:
        description: Table, as C(schema.table).
        type: str
        required: true
      name:
        description: Name of the index. An invalid index of this name is dropped and built again.
        type: str
        required: true
      columns:
        description: Names of columns.
        type: list
        elements: str
      expressions:
        description: SQL expressions; they come after the columns.
        type: list
        elements: str
      unique:
        description: Whether it is unique.
        type: bool
        default: false
      method:
        description: Access method.
        type: str
        default: btree
      where:
        description: SQL condition of a partial index.
        type: str
  matviews:
    description: Materialized views that V(refresh) is about, as glob patterns of C(schema.name).
    type: list
    elements: str
    default: ["*.*"]
  max_age:
    description:
      - Refresh a view that this collection has not refreshed for this long, such as V(1h). V(refresh) needs it.
      - The moment stands at the end of the view's comment, because PostgreSQL does not record it. The rest of the
        comment stays. What others refresh is not known.
    type: str
  truncate:
    description: Whether a vacuum may give empty pages at a table's end back, for which it locks readers out briefly.
    type: bool
    default: false
  retries:
    description: How often a statement is tried whose lock is not to be had within O(lock_timeout).
    type: int
    default: 5
  snapshot_wait:
    description:
      - How long a C(CONCURRENTLY) may wait for older transactions. Nobody waits behind it meanwhile.
    type: str
    default: 1m
  holder_age:
    description: Transactions from this age on are waited for by nobody; what they would delay is left alone.
    type: str
    default: 5m
  max_duration:
    description:
      - How long the run may work; what is left then is the next run's. O(statement_timeout) is for looking only.
    type: str
    default: 1h
  window:
    description: Time of day outside of which nothing is done, such as V(22:00-05:00 Europe/Berlin); UTC without a zone.
    type: str
  replica_lag_max:
    description: Wait before the next object while a standby is further behind than this.
    type: str
    default: 64mb
  disk_headroom:
    description: Free space that a build needs, as a multiple of the index (of the table where it is created).
    type: float
    default: 1.5
  disk_headroom_ok:
    description: Somebody's word that there is room, for builds above 1 GiB where the server's disk cannot be seen.
    type: bool
    default: false
  max_count:
    description: Refuse when more objects than this would be worked on.
    type: int
    default: 100
  max_fraction:
    description: Refuse when more than this share of the objects looked at would be worked on.
    type: float
    default: 1.0
seealso:
  - module: sre.runbooks.postgres_info
  - module: sre.runbooks.postgres_session
"""

EXAMPLES = r"""
- name: No table has many dead rows or old statistics, and no failed build has left anything
  sre.runbooks.postgres_maintenance:
    host: 127.0.0.1
    dbname: app
    tasks: [drop_leftovers, vacuum, analyze]

- name: At night bloated indexes of one schema are rebuilt, for two hours at most
  sre.runbooks.postgres_maintenance:
    dsn: postgresql://operator@127.0.0.1:5432/app
    tables: ["public.*"]
    tasks: [reindex]
    window: 22:00-05:00 UTC
    max_duration: 2h

- name: No report is older than an hour
  sre.runbooks.postgres_maintenance:
    host: 127.0.0.1
    tasks: [refresh]
    matviews: ["reports.*"]
    max_age: 1h
"""

RETURN = r"""
maintenance:
  description:
    - How many C(tables), C(indexes) and C(matviews) were looked at, what was C(due) and why, what was C(done) with
      bytes and dead rows before and after, and what was C(missed) because a lock was not to be had.
  returned: always
  type: dict
  sample:
    tables: 41
    indexes: 77
    matviews: 0
    due: [{subject: public.orders oid=16402, task: vacuum, why: 60000 dead of 80000 rows (75%), bytes: 9437184}]
    done:
      - subject: public.orders oid=16402
        task: vacuum
        bytes_before: 9437184
        bytes_after: 9437184
        dead_before: 60000
        dead_after: 0
    missed: {}
advice:
  description:
    - Facts to think about since the statistics began. C(missing) are tables that are read from end to end, with the
      costliest statements on them where C(pg_stat_statements) is there. C(unused), C(duplicates) and C(invalid) are
      indexes.
    - An index that is not used here may be used on a standby.
  returned: always
  type: dict
  sample:
    since: "2030-01-01 00:00:00+00"
    missing: []
    unused: [{index: public.orders_note_idx, table: public.orders, definition: btree (note), bytes: 2097152, scans: 0}]
    duplicates: []
    invalid: []
spared:
  description: Objects over a threshold that were left alone, each with the reason.
  returned: always
  type: list
  elements: dict
  sample: [{subject: public.orders oid=16402, reason: a vacuum would remove nothing, count: 1}]
measured:
  description: Dead rows, or bytes of indexes, before and after, against what was forecast. C(bytes) is what came free.
  returned: when something was done
  type: dict
findings:
  description:
    - V(postgres.xmin_held) and V(postgres.old_snapshot) name who is in the way; V(postgres.index_invalid),
      V(postgres.index_unproved), V(postgres.table_bloat), V(postgres.bloat_estimate), V(postgres.disk_headroom),
      V(postgres.matview_not_concurrent), V(postgres.not_maintained), V(postgres.outside_window).
    - V(postgres.holders_unseen), V(postgres.lag_unseen) and V(postgres.track_counts_off) say what could not be seen.
  returned: always
  type: list
  elements: dict
"""

from ..module_utils._core.guard import guard_options
from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._postgres import upkeep
from ..module_utils._postgres.brakes import Window
from ..module_utils._postgres.client import Postgres
from ..module_utils._postgres.indexes import INDEX, Definition
from ..module_utils._postgres.maintenance import TASKS, THRESHOLDS, Wanted
from ..module_utils._postgres.product import POSTGRES
from ..module_utils._postgres.survey import survey

SPEC = Spec(
    {
        **{name: {"type": "list", "elements": "str", "default": ["*.*"]} for name in ("tables", "matviews")},
        "tasks": {"type": "list", "elements": "str", "choices": list(TASKS), "required": True},
        "freeze_age": {"type": "int"},
        "index": {"type": "dict", "options": INDEX},
        **{name: {"type": "str"} for name in ("max_age", "window")},
        **{name: {"type": type(value).__name__, "default": value} for name, value in THRESHOLDS.items()},
    }
) | guard_options(max_count=100)


def plan(postgres: Postgres, wanted: Params) -> Plan:
    """A step for each object that is over a threshold and may be worked on now."""
    upkeep.ready(postgres)
    asked, definition, window = Wanted.of(wanted), Definition.of(wanted), Window.parse(wanted["window"])
    seen = survey(postgres, asked)
    judged = upkeep.judge(postgres, asked, definition, seen)
    work = upkeep.Work.of(postgres, asked, definition, upkeep.outside(window, seen.limits.now, judged))
    facts = upkeep.facts_of(postgres, seen, judged)
    return Plan(
        target=postgres.target,
        selector={name: wanted[name] for name in SPEC.options if name not in ("confirm", "approved_plan")},
        steps=work.steps(judged.due),
        forecast=upkeep.forecast(work, judged.due) if judged.due else None,
        verify=upkeep.verify(work) if judged.due else None,
        facts=facts,
        population=seen.population + (definition is not None),
        aftermath=upkeep.aftermath(work, facts),
        **judged.told(),
    )


DOOR = POSTGRES.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
