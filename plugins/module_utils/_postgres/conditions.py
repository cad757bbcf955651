# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The two conditions about who is on a server, as plans: no such session, no such prepared transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .._core.errors import bad_parameter
from .._core.plan import Forecast, Plan
from .._core.spec import Params
from . import prepared
from .census import take_census
from .client import Postgres
from .effects import came_back, connections, no_timeout, pooled
from .sessions import FILTERS, Wanted, by_kind, spared_classes
from .signals import Campaign, gone

#: More sessions than this are not listed one by one.
_LISTED = 50

#: Neither a pool nor a cancelled statement is worth a longer wait. In seconds.
_LONGEST_WAIT = 600.0

#: What does not say which sessions or transactions are meant.
_NO_SELECTOR = ("settle", "confirm", "approved_plan")


def no_session(postgres: Postgres, wanted: Params, options: Iterable[str]) -> Plan:
    """That no session matching the selection exists."""
    selection = Wanted.of(wanted)
    for name in ("grace", "settle"):
        if not 0 <= wanted[name] <= _LONGEST_WAIT:
            raise bad_parameter(name, f"{wanted[name]} is not a wait", f"Give seconds, 0 to {_LONGEST_WAIT:g}.")
    census = take_census(postgres, selection)
    transactions = prepared.prepared_transactions(postgres)
    campaign = Campaign(postgres, census, selection, wanted["grace"])
    meant, before = census.selected, len(census.clients)
    listed = [backend.as_dict() for backend in meant[:_LISTED]]
    done = dict.fromkeys(("signalled", "cancelled", "ended", "gone", "reconnected"), 0)
    facts = {"connected": before, "matched": len(meant), "by": by_kind(meant), "list": listed, **done}
    spared = spared_classes(census.spared)
    if selection.blocking or selection.roots:
        spared += prepared.spared_roots(transactions)
    return Plan(
        target=postgres.target,
        selector=_selector(wanted, options),
        before={"sessions": [backend.subject for backend in meant]},
        after={"sessions": []},
        steps=campaign.steps(),
        spared=spared,
        findings=(*no_timeout(postgres, meant), *pooled(postgres), *prepared.blocking(transactions)),
        forecast=Forecast(
            "client_sessions",
            "connections",
            before,
            before - campaign.ending(),
            lambda: connections(postgres, wanted["settle"]),
        ),
        verify=gone(campaign) if meant else None,
        facts={"sessions": facts, "prepared": [one.as_dict() for one in transactions]},
        exact=False,
        population=before,
        aftermath=came_back(postgres, census, campaign, facts),
    )


def no_prepared(postgres: Postgres, wanted: Params, options: Iterable[str]) -> Plan:
    """That none of the named prepared transactions exists; each has to be confirmed by its name."""
    given = [name for name in FILTERS if wanted[name]]
    if given:
        hint = "Roll back prepared transactions in a task of its own."
        raise bad_parameter("prepared", f"it stands alone, not beside {', '.join(given)}", hint)
    gids = tuple(wanted["prepared"])
    found = prepared.prepared_transactions(postgres)
    named = [one for one in found if one.gid in gids]
    return Plan(
        target=postgres.target,
        selector=_selector(wanted, options),
        before={"prepared": [one.subject for one in named]},
        after={"prepared": []},
        steps=prepared.steps(postgres, found, gids),
        findings=prepared.blocking(found),
        verify=prepared.ended(postgres, gids) if named else None,
        facts={"prepared": [one.as_dict() for one in found], "sessions": {}},
        confirm=",".join(one.gid for one in named),
    )


def _selector(wanted: Params, options: Iterable[str]) -> Mapping[str, Any]:
    return {name: wanted[name] for name in options if name not in _NO_SELECTOR}
