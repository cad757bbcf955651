# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the lines of a journal to what a report says. Pure; Markdown and HTML only set it in type.

Every run pays for this file, so its values are named tuples: a quarter of a dataclass's price.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from ._journal import OUTCOMES, PHASES, Event
from ._report_words import amount, count, duration, evidence, percent

_RANK = {"critical": 0, "warning": 1, "info": 2}


class Finding(NamedTuple):
    """C(state): cleared, remains, or unseen (the last look did not cover it)."""

    id: str
    severity: str
    subject: str
    evidence: tuple[tuple[str, str], ...]
    suggest: str
    state: str


class Act(NamedTuple):
    """What one task did: its words, how each can be undone, and how many more there were than are kept."""

    task: str
    actions: tuple[str, ...]
    undo: tuple[str, ...]
    rest: int
    at: float


class Spared(NamedTuple):
    subject: str
    reason: str


class Number(NamedTuple):
    """The symptom's own number. C(measured) is None where nothing was done."""

    name: str
    unit: str
    before: float
    forecast: float
    measured: float | None

    @property
    def deviation(self) -> str:
        """How far the measured change is from the promised one, as a share of the promised one."""
        promised = self.before - self.forecast
        if self.measured is None or not promised:
            return ""
        off = abs(self.measured - self.forecast) / abs(promised)
        return "as forecast" if off < 0.0005 else f"{percent(off)} off the forecast"

    def text(self, value: float) -> str:
        return amount(value, self.unit)


class Proof(NamedTuple):
    ok: bool
    words: str


class Trouble(NamedTuple):
    """Something that failed, or was refused. C(final) is false where the play got over it."""

    task: str
    kind: str
    message: str
    hint: str
    refused: bool
    final: bool
    undone: tuple[str, ...]


class Approval(NamedTuple):
    """A plan of a check run. C(command) is empty where only AWX can start the run again."""

    id: str
    subjects: int
    actions: tuple[str, ...]
    command: str


class Phase(NamedTuple):
    name: str
    start: float
    seconds: float


