# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A limit of our own for questions to a server that may never answer: its statement_timeout needs its help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

from .client import Session


@contextmanager
def bounded(session: Session, seconds: float) -> Iterator[None]:
    """Hangs up after C(seconds); whoever waits for an answer then gets the error of a broken connection."""
    timer = Timer(seconds, session.hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
