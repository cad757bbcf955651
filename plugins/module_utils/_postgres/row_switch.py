# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A switch of rows as a plan: a step for each row that differs, all of them taken by one statement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .._core.errors import Kind, OpsError
from .._core.plan import Aftermath, Done, Finding, Plan, Progress, Severity, Step, Undo, Verify
from .client import Postgres
from .rows import Found, Switch, refuse, shown, words

#: More rows than this are not listed one by one.
_LISTED = 50

MODULE = "sre.runbooks.postgres_row"


@dataclass(slots=True)
class Campaign:
    """The rows that match, and what has come of writing to them: None before, then whether it was done."""

    postgres: Postgres
    switch: Switch
    rows: list[Found]
    total: int
    outcome: bool | None = None

    @property
    def differing(self) -> list[Found]:
        return [row for row in self.rows if row.differs]

    def take(self) -> bool:
        """Writes, once for all steps. False where somebody else has set the same meanwhile."""
        if self.outcome is None:
            self.outcome = self.switch.write(self.postgres.session, self.differing, self.total)
            if not self.outcome and self.left():
                hint = "Nothing was changed. See who writes there, then run again."
                if self.switch.table.triggers:
                    hint = f"A trigger may have held it back ({', '.join(self.switch.table.triggers)}). {hint}"
                text = f"the rows of {self.switch.table.label} are no longer as they were seen"
                raise OpsError(Kind.CONFLICT, text, hint, code="changed_meanwhile", retryable=True)
        return self.outcome

    def again(self, row: Found) -> Found | None:
        """The row as it is now; None where it has gone."""
        rows, _total = self.switch.alone(row).read(self.postgres.session)
        return rows[0] if rows else None

    def left(self) -> str:
        """Which rows are not as wanted; empty where all are."""
        now = [(row, self.again(row)) for row in self.differing]
        return ", ".join(self.switch.subject(row) for row, found in now if found is None or found.differs)


def look(postgres: Postgres, switch: Switch, expected: int | None) -> Campaign:
    """Finds the rows. Raises where they are none, too many, or not as many as expected."""
    rows, total = switch.read(postgres.session)
    if not rows and switch.both:
        # Has it been done before? Then the rows have the wanted values where they once matched.
        arrived, count = replace(switch, arrived=True).read(postgres.session)
        if arrived and count <= switch.most and not any(row.differs for row in arrived):
            rows, total = arrived, count
    refuse(switch, total, expected)
    return Campaign(postgres, switch, rows, total)


def plan_of(campaign: Campaign) -> Plan:
    """A step for each row that differs."""
    switch, differing = campaign.switch, campaign.differing
    selector = {"table": switch.table.label, "match": dict(switch.match), "set": dict(switch.wanted)}
    predicted = [{**row.more, **{name: row.new[name] for name in row.new if name in row.more}} for row in campaign.rows]
    listed = [
        shown(switch.table, {**row.key, **more}) for row, more in zip(campaign.rows[:_LISTED], predicted, strict=False)
    ]
    facts = {"table": switch.table.label, "matched": campaign.total, "differed": len(differing), "list": listed}
    return Plan(
        target=campaign.postgres.target,
        selector=selector,
        before={"rows": [shown(switch.table, {**row.key, **row.old}) for row in differing]},
        after={"rows": [_after(switch, row) for row in differing]},
        steps=tuple(_step(campaign, row) for row in differing),
        findings=beside(switch),
        facts={"rows": facts},
        population=campaign.total,
        verify=Verify("the rows are as wanted", campaign.left, interval=0.1, timeout=2.0) if differing else None,
        aftermath=_aftermath(campaign, facts),
    )


def _after(switch: Switch, row: Found) -> Mapping[str, Any]:
    """A masked value that changes is said to do so."""
    masked = shown(switch.table, {**row.key, **row.new})
    changing = {name for name in row.new if name in switch.table.hidden and row.new[name] != row.old[name]}
    return {name: f"{value} (another)" if name in changing and value else value for name, value in masked.items()}


def _step(campaign: Campaign, row: Found) -> Step:
    switch = campaign.switch
    subject = switch.subject(row)

    def act(_progress: Progress) -> Done:
        return Done() if campaign.take() else Done(0, note="somebody else has set it meanwhile")

    back = switch.back(row)

    def undo() -> None:
        rows, total = back.read(campaign.postgres.session)
        back.write(campaign.postgres.session, rows, total)

    args: dict[str, Any] = {"table": switch.table.place, "match": dict(back.match), "set": dict(row.old)}
    secret = switch.table.hidden & {*back.match, *row.old}
    told = Undo(f"Set {words(switch.table, row.old)} in {subject} again", undo, *(() if secret else (MODULE, args)))
    return Step(subject, f"Set {words(switch.table, row.new)} in {subject}", act, told)


def _aftermath(campaign: Campaign, facts: Mapping[str, Any]) -> Callable[[], Aftermath]:
    def look_again() -> Aftermath:
        rows = [campaign.again(row) for row in campaign.rows[:_LISTED]]
        listed = [shown(campaign.switch.table, {**row.key, **row.more}) for row in rows if row]
        return Aftermath({"rows": {**facts, "list": listed}})

    return look_again


def beside(switch: Switch) -> tuple[Finding, ...]:
    """That an update does more than it says, or does not see all."""
    table = switch.table
    found = []
    if table.triggers:
        advice = "They run with the update. Know what they do."
        evidence = {"triggers": list(table.triggers)}
        found.append(Finding("postgres.row_triggers", Severity.INFO, table.label, evidence, advice))
    if table.policies:
        advice = "This role sees, counts and changes only the rows that the policies show it."
        found.append(Finding("postgres.row_policies", Severity.INFO, table.label, {}, advice))
    return tuple(found)
