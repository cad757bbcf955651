#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: parameters
short_description: Check a runbook's parameters against its specification
version_added: 1.0.0
description:
  - Reads C(<runbook>.meta.yml), which stands beside the playbook, checks the variables in scope against it and
    returns them with the defaults filled in.
  - An extra variable that the runbook does not know is an error, with the nearest name that it does know. A typo in
    a parameter file would otherwise silently leave a limit at its default.
  - Works alike on every supported ansible-core. The play keyword C(validate_argspec) needs 2.20 and fills in no
    defaults.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.attributes
  - sre.runbooks.attributes.info
options:
  runbook:
    description: Name of the runbook. Without it the play's variable C(runbook) counts.
    type: str
notes:
  - Runs in the controller; there is nothing to install on targets.
"""

EXAMPLES = r"""
- name: Check the parameters
  sre.runbooks.parameters:
    runbook: redis_memory_full
  register: given
"""

RETURN = r"""
parameters:
  description:
    - Every parameter of the runbook, with its value or default. One that has neither is left out, for C(default(omit)).
  returned: success
  type: dict
run_id:
  description: The id of this run, as in the journal; AWX's job id when there is one.
  returned: success
  type: str
"""
