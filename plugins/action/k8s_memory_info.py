# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Takes the module of this name through the controller's worker."""

from __future__ import annotations

from ansible_collections.sre.runbooks.plugins.plugin_utils._inprocess import in_process

ActionModule = in_process("k8s_memory_info")
