#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s_memory_info
short_description: See whether pods of a workload leak memory, or all have too little
version_added: 1.0.0
description:
  - Compares what the pods of one workload use, by the metrics API, with their limits and with each other, and with how
    their containers ended.
  - Some pods above the threshold while the others are not is a leak, which a restart relieves. All alike, or out of
    memory right after the start, is a limit that is too low. A node that is short of memory is told with who takes it.
  - What nobody has measured is said, and never taken for well.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.k8s
  - sre.runbooks.workload
  - sre.runbooks.clear
  - sre.runbooks.attributes
  - sre.runbooks.attributes.info
options:
  threshold:
    description: Memory from which a pod is short of it, a share of a container's limit (V(90%)) or a size (V(512mb)).
    type: str
    default: 90%
  since:
    description: How far back the end of a container counts, such as V(1h).
    type: str
    default: 1h
seealso:
  - module: sre.runbooks.k8s_pod
  - module: sre.runbooks.k8s_diagnosis_info
"""

EXAMPLES = r"""
- name: See whether some pods of the shop leak
  sre.runbooks.k8s_memory_info:
    namespace: shop
    name: web
    threshold: 85%
  register: seen
"""

RETURN = r"""
memory:
  description:
    - The C(verdict), one of V(fine), V(leak), V(limit_low), V(neighbour) and V(unseen), and what each of the C(pods)
      uses.
    - C(above) are pods over the threshold, C(out) those that do not serve because they ran out of memory, C(sick) both.
    - C(well) and C(present) say which pods were there, with their restarts. C(incident) is an id for these sick pods.
  returned: always
  type: dict
  sample:
    verdict: leak
    pods: {web-5d8f7c9b6-x2x7k: {memory: 503316480, share: 0.938, container: app}}
    above: [web-5d8f7c9b6-x2x7k]
    out: []
    sick: [web-5d8f7c9b6-x2x7k]
    well: []
    present: [web-5d8f7c9b6-x2x7k@5b1c6b0e-6a0e-4a52-9a0e-0f6a3a1d4f11 restarts=0]
    largest: 0.938
    incident: memory-1f0c6b2a9d
    next: ""
findings:
  description:
    - V(k8s.memory.leak), V(k8s.memory.limit_low), V(k8s.memory.neighbour), and V(k8s.usage.unseen) for pods that nobody
      has measured.
  returned: always
  type: list
  elements: dict
"""

import time

from ..module_utils._core.clear import CLEAR_OPTIONS, clear
from ..module_utils._core.plan import Finding, Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._core.units import parse_seconds
from ..module_utils._k8s.client import Kube
from ..module_utils._k8s.memory import facts_of, findings_of, look_at, neighbours
from ..module_utils._k8s.pod_choice import Memory
from ..module_utils._k8s.product import K8S, WORKLOAD
from ..module_utils._k8s.workload import workload_of

SPEC = WORKLOAD | Spec(
    {
        "threshold": {"type": "str", "default": "90%"},
        "since": {"type": "str", "default": "1h"},
    }
)


def plan(kube: Kube, wanted: Params) -> Plan:
    """A plan without steps: who is short of memory, and why."""
    threshold, back = Memory.parse(wanted["threshold"], "threshold"), parse_seconds(wanted["since"], "since")
    workload = workload_of(kube, wanted["kind"], wanted["namespace"], wanted["name"])
    seen = look_at(kube, workload, threshold, time.time() - back)
    findings = (*findings_of(seen, workload), *neighbours(kube, seen))

    def again() -> tuple[Finding, ...]:
        now = look_at(kube, workload, threshold, time.time() - back)
        return (*findings_of(now, workload), *neighbours(kube, now))

    return Plan(
        target=kube.target,
        findings=findings,
        facts={"memory": facts_of(seen, findings)},
        verify=clear(wanted, again, blind=("k8s.usage.unseen",)),
    )


DOOR = K8S.door(SPEC | CLEAR_OPTIONS, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
