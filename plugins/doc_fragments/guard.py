# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The limits between a plan and its first write."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of P(_core/guard.py); O(max_count) and O(max_fraction) are documented by each module."""

    DOCUMENTATION = r"""
options:
  max_bytes:
    description:
      - Refuse when the plan's subjects hold more than this, such as V(512mb).
    type: str
  protect:
    description:
      - Names never to touch, as glob patterns; added to the built-in ones.
    type: list
    elements: str
    default: []
  confirm:
    description:
      - Must equal the subject's name where the work cannot be taken back and a refusal asks for it.
    type: str
  approved_plan:
    description:
      - The RV(ignore:plan.id) of a check run that somebody has approved.
      - The run is refused when the target, the selection or the subjects are no longer those,
        or when their number has grown.
    type: str
notes:
  - Limits are judged on the server's own numbers before the first write. They refuse and never truncate; V(0) is
    an error, not "unlimited".
"""
