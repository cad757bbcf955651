# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the options of a diagnosis to what is read, what is judged, and how long it may take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .._core.errors import bad_parameter
from .._core.spec import Params
from .._core.units import parse_seconds, parse_size
from .client import Postgres, connect
from .facts import Look
from .health import Thresholds

#: Seconds to wait for a lock of a catalogue; tables' own locks are never waited for.
_LOCK_TIMEOUT = 1.0

_PLAIN = (
    *("connections_ratio", "xact_seconds", "idle_xact_seconds", "lag_seconds", "wraparound_ratio", "dead_ratio"),
    *("bloat_ratio", "stale_ratio", "slow_seconds", "heavy_share"),
)


@contextmanager
def patient(params: Params) -> Iterator[Postgres]:
    """The product's way in, with timeouts that suit one who looks at a sick server."""
    if params["section_timeout"] <= 0:
        raise bad_parameter("section_timeout", f"{params['section_timeout']} is not a time", "Give seconds above 0.")
    limits = {
        "statement_timeout": min(params["statement_timeout"], params["section_timeout"]),
        "lock_timeout": min(params["lock_timeout"], _LOCK_TIMEOUT),
    }
    with connect({**params, **limits}) as postgres:
        yield postgres


def look_of(wanted: Params) -> Look:
    """What to read."""
    if not 1 <= wanted["top"] <= 100:
        raise bad_parameter("top", f"{wanted['top']} is out of range", "Give 1 to 100.")
    return Look(frozenset(wanted["sections"]), wanted["show_queries"], wanted["top"], wanted["section_timeout"])


def thresholds_of(wanted: Params) -> Thresholds:
    """Where findings begin."""
    for name in _PLAIN:
        if wanted[name] < 0:
            raise bad_parameter(name, f"{wanted[name]} is below 0")
    return Thresholds(
        **{name: wanted[name] for name in _PLAIN},
        lock_wait=parse_seconds(wanted["lock_wait"], "lock_wait"),
        lag_bytes=parse_size(wanted["lag_bytes"], "lag_bytes"),
        pool_connections=sum(_most(pool) for pool in wanted["pools"]),
    )


def _most(pool: Mapping[str, Any]) -> int:
    """Connections that all processes of an application may open, while a rollout adds some."""
    return int((pool["replicas"] + pool["surge"]) * (pool["size"] + pool["overflow"]))
