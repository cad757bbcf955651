#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: api_remedy_info
short_description: See which one remedy fits a service that is down
version_added: 1.1.0
description:
  - Joins what M(sre.runbooks.probe), M(sre.runbooks.k8s_diagnosis_info), M(sre.runbooks.k8s_rollout_info) and the
    diagnoses of dependencies have found, and chooses one remedy, or none with the reason and what to do instead.
  - Never more than one. A rollback and a restart at once would prove nothing and hide the cause.
  - Asks nobody and changes nothing, so the choice is the same whenever the findings are.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.attributes
  - sre.runbooks.attributes.info
options:
  service:
    description: Name of the service, for the record.
    type: str
    required: true
  symptoms:
    description: C(findings) of M(sre.runbooks.probe).
    type: list
    elements: dict
    required: true
  causes:
    description: C(findings) of M(sre.runbooks.k8s_diagnosis_info) about the workload behind the service.
    type: list
    elements: dict
    default: []
  rollout:
    description: C(rollout) of M(sre.runbooks.k8s_rollout_info) about that workload.
    type: dict
    default: {}
  dependencies:
    description:
      - Findings by the name of the dependency, V(redis) of M(sre.runbooks.redis_reach_info) and V(postgres) of
        M(sre.runbooks.postgres_reach_info).
    type: dict
    default: {}
  allowed:
    description: Remedies that are declared for this service.
    type: list
    elements: str
    choices: [rollback, restart, scale]
    default: [rollback, restart, scale]
  min_replicas:
    description: Pods that the service needs at least.
    type: int
  max_replicas:
    description: Pods that it may have at most. Without it more pods are no remedy.
    type: int
seealso:
  - module: sre.runbooks.probe
  - module: sre.runbooks.k8s_rollout
  - module: sre.runbooks.k8s_replicas
"""

EXAMPLES = r"""
- name: Ask the service
  sre.runbooks.probe:
    url: http://127.0.0.1:8080/health
  register: seen

- name: What would mend it?
  sre.runbooks.api_remedy_info:
    service: shop/web
    symptoms: "{{ seen.findings }}"
    rollout: {state: complete, desired: 3, updated: 3, ready: 3, old: 0, restartable: true}
    allowed: [rollback, restart]
  register: judged
"""

RETURN = r"""
remedy:
  description:
    - The C(choice), one of V(rollback), V(restart), V(scale) and V(none), and whether it is C(mendable), that is, not
      V(none). C(because) are the ids of the findings that speak for it.
    - The C(reason); with V(none) one of V(healthy), V(dependency), V(outside), V(paused), V(all_fail), V(regressed),
      V(no_room), V(no_older), V(too_few), V(before_the_pods), V(undeclared) and V(unknown). Then C(next) is what to do
      instead, and C(runbook) names the one that does it, if there is one.
    - With V(scale), the C(replicas) to have.
  returned: always
  type: dict
  sample:
    choice: rollback
    mendable: true
    reason: the newest revision fails, revision 3 was healthy
    because: [k8s.rollout.stuck, k8s.crash_loop.error]
    next: ""
    runbook: ""
    replicas: 0
"""

from ..module_utils._core.plan import Plan, Target
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._probe.product import JUDGEMENT
from ..module_utils._probe.remedy import Evidence, choose

REMEDIES = ["rollback", "restart", "scale"]

SPEC = Spec(
    {
        "service": {"type": "str", "required": True},
        "symptoms": {"type": "list", "elements": "dict", "required": True},
        "causes": {"type": "list", "elements": "dict", "default": []},
        "rollout": {"type": "dict", "default": {}},
        "dependencies": {"type": "dict", "default": {}},
        "allowed": {"type": "list", "elements": "str", "choices": REMEDIES, "default": REMEDIES},
        "min_replicas": {"type": "int"},
        "max_replicas": {"type": "int"},
    }
)


def plan(_nowhere: None, wanted: Params) -> Plan:
    """A plan without steps: the choice, and why."""
    name = wanted["service"]
    return Plan(target=Target("service", name, name), facts={"remedy": choose(Evidence.of(wanted)).as_dict()})


DOOR = JUDGEMENT.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
