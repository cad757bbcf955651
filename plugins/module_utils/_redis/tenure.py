# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Holding a lease as a condition: what is there, what has to be done, and how to tell that it worked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .._core.errors import bad_parameter
from .._core.plan import Aftermath, Done, Finding, Plan, Progress, Severity, Step, Undo, Verify
from .._core.spec import Params
from .._core.units import parse_seconds
from .client import Redis
from .holder import Holder, holder
from .lease import Cell, Held, as_facts, free, new_lease


@dataclass(frozen=True, slots=True)
class Asked:
    """The options. C(ttl) is in milliseconds, C(deadline) on the monotonic clock."""

    name: str
    owner: str
    ttl: int
    deadline: float

    @classmethod
    def of(cls, params: Params, now: float) -> Asked:
        for option in ("name", "owner"):
            if not params[option].strip():
                raise bad_parameter(option, "it is empty", "Say what is leased, and by whom.")
        seconds = parse_seconds(params["ttl"], "ttl")
        if not seconds:
            raise bad_parameter("ttl", "a lease without time is none", "Give a duration from 1 second, such as 5m.")
        return cls(params["name"], params["owner"], seconds * 1000, now + params["wait"])

    def owns(self, held: Held | None) -> bool:
        return held is not None and held.lease.owner == self.owner


def plan_take(redis: Redis, place: Cell, asked: Asked) -> Plan:
    """Raises a conflict, in check mode too, while another run holds the lease."""
    held = free(place, asked.name, asked.owner, asked.deadline)
    if held and asked.owns(held) and held.left > asked.ttl / 2:
        return _plan(redis, place, asked, held)
    if held and asked.owns(held):
        return _plan(redis, place, asked, held, steps=(_renewal(place, asked, held),))
    findings = (_taken_over(asked, held),) if held else ()
    return _plan(redis, place, asked, held, steps=(_taking(place, asked, held, holder()),), findings=findings)


def plan_release(redis: Redis, place: Cell, asked: Asked) -> Plan:
    """Gives back nothing but one's own."""
    held = place.read()
    steps = (_giving_back(place, asked, held),) if held and asked.owns(held) else ()
    findings = () if held is None or steps else (_held_by_other(asked, held),)
    return _plan(redis, place, asked, held, steps=steps, findings=findings, released=True)


def _plan(
    redis: Redis,
    place: Cell,
    asked: Asked,
    held: Held | None,
    *,
    steps: tuple[Step, ...] = (),
    findings: tuple[Finding, ...] = (),
    released: bool = False,
) -> Plan:
    now = held.lease.owner if held else ""
    after = ("" if released else asked.owner) if steps else now

    def look() -> Aftermath:
        return Aftermath(_facts(place, asked))

    return Plan(
        target=redis.target,
        selector={"name": asked.name, "owner": asked.owner, "released": released},
        before={"owner": now},
        after={"owner": after},
        steps=steps,
        findings=findings,
        verify=Verify(*_condition(place, asked, released), interval=0.1, timeout=1.0) if steps else None,
        facts={"lease": as_facts(asked.name, held, ours=asked.owns(held))},
        aftermath=look,
    )


def _facts(place: Cell, asked: Asked) -> dict[str, Any]:
    held = place.read()
    return {"lease": as_facts(asked.name, held, ours=asked.owns(held))}


def _condition(place: Cell, asked: Asked, released: bool) -> tuple[str, Callable[[], str]]:
    def check() -> str:
        if asked.owns(place.read()) is not released:
            return ""
        return "it is still held" if released else "it has been lost"

    verb = "does not hold" if released else "holds"
    return f"{asked.owner} {verb} the lease {asked.name}", check


def _taking(place: Cell, asked: Asked, held: Held | None, who: Holder) -> Step:
    lease = new_lease(asked.owner, who)

    def act(_progress: Progress) -> Done:
        expected = held
        while not place.swap(expected, lease, asked.ttl):
            # Another run came between: wait for it too, as long as there is time.
            expected = free(place, asked.name, asked.owner, asked.deadline)
        return Done()

    def give_back() -> None:
        now = place.read()
        if now and asked.owns(now):
            place.swap(now, None, 0)

    over = f", whose run is gone: {held.lease.owner}" if held else ""
    words = f"Take the lease {asked.name} for {asked.owner}{over}"
    args = {"name": asked.name, "owner": asked.owner, "state": "released"}
    return Step(
        f"lease {asked.name}", words, act, Undo(f"Give back {asked.name}", give_back, "sre.runbooks.lease", args)
    )


def _renewal(place: Cell, asked: Asked, held: Held) -> Step:
    # The same taking goes on, so its moment and its fence stay; a run that was started anew is the holder now.
    lease = replace(held.lease, holder=holder())

    def act(_progress: Progress) -> Done:
        if place.swap(held, lease, asked.ttl):
            return Done()
        return Done(0, note="it has just been renewed by this run")

    undo = Undo("The lease ends by itself.")
    return Step(f"lease {asked.name}", f"Renew the lease {asked.name} for {asked.owner}", act, undo)


def _giving_back(place: Cell, asked: Asked, held: Held) -> Step:
    def act(_progress: Progress) -> Done:
        if place.swap(held, None, 0):
            return Done()
        return Done(0, note="it has ended by itself")

    undo = Undo("Take it again: it may belong to another run by then.")
    return Step(f"lease {asked.name}", f"Give back the lease {asked.name} of {asked.owner}", act, undo)


def _taken_over(asked: Asked, held: Held) -> Finding:
    lease = held.lease
    evidence = {"owner": lease.owner, "by": lease.holder.by, "pid": lease.holder.pid, "since": lease.since}
    advice = "That run was killed. Look at its journal: it may have left something half done."
    return Finding("lease.taken_over", Severity.WARNING, asked.name, evidence, advice)


def _held_by_other(asked: Asked, held: Held) -> Finding:
    evidence = {"owner": held.lease.owner, "by": held.lease.holder.by, "until": held.until}
    advice = "The lease of this run has ended before the run did: give it a longer ttl."
    return Finding("lease.held_by_other", Severity.WARNING, asked.name, evidence, advice)
