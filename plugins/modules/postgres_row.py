#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_row
short_description: A row of a PostgreSQL table has these values
version_added: 1.0.0
description:
  - Sets columns of rows that are there already, such as a feature flag, a revoked key or a stuck status.
  - Never inserts and never deletes. No row, or more rows than expected, is an error that changes nothing.
  - One statement writes to all rows or to none. It finds them again by primary key, by O(match) and by the values that
    the plan has seen, counts once more, and fails where anything is no longer so.
  - A row counts as different where the text of a column is another, so that every type can be compared.
  - Works on tables, partitioned ones too, and through a pooler; refuses a standby, the server's catalogs, foreign
    tables, and tables with a rule for C(UPDATE).
  - Constraints and triggers are the server's to judge; check mode does not know them.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.postgres
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  table:
    description: The table, with its schema; quoted as in SQL where its name needs it.
    type: str
    required: true
  match:
    description:
      - Columns and the values by which the row is found. A null value means NULL.
      - A column may also be in O(set), on a table with a primary key. Then rows that have its new value already, and
        match otherwise, count as done when no row matches.
    type: dict
    required: true
  set:
    description:
      - Columns and the values that they shall have; neither of the primary key nor computed ones.
      - Lists are arrays where the column is one; other lists, and mappings, are given as JSON.
    type: dict
    required: true
  max_rows:
    description: Refuse when more rows than this match.
    type: int
    default: 1
  expect_rows:
    description:
      - Refuse when another number of rows matches. Without it any number from one to O(max_rows) is right.
      - More than one row needs a primary key.
    type: int
  returning:
    description: Columns to return of the rows that match, as they are in the end.
    type: list
    elements: str
    default: []
  hide:
    description: Columns whose values are never shown. Put C(no_log) on the task as well where O(set) holds a secret.
    type: list
    elements: str
    default: []
  views:
    description: Whether O(table) may be a view that the server can update.
    type: bool
    default: false
  approved_plan:
    description:
      - The RV(ignore:plan.id) of a check run that somebody has approved; the run is refused when the plan is another.
    type: str
seealso:
  - module: sre.runbooks.postgres_session
"""

EXAMPLES = r"""
- name: The feature flag is off
  sre.runbooks.postgres_row:
    dsn: postgresql://operator@127.0.0.1/app
    table: public.feature_flags
    match: {flag: replays}
    set: {enabled: false}
"""

RETURN = r"""
rows:
  description:
    - How many rows C(matched), how many of them C(differed), the C(table), and as C(list) up to fifty of the rows, with
      primary key and O(returning). Values are texts as PostgreSQL writes them, null for NULL.
  returned: success
  type: dict
  sample: {table: public.feature_flags, matched: 1, differed: 1, list: [{flag: replays}]}
undo:
  description: For each row the call that sets the old values again; without arguments where they are hidden.
  returned: always
  type: list
  elements: dict
findings:
  description:
    - V(postgres.row_triggers) where an update does more than it says, V(postgres.row_policies) where row-level security
      shows this role only a part of the rows.
  returned: always
  type: list
  elements: dict
"""

from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._postgres.client import Postgres, primary_only
from ..module_utils._postgres.product import POSTGRES
from ..module_utils._postgres.row_switch import look, plan_of
from ..module_utils._postgres.rows import Switch
from ..module_utils._postgres.tables import read_table

SPEC = Spec(
    {
        "table": {"type": "str", "required": True},
        "match": {"type": "dict", "required": True},
        "set": {"type": "dict", "required": True},
        "max_rows": {"type": "int", "default": 1},
        "expect_rows": {"type": "int"},
        "returning": {"type": "list", "elements": "str", "default": []},
        "hide": {"type": "list", "elements": "str", "default": []},
        "views": {"type": "bool", "default": False},
        "approved_plan": {"type": "str"},
    }
)


def plan(postgres: Postgres, wanted: Params) -> Plan:
    """One step for each matching row that differs."""
    primary_only(postgres)
    table = read_table(postgres.session, wanted["table"], views=wanted["views"], hidden=wanted["hide"])
    switch = Switch.of(table, wanted["match"], wanted["set"], wanted["max_rows"], wanted["returning"])
    return plan_of(look(postgres, switch, wanted["expect_rows"]))


DOOR = POSTGRES.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
