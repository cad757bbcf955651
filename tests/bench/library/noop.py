# SPDX-License-Identifier: GPL-3.0-or-later
"""A module that does nothing: what is left is the cost of having one."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule

AnsibleModule(argument_spec={}, supports_check_mode=True).exit_json(changed=False)
