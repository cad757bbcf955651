# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How to wait until findings are gone."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of every diagnosis that can wait."""

    DOCUMENTATION = r"""
options:
  clear_of:
    description:
      - Findings that must be absent O(consecutive) times in a row; otherwise the module fails.
      - A name ending in V(.*) stands for all below it.
    type: list
    elements: str
    default: []
  consecutive:
    description: How many times in a row O(clear_of) must hold.
    type: int
    default: 3
  interval:
    description: Seconds between two looks for O(clear_of).
    type: float
    default: 0.5
  timeout:
    description: Seconds after which O(clear_of) has failed.
    type: float
    default: 30
  strict:
    description: Fail when O(clear_of) does not hold in time; with V(false) C(verify) only says so.
    type: bool
    default: true
"""
