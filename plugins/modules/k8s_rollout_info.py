#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s_rollout_info
short_description: See how the rollout of a Kubernetes workload stands, and whether a rollback would mend it
version_added: 1.0.0
description:
  - Reads the rollout of a Deployment, StatefulSet or DaemonSet, its history and the pods of each revision.
  - Tells a newest template that fails from pods of every template that fail alike, from a template that was complete
    once, and from a lack of room. Only the first of these is mended by a rollback.
  - Reads only. O(clear_of) waits until findings are gone.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.k8s
  - sre.runbooks.workload
  - sre.runbooks.clear
  - sre.runbooks.attributes
  - sre.runbooks.attributes.info
options:
  since:
    description:
      - A moment (V(2030-01-31T18:00:00Z)) or how long ago (V(10m)).
      - Where pods are older and the workload was not told to restart since, V(k8s.rollout.restart_due) is found.
    type: str
seealso:
  - module: sre.runbooks.k8s_rollout
"""

EXAMPLES = r"""
- name: Look at the rollout of web
  sre.runbooks.k8s_rollout_info:
    namespace: shop
    name: web
  register: seen

- name: Wait until it is decided, for two minutes at most
  sre.runbooks.k8s_rollout_info:
    namespace: shop
    name: web
    clear_of: [k8s.rollout.in_progress]
    consecutive: 1
    timeout: 120
    strict: false
"""

RETURN = r"""
rollout:
  description:
    - The C(state), one of V(complete), V(in_progress), V(stuck), V(paused), V(all_fail), V(regressed), V(no_room) and
      V(no_older). Only V(stuck) is mended by a rollback, and C(target) is then the revision to go back to.
    - The numbers of pods, why it has C(failed), what it is C(waiting) for.
    - Whether the newest template was ever rolled out to its end (C(proven)). Its pods may be unwell all the same.
    - Whether a restart can help (C(restartable)); not where the newest template never became complete, or where its
      pods wait for an image, for configuration, or for room.
  returned: always
  type: dict
  sample:
    desired: 3
    updated: 1
    ready: 3
    available: 3
    old: 3
    complete: false
    failed: ""
    waiting: 1 of 3 pods have the newest template
    state: stuck
    target: 3
    restartable: false
    proven: false
    suggest: Roll back.
revisions:
  description: What is left of the history, the newest first, with the pods of each.
  returned: always
  type: list
  elements: dict
  sample:
    - revision: 4
      name: web-6d4cf56db6
      images: {web: "registry.example.com/web:1.4"}
      current: true
      pods: 3
      ready: 3
      created: "2030-01-31T18:00:00+00:00"
      change_cause: ""
      troubles: []
findings:
  description:
    - V(k8s.rollout.stuck) and so on for each state but V(complete), and V(k8s.rollout.restart_due).
    - V(k8s.owned.argocd) and so on where somebody else has the last word on the workload.
  returned: always
  type: list
  elements: dict
"""

from typing import Any

from ..module_utils._core.clear import CLEAR_OPTIONS, clear
from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._k8s.client import Kube
from ..module_utils._k8s.product import K8S, WORKLOAD
from ..module_utils._k8s.verdict import judged

SPEC = WORKLOAD | CLEAR_OPTIONS | Spec({"since": {"type": "str"}})


def plan(kube: Kube, wanted: Params) -> Plan:
    """A plan without steps: how the rollout stands. Once something was waited for, as it stood last."""
    facts: dict[str, Any] = {}
    return Plan(
        target=kube.target,
        findings=judged(kube, wanted, facts).findings,
        facts=facts,
        verify=clear(wanted, lambda: judged(kube, wanted, facts).findings),
    )


DOOR = K8S.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
