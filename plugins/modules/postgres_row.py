#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_row
short_description: A row of a PostgreSQL table has these values
version_added: 1.0.0
description:
  - Sets columns of a row that is there already, such as a feature flag, a revoked key or a stuck status.
  - Never inserts and never deletes. No row, or more rows than expected, is an error that changes nothing.
  - The statement that writes finds the row again by its primary key and by O(match), and writes only where it differs.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.postgres
  - sre.runbooks.guard
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  table:
    description: The table, with its schema; quoted as in SQL where its name needs it.
    type: str
    required: true
  match:
    description: Columns and the values by which the row is found. A null value means NULL.
    type: dict
    required: true
  set:
    description: Columns and the values that they shall have. Lists and mappings are given as JSON.
    type: dict
    required: true
  max_rows:
    description: Refuse when more rows than this match.
    type: int
    default: 1
  expect_rows:
    description: Refuse when another number of rows matches.
    type: int
  max_count:
    description: Refuse to change more rows than this.
    type: int
    default: 100
  max_fraction:
    description: Refuse to change more than this share of the rows that match.
    type: float
    default: 1.0
seealso:
  - module: sre.runbooks.postgres_session
"""

EXAMPLES = r"""
- name: The server's own list of settings is looked at, not changed, in a check run
  sre.runbooks.postgres_row:
    dsn: postgresql://operator@127.0.0.1/app
    table: pg_catalog.pg_language
    match: {lanname: internal}
    set: {lanname: internal}
"""

RETURN = r"""
rows:
  description: How many rows C(matched), how many of them C(differed), and the C(table).
  returned: success
  type: dict
  sample: {table: public.feature_flags, matched: 1, differed: 1}
undo:
  description: For each row the call that sets the old values again.
  returned: always
  type: list
  elements: dict
findings:
  description: V(postgres.row_triggers) where an update does more than it says.
  returned: always
  type: list
  elements: dict
"""

from ..module_utils._core.guard import guard_options
from ..module_utils._core.plan import Plan, Verify
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._postgres.client import Postgres, primary_only
from ..module_utils._postgres.product import POSTGRES
from ..module_utils._postgres.rows import Switch, beside, read_table, refuse

SPEC = Spec(
    {
        "table": {"type": "str", "required": True},
        "match": {"type": "dict", "required": True},
        "set": {"type": "dict", "required": True},
        "max_rows": {"type": "int", "default": 1},
        "expect_rows": {"type": "int"},
    }
) | guard_options(max_count=100)


def plan(postgres: Postgres, wanted: Params) -> Plan:
    """One step for each matching row that differs."""
    primary_only(postgres)
    session, table = postgres.session, read_table(postgres.session, wanted["table"])
    switch = Switch.of(table, wanted["match"], wanted["set"], wanted["max_rows"])
    rows = switch.read(session)
    refuse(switch, rows, wanted["expect_rows"])
    differing = [row for row in rows if row["differs"]]
    before = [{name: row[name] for name in switch.shown} for row in differing]
    return Plan(
        target=postgres.target,
        selector={"table": table.label, "match": dict(switch.match), "set": dict(switch.wanted)},
        before={"rows": before},
        after={"rows": [{**row, **switch.wanted} for row in before]},
        steps=tuple(switch.step(session, row) for row in differing),
        findings=beside(table, postgres.target.name),
        facts={"rows": {"table": table.label, "matched": len(rows), "differed": len(differing)}},
        population=len(rows),
        verify=Verify("no matching row differs", lambda: _left(switch, postgres)) if differing else None,
    )


def _left(switch: Switch, postgres: Postgres) -> str:
    left = sum(bool(row["differs"]) for row in switch.read(postgres.session))
    return f"{left} rows still differ" if left else ""


DOOR = POSTGRES.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
