# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every module of the collection supports, with the support values filled in."""

from __future__ import annotations


class ModuleDocFragment:
    """Attributes; C(.info) for modules that only look, C(.stateful) for the others."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying the target.
  diff_mode:
    description: Returns details on what has changed, or would change, when in diff mode.
  idempotent:
    description: Run a second time it changes nothing, as long as nobody else does.
"""

    INFO = r"""
options: {}
attributes:
  check_mode:
    support: full
    details: The module only reads.
  diff_mode:
    support: N/A
    details: The module only reads.
  idempotent:
    support: full
"""

    STATEFUL = r"""
options: {}
attributes:
  check_mode:
    support: full
    details: The same code as a real run, up to the first write.
  diff_mode:
    support: full
  idempotent:
    support: full
"""