class Host(NamedTuple):
    """One runbook on one target."""

    name: str
    runbook: str
    outcome: str
    server: str
    check: bool
    seconds: float
    looked: bool
    mitigated: float | None
    findings: tuple[Finding, ...] = ()
    acts: tuple[Act, ...] = ()
    spared: tuple[Spared, ...] = ()
    spared_rest: int = 0
    numbers: tuple[Number, ...] = ()
    shifts: tuple[tuple[str, str, str], ...] = ()
    proofs: tuple[Proof, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    approvals: tuple[Approval, ...] = ()
    phases: tuple[Phase, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return OUTCOMES.get(self.outcome, self.outcome)

    @property
    def nothing_found(self) -> str:
        return "Nothing out of the ordinary." if self.looked else "Nothing could be looked at."

    @property
    def remaining(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.state != "cleared")

    @property
    def headline(self) -> str:
        """The outcome in one sentence."""
        return _headline(self)

    @property
    def advice(self) -> tuple[tuple[str, str], ...]:
        """What to do next, and the error or finding that says so. To run this very runbook is no advice."""
        hints = [(trouble.hint, trouble.kind) for trouble in self.troubles if trouble.final and trouble.hint]
        found = [(finding.suggest, finding.id) for finding in self.remaining if self.runbook not in finding.suggest]
        return tuple((words, source) for words, source in [*hints, *found] if words)

    @property
    def planned(self) -> int:
        """How many actions a real run would take."""
        return sum(len(approval.actions) for approval in self.approvals)

    @property
    def done(self) -> int:
        """How many actions were taken."""
        return sum(len(act.actions) + act.rest for act in self.acts)

    @property
    def line(self) -> str:
        """For the screen."""
        return f"{self.name}: {self.label}. {self.headline}"


class Report(NamedTuple):
    run: str
    started: str
    seconds: float
    user: str
    core: str
    collection: str
    check: bool
    job: bool
    playbook: str
    hosts: tuple[Host, ...]

    @property
    def title(self) -> str:
        return ", ".join(dict.fromkeys(host.runbook for host in self.hosts))


def read_report(lines: Sequence[Event]) -> Report:
    """What the lines of one journal say, finished or not."""
    head = next((line for line in lines if not line["host"]), {})
    groups: dict[tuple[str, str], list[Event]] = {}
    for line in lines:
        if line["host"]:
            groups.setdefault((line["runbook"], line["host"]), []).append(line)
    return Report(
        run=str(head.get("run", "")),
        started=str(head.get("at", ""))[:19].replace("T", " "),
        seconds=_at(lines[-1]) - _at(lines[0]) if lines else 0.0,
        user=str(head.get("user", "")),
        core=str(head.get("core", "")),
        collection=str(head.get("collection", "")),
        check=bool(head.get("check")),
        job=bool(head.get("job")),
        playbook=str(head.get("playbook", "")),
        hosts=tuple(_host(found, head) for found in groups.values()),
    )


def _host(lines: Sequence[Event], head: Event) -> Host:
    ended = lines[-1] if lines[-1]["event"] == "finished" else {}
    # All hosts are finished at the end of the run; each was busy until its own last task.
    last = lines[-2] if ended and len(lines) > 1 else lines[-1]
    spared = [line for line in lines if line["event"] == "spared"]
    return Host(
        name=lines[0]["host"],
        runbook=lines[0]["runbook"],
        outcome=str(ended.get("outcome", "interrupted")),
        server=_server(lines),
        check=bool(head.get("check")),
        seconds=_at(last) - _at(lines[0]),
        looked=any(line["event"] == "diagnosed" for line in lines),
        mitigated=_time_to_mitigate(lines),
        findings=_findings(lines),
        acts=tuple(_act(line) for line in lines if line["event"] == "acted" and _is_treatment(line)),
        spared=tuple(dict.fromkeys(_spared(item) for line in spared for item in line["spared"])),
        spared_rest=sum(line.get("spared_rest", 0) for line in spared),
        numbers=_forecasts(lines),
        shifts=_shifts(lines),
        proofs=tuple(_proof(line["verify"]) for line in lines if line["event"] == "verified"),
        troubles=_troubles(lines, bool(ended.get("failed", 1))),
        approvals=tuple(_approval(line, head) for line in lines if _awaits_approval(line)),
        phases=_phases(lines),
        skipped=tuple(dict.fromkeys(line["task"] for line in lines if _is_spare_rung(line))),
    )


def _at(line: Event) -> float:
    return datetime.fromisoformat(line["at"]).timestamp()


def _begun(line: Event) -> float:
    return _at(line) - float(line.get("seconds", 0.0))


def _is_treatment(line: Event) -> bool:
    return not str(line["action"]).endswith(".lease")


def _is_spare_rung(line: Event) -> bool:
    return bool(line["event"] == "skipped" and line["phase"] == "Mitigate")


def _server(lines: Iterable[Event]) -> str:
    """C(127.0.0.1:6379, redis 7.0.15, master), as far as it is known."""
    for line in lines:
        server, target = line.get("server") or {}, line.get("target") or line.get("plan", {}).get("target") or {}
        name, kind = server.get("name") or target.get("name"), target.get("kind", "")
        if name:
            words = (str(name), f"{kind} {server.get('version', '')}".strip(), str(server.get("role", "")))
            return ", ".join(word for word in words if word)
    return ""


def _time_to_mitigate(lines: Sequence[Event]) -> float | None:
    """From the start of the first diagnosis to the last proof after the last change; None without both."""
    acted = [place for place, line in enumerate(lines) if line["event"] == "acted" and _is_treatment(line)]
    if not acted:
        return None
    last = next((place for place in reversed(acted) if lines[place]["phase"] not in ("Guard", "Report")), acted[-1])
    good = [line for line in lines[last:] if line["event"] == "verified" and line["verify"].get("ok")]
    starts = [_begun(line) for line in lines if line["phase"] == "Diagnose"] or [_at(lines[0])]
    return _at(good[-1]) - min(starts) if good else None


def _findings(lines: Sequence[Event]) -> tuple[Finding, ...]:
    """Everything found in this run, with what became of it."""
    looks = [line for line in lines if line["event"] == "diagnosed"]
    proved = [
        str(line["verify"].get("condition"))
        for line in lines
        if line["event"] == "verified" and line["verify"].get("ok")
    ]
    cleared = {word.strip(",") for words in proved for word in words.split()}
    latest: dict[tuple[str, str], tuple[int, Mapping[str, Any]]] = {}
    for place, look in enumerate(looks):
        for found in look["findings"]:
            latest[found["id"], found["subject"]] = (place, found)
    made = [_finding(found, _state(found["id"], place, looks, cleared)) for place, found in latest.values()]
    return tuple(sorted(made, key=lambda finding: (_RANK.get(finding.severity, 3), finding.id, finding.subject)))


def _state(name: str, place: int, looks: Sequence[Event], cleared: set[str]) -> str:
    """A finding is gone only where a later look would have shown it, or a proof names it."""
    if place == len(looks) - 1:
        return "remains"
    covered = any(set(look["seen"]) >= set(looks[place]["seen"]) for look in looks[place + 1 :])
    return "cleared" if covered or name in cleared else "unseen"


def _finding(found: Mapping[str, Any], state: str) -> Finding:
    facts = found.get("evidence")
    return Finding(
        id=str(found["id"]),
        severity=str(found.get("severity", "info")),
        subject=str(found["subject"]),
        evidence=evidence(facts) if isinstance(facts, Mapping) else (),
        suggest=_suggestion(found.get("suggest")),
        state=state,
    )


def _suggestion(suggest: Any) -> str:
    if isinstance(suggest, Mapping):
        return " ".join([str(suggest.get("module", "")), *(f"{k}={v}" for k, v in (suggest.get("args") or {}).items())])
    return str(suggest or "")


def _act(line: Event) -> Act:
    actions = tuple(str(words) for words in line["actions"])
    undo = tuple(_undo(item) for item in line.get("undo") or [])
    return Act(line["task"], actions, tuple(dict.fromkeys(undo)), int(line.get("actions_rest", 0)), _at(line))


def _undo(item: Mapping[str, Any]) -> str:
    return f"{'Can be undone' if item.get('possible') else 'Cannot be undone'}: {item.get('words', '')}".rstrip(": ")


def _spared(item: Mapping[str, Any]) -> Spared:
    many = int(item.get("count") or 1)
    return Spared(f"{item.get('subject', '')}{f' ({many:,})' if many > 1 else ''}", str(item.get("reason", "")))


def _forecasts(lines: Sequence[Event]) -> tuple[Number, ...]:
    """What was measured; where nothing was done, what was promised."""
    measured = [line["measured"] for line in lines if line["event"] == "measured"]
    if measured:
        return tuple(Number(str(m["name"]), str(m["unit"]), m["before"], m["forecast"], m["after"]) for m in measured)
    promised = [line["forecast"] for line in lines if line["event"] == "planned" and line.get("forecast")]
    waiting = [f for f in promised if f["before"] != f["after"]]
    return tuple(Number(str(f["name"]), str(f["unit"]), f["before"], f["after"], None) for f in waiting)


def _shifts(lines: Sequence[Event]) -> tuple[tuple[str, str, str], ...]:
    """Numbers that both the first and the last look saw, where they differ by more than a hundredth."""
    looks = [line["numbers"] for line in lines if line["event"] == "diagnosed" and line.get("numbers")]
    if len(looks) < 2:
        return ()
    shifts = []
    for section in looks[0].keys() & looks[-1].keys():
        first, last = looks[0][section], looks[-1][section]
        moved = {
            n for n in first.keys() & last.keys() if abs(first[n] - last[n]) > 0.01 * max(abs(first[n]), abs(last[n]))
        }
        before, after = dict(evidence(first)), dict(evidence(last))
        names = [(f"{section} {label}", before[label], after.get(label, "")) for label in before]
        shifts += [row for row, name in zip(names, first, strict=False) if name in moved and row[1] != row[2]]
    return tuple(sorted(shifts))


def _proof(verify: Mapping[str, Any]) -> Proof:
    ok, held = bool(verify.get("ok")), int(verify.get("consecutive") or 0)
    words = str(verify.get("condition", ""))
    if ok:
        times = f", {held} times in a row" if held > 1 else ""
        return Proof(True, f"{words}{times} ({duration(float(verify.get('seconds') or 0))})")
    return Proof(False, f"{words}: {verify.get('wrong', '')} (after {duration(float(verify.get('seconds') or 0))})")


def _troubles(lines: Sequence[Event], failed: bool) -> tuple[Trouble, ...]:
    """In order. A C(fail) task at the end of a rescue repeats its cause, which then is the final one."""
    found = [line for line in lines if line["event"] in ("failed", "refused")]
    causes = [line for line in found if not line["action"].endswith("fail")] or found
    final = found.index(causes[-1]) if failed and causes else len(found)
    return tuple(_trouble(line, place >= final) for place, line in enumerate(found))


def _trouble(line: Event, final: bool) -> Trouble:
    error = line["error"]
    return Trouble(
        task=line["task"],
        kind=str(error.get("kind", "")),
        message=str(error.get("message", "")),
        hint=str(error.get("hint", "")),
        refused=line["event"] == "refused",
        final=final,
        undone=tuple(map(str, line.get("undone") or [])),
    )


def _awaits_approval(line: Event) -> bool:
    return bool(line["event"] == "planned" and line.get("check") and line.get("actions"))


def _approval(line: Event, head: Event) -> Approval:
    plan = line.get("plan") or {}
    name = str(plan.get("id", ""))
    words = [str(word) for word in head.get("command") or []]
    command = (
        f"{shlex.join(words)} -e approved_plan={shlex.quote(name)}" if words and name and not head.get("job") else ""
    )
    return Approval(name, int(plan.get("count") or 0), tuple(map(str, line["actions"])), command)


def _phases(lines: Sequence[Event]) -> tuple[Phase, ...]:
    start = min((_begun(line) for line in lines if line["phase"]), default=0.0)
    phases = []
    for name in PHASES:
        mine = [line for line in lines if line["phase"] == name]
        if mine:
            first = min(_begun(line) for line in mine)
            phases.append(Phase(name, max(0.0, first - start), max(0.0, max(map(_at, mine)) - first)))
    return tuple(phases)


def _headline(host: Host) -> str:
    final = next((trouble for trouble in host.troubles if trouble.final), None)
    if host.outcome in ("failed", "refused") and final:
        return final.message
    if host.outcome in ("mended", "unverified"):
        return _treatment(host)
    if host.outcome == "check_only":
        subjects = count(sum(approval.subjects for approval in host.approvals), "subject")
        return f"{count(host.planned, 'action')} planned on {subjects}. Nothing was changed."
    remaining = [finding for finding in host.remaining if finding.severity != "info"]
    left = f" {count(len(remaining), 'finding')} {'remains' if len(remaining) == 1 else 'remain'}." if remaining else ""
    if host.outcome == "interrupted":
        return "The run ended before its end: no outcome is known."
    return f"Nothing was changed.{left}"


def _treatment(host: Host) -> str:
    steps = count(host.done, "action")
    took = f" in {duration(host.mitigated)}" if host.mitigated is not None else ""
    number = host.numbers[-1] if host.numbers else None
    if number is None or number.measured is None:
        return f"{steps}{took}."
    first = next(n for n in host.numbers if n.name == number.name)
    name = number.name[:1].upper() + number.name[1:]
    return f"{name} from {number.text(first.before)} to {number.text(number.measured)}, {steps}{took}."
