# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Changing a setting where it is stored, loading it, and telling what that comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from .._core.errors import Kind, OpsError
from .._core.plan import Aftermath, Done, Finding, Plan, Progress, Severity, Step, Undo, Verify
from .._core.redact import MASK
from .client import Postgres
from .setting_hazards import refuse_hazards
from .setting_rights import require
from .setting_scopes import Situation, look, refuse_misplaced, store
from .settings import Known, canonical, is_secret, stored_form, written

#: Contexts of settings that a session keeps from its start.
_FROM_THE_START = frozenset({"backend", "superuser-backend"})

#: The driver relies on the first; the others depend on the database, and the connection's may not be the one meant.
_UNTRIED = frozenset({"client_encoding", "default_text_search_config", "default_table_access_method"})


@dataclass(frozen=True, slots=True)
class Change:
    """The setting as it is, and what the scope shall hold: the texts behind C(SET name =), or None for nothing."""

    now: Situation
    texts: tuple[str, ...] | None
    reload: bool

    @property
    def known(self) -> Known:
        return self.now.known

    @property
    def subject(self) -> str:
        return f"{self.known.name} of {self.now.scope}"

    @property
    def text(self) -> str | None:
        """The wanted value as the server stores it."""
        return None if self.texts is None else stored_form(self.known, self.texts)

    @property
    def outcome(self) -> str:
        """What sessions get once this is loaded, as far as the scope decides."""
        return self.now.beneath if self.text is None else self.text

    @property
    def is_needed(self) -> bool:
        """Whether the scope has to be written. The server's value may also stand in another file, or be built in."""
        if self.now.stores(self.text):
            return False
        if self.text is None or not self.now.scope.is_system or self.now.stored is not None:
            return True
        return not self.now.files_say(self.text)

    @property
    def is_to_load(self) -> bool:
        """Whether the server has to read its files again."""
        return self.reload and self.now.scope.is_system and (self.is_needed or not self.now.is_loaded)

    @property
    def takes_effect(self) -> str:
        """C(now), C(after_restart), C(after_reload), C(new_sessions), or C(overridden) where it never does."""
        if not self.now.scope.is_system or self.known.context in _FROM_THE_START:
            return "new_sessions"
        if self.now.is_fixed and not self.now.holds(self.outcome):
            return "overridden"
        if not self.is_needed and self.now.is_loaded and not self.known.pending_restart:
            return "now"
        if not self.reload:
            return "after_reload"
        restart = self.known.needs_restart and not self.now.holds(self.outcome)
        return "after_restart" if restart else "now"

    def shown(self, text: str | None) -> str | None:
        """For people: what may be a secret is masked."""
        return MASK if text is not None and is_secret(self.known.name) else text


def plan_of(postgres: Postgres, change: Change, selector: Mapping[str, Any], *, temporary: bool) -> Plan:
    """A step for the value, and one for the server to read its files again."""
    steps = (*(_store(postgres, change) if change.is_needed else ()), *(_load(postgres, change)))
    sessions = require(postgres, change.known, change.now.scope, steps=bool(steps), reload=change.reload)
    if steps:
        _refuse_broken(change.now)
    name = change.known.name
    differs = change.is_needed
    return Plan(
        target=postgres.target,
        selector={**selector, "name": name, **change.now.scope.args(), "value": change.text, "temporary": temporary},
        before={name: change.shown(change.now.stored)} if differs else {},
        after={name: _masked_after(change)} if differs else {},
        steps=steps,
        findings=(*_findings(postgres, change), *_later(change, sessions)),
        verify=_verify(postgres, change) if steps else None,
        facts={"setting": facts(change, change.now), "temporary": temporary},
        aftermath=lambda: Aftermath({"setting": facts(change, _again(postgres, change))}),
    )


def _masked_after(change: Change) -> str | None:
    shown = change.shown(change.text)
    return f"{shown} (another)" if shown == MASK else shown


def prepare(postgres: Postgres, now: Situation, value: Any, *, reload: bool, confirm: str) -> Change:
    """Judges the wanted value. Raises for one that the server would refuse, is never set, or has to be confirmed."""
    refuse_misplaced(now.known, now.scope)
    change = Change(now, None if value is None else written(now.known, value), reload)
    if change.text is not None:
        canonical(now.known, change.text)
    if change.is_needed and (change.text is not None or now.scope.is_system):
        # What the server has already needs no confirming: this only takes back what waits for a restart.
        settled = now.scope.is_system and now.holds(change.outcome)
        given = now.known.name if settled else confirm
        refuse_hazards(now.known, change.outcome, everybody=now.scope.is_system, confirm=given)
    if change.is_needed and change.text is not None and _can_be_tried(now.known):
        # The server's own check of the text, undone with the statement.
        values = {"name": now.known.name, "value": change.text}
        postgres.session.rows("SELECT set_config(%(name)s, %(value)s, true)", values)
    return change


def _can_be_tried(known: Known) -> bool:
    """Whether this session can set it: what only superusers may is left to ALTER."""
    return known.kind == "string" and known.context == "user" and bool(known.source) and known.lower not in _UNTRIED


def _refuse_broken(now: Situation) -> None:
    if now.broken:
        hint = "Mend the file first: as it is the server would not load the setting."
        raise OpsError(Kind.PRECONDITION, f"the configuration cannot be loaded, {now.broken}", hint, code="broken_file")


