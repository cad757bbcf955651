# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The limits that stand between a plan and its first write."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import Kind, OpsError, bad_parameter
from .plan import Plan
from .spec import Params, Spec
from .units import human, parse_size

#: Growth that an approved plan bears where the subject is a living keyspace, as a fraction.
DRIFT = 0.05


def guard_options(*, max_count: int, max_fraction: float = 1.0) -> Spec:
    """The guard's options, with the defaults that fit the module's subjects."""
    return Spec(
        {
            "max_count": {"type": "int", "default": max_count},
            "max_fraction": {"type": "float", "default": max_fraction},
            "max_bytes": {"type": "str"},
            "protect": {"type": "list", "elements": "str", "default": []},
            "confirm": {"type": "str"},
            "approved_plan": {"type": "str"},
        }
    )


@dataclass(frozen=True, slots=True)
class Guard:
    """Judges the server's own numbers before the first write. Refuses; never truncates."""

    max_count: int | None = None
    max_fraction: float | None = None
    max_bytes: int | None = None
    confirm: str = ""
    approved_plan: str = ""

    @classmethod
    def of(cls, params: Params) -> Guard:
        """Reads the options of P(guard_options); a limit of zero is a mistake, never "unlimited"."""
        count, fraction, size = params.get("max_count"), params.get("max_fraction"), params.get("max_bytes")
        if count is not None and count < 1:
            raise bad_parameter(
                "max_count", f"{count} is not a limit", "Give the largest number that is right, from 1."
            )
        if fraction is not None and not 0 < fraction <= 1:
            raise bad_parameter("max_fraction", f"{fraction} is not a fraction", "Give a number above 0, at most 1.")
        limit = None if size is None else parse_size(size, "max_bytes")
        if limit == 0:
            raise bad_parameter("max_bytes", "0 is not a limit", "Leave it out, or give a size such as 512mb.")
        return cls(count, fraction, limit, params.get("confirm") or "", params.get("approved_plan") or "")

    def judge(self, plan: Plan) -> None:
        """Raises M(guard_refused) with the number that broke the limit."""
        if self.approved_plan:
            self._same_as_approved(plan)
        if not plan.steps:
            return
        if self.max_count is not None and plan.count > self.max_count:
            raise _refused(plan, f"{plan.count} subjects, more than max_count {self.max_count}", "max_count")
        if self.max_bytes is not None and plan.bytes > self.max_bytes:
            text = f"{human(plan.bytes)}, more than max_bytes {human(self.max_bytes)}"
            raise _refused(plan, text, "max_bytes")
        self._fraction(plan)
        if plan.confirm and self.confirm != plan.confirm:
            hint = f"This cannot be taken back. Look at the plan, then pass confirm={plan.confirm}."
            raise OpsError(Kind.GUARD_REFUSED, f"{plan.target.name}: not confirmed", hint, code="confirm")

    def _fraction(self, plan: Plan) -> None:
        if self.max_fraction is None or not plan.population:
            return
        share = plan.count / plan.population
        if share > self.max_fraction:
            text = f"{plan.count} of {plan.population} ({share:.0%}), more than max_fraction {self.max_fraction:.0%}"
            raise _refused(plan, text, "max_fraction")

    def _same_as_approved(self, plan: Plan) -> None:
        wanted, dot, count = self.approved_plan.rpartition(".")
        found = plan.id.rpartition(".")[0]
        room = 0 if plan.exact else DRIFT
        grown = count.isdigit() and plan.count > int(count) * (1 + room)
        if wanted != found or not dot or not count.isdigit() or grown:
            text = f"approved_plan {self.approved_plan} is not the plan of now, {plan.id}"
            hint = "The target, the selection or its size has changed. Read the plan of a new check run and approve it."
            raise OpsError(Kind.CONFLICT, text, hint, code="stale_plan")


def _refused(plan: Plan, text: str, option: str) -> OpsError:
    hint = f"Nothing was changed. Narrow the selection; raise {option} only if the plan is right."
    return OpsError(Kind.GUARD_REFUSED, f"{plan.target.name}: {text}", hint, code=option)
