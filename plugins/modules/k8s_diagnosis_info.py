#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s_diagnosis_info
short_description: See why pods do not run, the root cause first
version_added: 1.0.0
description:
  - One pass over pods, workloads, Jobs and autoscalers of some namespaces, a selection, or one workload; then, only
    where something is not well, over events, nodes, quotas, claims and logs.
  - Pods of one workload with one fault are one finding with a stable id. What follows from something else (a rollout
    that is stuck because its image is missing) is told after it, and names it.
  - Reads only. Values of variables, ConfigMaps and Secrets are never returned; of a pull secret it is only told whether
    it can be of use. Lines of logs are redacted.
  - What this user may not see is said under C(unseen), and the rest is told all the same.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.k8s
  - sre.runbooks.clear
  - sre.runbooks.attributes
  - sre.runbooks.attributes.info
options:
  namespaces:
    description:
      - Where to look. All of the cluster when none is named, which needs the right to list there.
      - One that is not there is an error, since it would look healthy.
    type: list
    elements: str
    default: []
  selector:
    description: Label selector of the pods, such as V(app=web,tier!=cache).
    type: str
  kind:
    description: Kind of the workload that O(name) names.
    type: str
    choices: [Deployment, StatefulSet, DaemonSet]
    default: Deployment
  name:
    description: Only the pods that this workload owns. O(namespaces) then has to name its namespace.
    type: str
  since:
    description: How far back events and restarts count, such as V(1h). Clusters keep events for about an hour.
    type: str
    default: 1h
  grace:
    description:
      - How long any pod may take to start before it is at fault for not being ready, such as V(90s).
      - A probe that bears longer is given its time.
    type: str
    default: 1m
  logs:
    description:
      - Whose last lines to fetch. V(errors) takes those of the containers at fault, from before they ended.
      - V(all) takes those of all containers of all pods that are looked at too, previous ones first.
    type: str
    choices: [none, errors, all]
    default: errors
  tail:
    description: Lines of a container's log.
    type: int
    default: 20
  max_pods:
    description: Pods to look at, after which C(truncated) says so.
    type: int
    default: 20000
  max_logs:
    description: Containers whose logs are fetched, those at fault first.
    type: int
    default: 10
notes:
  - The moments of the API server are compared with the clock of where this runs.
seealso:
  - module: sre.runbooks.k8s_pod
"""

EXAMPLES = r"""
- name: See what is wrong in a namespace
  sre.runbooks.k8s_diagnosis_info:
    namespaces: [default]
  register: seen

- name: Wait until no container of a selection crashes any more
  sre.runbooks.k8s_diagnosis_info:
    namespaces: [default]
    selector: app=web
    logs: none
    clear_of: [k8s.crash_loop.*, k8s.oom_killed]
    timeout: 120
"""

RETURN = r"""
root_causes:
  description:
    - What is wrong, the root first, each with its workload, how many pods have it, evidence, and what to do next.
    - What only follows from one of them is not among these, but among the findings.
  returned: always
  type: list
  elements: dict
  sample:
    - id: k8s.config_missing
      severity: critical
      namespace: shop
      workload: Deployment shop/web
      container: app
      pods: 3
      sample: [web-6d5f-2xk4z]
      evidence: {kind: ConfigMap, name: web, key: DB_HOST}
      next: "Missing: ConfigMap web DB_HOST. Create it, or correct the reference to it."
findings:
  description: The same as findings, what follows from them, and V(k8s.unseen.*) for what may not be seen.
  returned: always
  type: list
  elements: dict
workloads:
  description: Workloads that are not well, with the pods they want and have, and the ids of their causes.
  returned: always
  type: list
  elements: dict
  sample: [{workload: Deployment shop/web, desired: 3, ready: 0, updated: 3, causes: [k8s.config_missing]}]
summary:
  description: Pods in numbers. C(left) are what evictions left behind, C(starting) those that still have time.
  returned: always
  type: dict
  sample: {pods: 40, by_phase: {Running: 40}, ready: 37, unhealthy: 3, left: 0, starting: 0, workloads: 9}
unseen:
  description: What could not be read, and why.
  returned: always
  type: dict
  sample: {nodes: forbidden}
truncated:
  description: What was cut short, V(pods) by O(max_pods), V(logs) by O(max_logs); empty when all of it was seen.
  returned: always
  type: list
  elements: str
logs:
  description: Last lines of each container, the pods at fault first.
  returned: always, filled with O(logs=all)
  type: list
  elements: dict
  sample: [{namespace: shop, pod: web-1, container: app, previous: true, lines: [panic]}]
"""

import time

from ..module_utils._core.clear import CLEAR_OPTIONS, clear
from ..module_utils._core.plan import Finding, Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._k8s.client import Kube
from ..module_utils._k8s.diagnosis import diagnose
from ..module_utils._k8s.product import K8S
from ..module_utils._k8s.survey import Asked

SPEC = Spec(
    {
        "namespaces": {"type": "list", "elements": "str", "default": []},
        "selector": {"type": "str"},
        "kind": {"type": "str", "choices": ["Deployment", "StatefulSet", "DaemonSet"], "default": "Deployment"},
        "name": {"type": "str"},
        "since": {"type": "str", "default": "1h"},
        "grace": {"type": "str", "default": "1m"},
        "logs": {"type": "str", "choices": ["none", "errors", "all"], "default": "errors"},
        "tail": {"type": "int", "default": 20},
        "max_pods": {"type": "int", "default": 20000},
        "max_logs": {"type": "int", "default": 10},
    },
    mutually_exclusive=(("selector", "name"),),
)


def plan(kube: Kube, wanted: Params) -> Plan:
    """A plan without steps: what is wrong, and what that means."""
    asked = Asked.of(wanted)
    found = diagnose(kube, asked, time.time())

    def again() -> tuple[Finding, ...]:
        return diagnose(kube, Asked.of({**wanted, "logs": "none"}), time.time()).findings()

    return Plan(
        target=kube.target,
        findings=found.findings(),
        facts=found.facts(),
        verify=clear(wanted, again, blind=("k8s.unseen.pods",)),
    )


DOOR = K8S.door(SPEC | CLEAR_OPTIONS, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