def _store(postgres: Postgres, change: Change) -> tuple[Step]:
    now, known, scope = change.now, change.known, change.now.scope

    def compare_and_store(expected: str | None, value: str | tuple[str, ...] | None) -> None:
        # ALTER SYSTEM takes no condition, so a narrow gap remains between the look and the change.
        found = look(postgres.session, scope, known.name)
        if not found.stores(expected):
            text = f"{change.subject} is {change.shown(found.stored)!r} now, not {change.shown(expected)!r}"
            raise OpsError(Kind.CONFLICT, text, "Find out who changes it, then run again.", code="changed_meanwhile")
        store(postgres, known, scope, value)

    def act(_progress: Progress) -> Done:
        compare_and_store(now.stored, change.texts)
        return Done()

    def undo() -> None:
        compare_and_store(change.text, now.stored)
        if scope.is_system and change.reload:
            _reload(postgres)

    before = change.shown(now.stored)
    verb = "Reset" if change.text is None else "Set"
    value = "" if change.text is None else f" to {change.shown(change.text)!r}"
    words = f"{verb} {change.subject}{value} (was {'not set' if before is None else repr(before)})"
    back = f"Reset {change.subject}" if before is None else f"Set {change.subject} back to {before!r}"
    args = {"name": known.name, "value": now.stored, **scope.args(), **({} if change.reload else {"reload": False})}
    module = "" if before == MASK else "sre.runbooks.postgres_setting"
    return (Step(change.subject, words, act, Undo(back, undo, module, args)),)


def _load(postgres: Postgres, change: Change) -> tuple[Step, ...]:
    if not change.is_to_load:
        return ()

    def act(_progress: Progress) -> Done:
        _reload(postgres)
        return Done()

    undo = Undo("The files are read again when the setting in them is set back.")
    return (Step(f"configuration of {postgres.target.name}", "Reload the configuration", act, undo),)


def _reload(postgres: Postgres) -> None:
    (row,) = postgres.session.rows("SELECT pg_reload_conf() AS sent")
    if not row["sent"]:
        raise OpsError(Kind.UNREACHABLE, "the server could not be told to reload", "See its log.", code="connection")


def _again(postgres: Postgres, change: Change) -> Situation:
    """Looks anew; through a new session where old ones keep what they started with."""
    fresh = change.known.context in _FROM_THE_START and postgres.again is not None
    with postgres.again() if fresh and postgres.again else nullcontext(postgres.session) as session:
        return look(session, change.now.scope, change.known.name)


def _verify(postgres: Postgres, change: Change) -> Verify:
    """That the scope holds the value, and the server too where it can without a restart."""

    def check() -> str:
        found = _again(postgres, change)
        if change.is_needed and not found.stores(change.text):
            return f"{change.subject} is {change.shown(found.stored)!r}"
        if not change.is_to_load:
            return ""
        if found.broken:
            return f"the server cannot load its files, {found.broken}"
        return "" if found.is_loaded else f"the server still has {change.shown(found.in_force)!r}"

    return Verify(f"{change.subject} is as wanted", check, interval=0.05, timeout=10.0)


def facts(change: Change, found: Situation) -> dict[str, Any]:
    """The setting in the result. C(in_force) is the server's, None where this session has a value of its own."""
    known, scope = found.known, found.scope
    return {
        "name": known.name,
        "scope": scope.kind,
        "role": scope.role,
        "database": scope.database,
        "value": change.shown(change.text),
        "was": change.shown(change.now.stored),
        "in_force": change.shown(found.in_force),
        "source": known.place or known.source,
        "unit": known.unit,
        "type": known.kind,
        "context": known.context,
        "takes_effect": change.takes_effect,
        "pending_restart": known.pending_restart,
    }


def _findings(postgres: Postgres, change: Change) -> Sequence[Finding]:
    """What keeps the value from holding everywhere, and at once."""
    found = []
    name, now = change.known.name, change.now
    if change.takes_effect == "after_restart":
        advice = "It holds from the next restart of the server on."
        found.append(Finding("postgres.pending_restart", Severity.INFO, name, {"settings": [name]}, advice))
    by = [{**one, **({"value": MASK} if is_secret(name) else {})} for one in now.overridden_by(change.outcome)]
    if by and (change.text is not None or now.scope.is_system):
        advice = "Change it there too: for the sessions concerned that value wins."
        found.append(Finding("postgres.setting_overridden", Severity.WARNING, name, {"by": by}, advice))
    if change.takes_effect == "after_reload":
        advice = "Run again with reload=true: the server has not read it yet."
        found.append(Finding("postgres.setting_not_loaded", Severity.WARNING, name, {}, advice))
    if change.is_needed and now.scope.is_system and not postgres.standby:
        rows = postgres.session.rows("SELECT application_name AS name FROM pg_stat_replication ORDER BY 1")
        if rows:
            evidence = {"standbys": [row["name"] for row in rows]}
            advice = "Set the same on each standby: after a failover the old value is back."
            found.append(Finding("postgres.standbys_differ", Severity.INFO, name, evidence, advice))
    return found


def _later(change: Change, sessions: int) -> Sequence[Finding]:
    """That open sessions go on as they started."""
    if not change.is_needed or change.takes_effect != "new_sessions":
        return ()
    advice = "Open sessions keep what they started with. A pool takes it over as it renews its connections."
    evidence = {} if change.now.scope.is_system else {"sessions": sessions}
    return (Finding("postgres.setting_new_sessions", Severity.INFO, change.known.name, evidence, advice),)
