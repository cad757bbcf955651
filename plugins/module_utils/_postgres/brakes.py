# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What makes maintenance wait or stop: the time of day, the time it may take, standbys that lag, and the disk."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from datetime import time as clock_time
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .._core.errors import bad_parameter
from .._core.plan import Progress
from .._core.units import human
from .client import Session
from .errors import translate

_DAY = timedelta(days=1)
#: Seconds by which the server's timer may be ahead of ours.
_SLACK = 0.05

_LAG = """
SELECT coalesce(nullif(application_name, ''), pid::text) AS name,
       pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::int8 AS bytes
  FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup' ORDER BY 2 DESC NULLS LAST
"""
# The folder counts only where the client is on the server's own machine.
_FOLDER = """
SELECT current_setting('data_directory') AS data,
       (SELECT pg_tablespace_location(reltablespace) FROM pg_class
         WHERE oid = %(oid)s AND reltablespace <> 0) AS tablespace,
       inet_server_addr() IS NULL OR inet_server_addr() = inet_client_addr() AS local
"""


class Stop(Exception):
    """The run ends here, and the next one goes on."""


@dataclass(frozen=True, slots=True)
class Window:
    """A time of day from C(start) to C(end), which may lie on the next day."""

    start: clock_time
    end: clock_time
    zone: tzinfo
    words: str

    @classmethod
    def parse(cls, text: str | None) -> Window | None:
        """C(22:00-05:00) with a time zone after it, UTC without one; None for an empty text."""
        if not text or not text.strip():
            return None
        match = re.fullmatch(r"\s*(\d\d:\d\d)\s*-\s*(\d\d:\d\d)(?:\s+(\S+))?\s*", text)
        hint = 'Write it as "22:00-05:00 Europe/Berlin".'
        if match is None:
            raise bad_parameter("window", f"{text!r} is not a time of day", hint)
        try:
            start, end = clock_time.fromisoformat(match[1]), clock_time.fromisoformat(match[2])
            zone = ZoneInfo(match[3] or "UTC")
        except (ValueError, ZoneInfoNotFoundError) as error:
            raise bad_parameter("window", str(error), hint) from None
        if start == end:
            raise bad_parameter("window", "it begins when it ends", hint)
        return cls(start, end, zone, text.strip())

    def seconds_left(self, now: datetime) -> float:
        """Seconds until it closes; 0 while it is closed."""
        here = now.astimezone(self.zone)
        for day in (here - _DAY, here):
            begin = datetime.combine(day.date(), self.start, self.zone)
            last = day.date() if self.end > self.start else (day + _DAY).date()
            until = datetime.combine(last, self.end, self.zone)
            if begin <= here < until:
                return until.timestamp() - here.timestamp()
        return 0.0


@dataclass(slots=True)
class Brakes:
    """Judges before each object whether to go on. Times are in seconds, C(lag_max) in bytes."""

    session: Session
    max_duration: float
    lag_max: int
    window_left: float | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    started: float = field(default=0.0)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def seconds_left(self) -> float:
        """How long work may still go on."""
        passed = self.clock() - self.started
        left = self.max_duration if self.window_left is None else min(self.max_duration, self.window_left)
        return left - passed

    def check(self) -> None:
        """Raises Stop when time is up."""
        if self.seconds_left() > _SLACK:
            return
        closed = self.window_left is not None and self.window_left <= self.max_duration
        raise Stop("the window has closed" if closed else "max_duration has passed")

    def wait(self, progress: Progress) -> None:
        """Waits while a standby lags too much; raises Stop when time is up."""
        self.check()
        while lagging := self._lagging():
            progress(f"waits for {lagging}")
            if self.seconds_left() <= 1:
                raise Stop(f"it waited for {lagging}")
            self.sleep(1.0)

    def _lagging(self) -> str:
        worst = next((row for row in self.session.rows(_LAG) if row["bytes"] is not None), None)
        if worst is None or worst["bytes"] <= self.lag_max:
            return ""
        return f"standby {worst['name']}, {human(worst['bytes'])} behind"


def lag_hidden(session: Session) -> bool:
    """Whether there are standbys whose lag this user may not see."""
    return any(row["bytes"] is None for row in session.rows(_LAG))


def free_bytes(session: Session, oid: int = 0) -> int | None:
    """Free space where the object lives; None where the server is elsewhere, or its folder is not to be read."""
    try:
        (row,) = session.rows(_FOLDER, {"oid": oid})
    except Exception as error:  # data_directory is for superusers and pg_read_all_settings
        if translate(error) is None:
            raise
        return None
    folder = Path(row["tablespace"] or row["data"])
    if row["local"]:
        with suppress(OSError):
            found = os.statvfs(folder)
            return found.f_bavail * found.f_frsize
    return None
