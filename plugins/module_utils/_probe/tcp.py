# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a port takes connections. That is all it proves: a process that hangs takes them too."""

from __future__ import annotations

from .._core.errors import OpsError
from .client import Net
from .model import Place, Seen
from .web import unanswered


def look(net: Net, place: Place) -> Seen:
    """One connection, opened and closed."""
    try:
        trace = net.touch(place)
    except OpsError as error:
        return unanswered(error, place.netloc)
    return Seen((), {"answer": {"address": trace.address, "ms": dict(trace.ms)}})
