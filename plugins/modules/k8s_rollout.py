#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s_rollout
short_description: The rollout of a Kubernetes workload is complete, rolled back, restarted, paused or resumed
version_added: 1.0.0
description:
  - States how the rollout of a Deployment, StatefulSet or DaemonSet stands, and brings it there by one change of its
    template, which the API server has taken as a dry run first. Then waits, and gives up as soon as the cause is plain.
  - Goes back to a revision by its number, by its images, or to the latest one that was healthy. Numbers are no
    identity, since a template that comes back gets a new one; a number that a template once had finds it, too.
  - Only ReplicaSets and ControllerRevisions that the workload itself owns count, whatever labels others share.
  - Replicas, autoscalers, budgets, ConfigMaps, Secrets and data stay as they are.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.k8s
  - sre.runbooks.workload
  - sre.runbooks.guard
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  state:
    description:
      - V(complete) changes nothing. It waits until all pods have the newest template and are available.
      - V(restarted) restarts all pods, the way C(kubectl rollout restart) does, unless that was done since O(since).
      - V(rolled_back) needs one of O(to_revision), O(to_image) and O(last_healthy).
      - V(paused) and V(resumed) are for Deployments.
    type: str
    choices: [complete, restarted, rolled_back, paused, resumed]
    required: true
  since:
    description:
      - The anchor of V(restarted), a moment (V(2030-01-31T18:00:00Z)) or how long ago (V(10m)).
      - Nothing is restarted where the template was told to restart since then, or where no pod is older.
    type: str
  to_revision:
    description: The revision's number, as in C(kubectl rollout history).
    type: int
  to_image:
    description: Image by container name. The newest revision that has them all is meant.
    type: dict
  last_healthy:
    description:
      - Goes back only if the newest template fails, to the newest older one that has ready pods; where none has any, to
        the newest one that was not itself rolled back from.
      - Nothing is done while the rollout is complete or still going on. It is an error where older templates fail
        alike, where the newest one was complete once, or where the older one would not find room on the nodes either.
    type: bool
    default: false
  change_cause:
    description: Words for the annotation C(kubernetes.io/change-cause) of a rollback.
    type: str
  force_paused:
    description: Change the template of a paused Deployment, too. It stays paused, and is not waited for.
    type: bool
    default: false
  accept_drift:
    description: Change what a GitOps tool or an operator owns, although that will undo it.
    type: bool
    default: false
  accept_outage:
    description:
      - Restart although all pods would be gone at the same time; with C(Recreate), with one replica and no surge, with
        a C(maxUnavailable) that comes to all of them. Not asked where no pod serves anyway.
    type: bool
    default: false
  wait:
    description: Wait until the rollout is complete.
    type: bool
    default: true
  timeout:
    description: Seconds to wait.
    type: float
    default: 300
  fail_fast:
    description:
      - End the wait as soon as a pod of the newest template cannot become ready by itself (image, crash loop,
        configuration), or the deadline of the rollout has passed. What was changed stays, and C(undo) tells how to
        take it back.
    type: bool
    default: true
  max_count:
    description: Refuse when more objects than this would be changed; the workload, and pods that have to be deleted.
    type: int
    default: 10
  max_fraction:
    description: Not used by this module.
    type: float
    default: 1.0
notes:
  - A StatefulSet whose pods start in order stays stuck on a broken pod after its template was taken back. A rollback
    therefore deletes pods that fail, are not ready and have another revision, each by its uid. Pods below the partition
    are left alone.
  - Refused where a ConfigMap, Secret or key that the old template needs is gone.
seealso:
  - module: sre.runbooks.k8s_rollout_info
"""

EXAMPLES = r"""
- name: If the newest template of web fails, the latest healthy one is back
  sre.runbooks.k8s_rollout:
    namespace: shop
    name: web
    state: rolled_back
    last_healthy: true

- name: web runs the template of its first revision again, whoever else would have the last word
  sre.runbooks.k8s_rollout:
    namespace: shop
    name: web
    state: rolled_back
    to_revision: 1
    accept_drift: true

- name: All pods of web were restarted within the last ten minutes
  sre.runbooks.k8s_rollout:
    namespace: shop
    name: web
    state: restarted
    since: 10m

- name: The rollout of web is complete
  sre.runbooks.k8s_rollout:
    namespace: shop
    name: web
    state: complete
    timeout: 60
"""

RETURN = r"""
rollout:
  description:
    - Pods C(desired), how many are C(updated), C(ready), C(available) and how many are C(old).
    - Whether it is C(complete), why it has C(failed), what it is C(waiting) for.
  returned: always
  type: dict
  sample:
    desired: 3
    updated: 3
    ready: 3
    available: 3
    old: 0
    complete: true
    failed: ""
    waiting: ""
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
    - V(k8s.rollout.failing) with the pod that shows the cause, where a wait was given up.
    - V(k8s.rollout.stuck), V(k8s.rollout.in_progress), V(k8s.rollout.paused), V(k8s.rollout.all_fail),
      V(k8s.rollout.regressed), V(k8s.rollout.no_room) and V(k8s.rollout.no_older), of which there is at most one.
    - V(k8s.rollback.config_changed), V(k8s.rollback.config_unseen) and V(k8s.rollback.last_applied) say what a rollback
      does not bring back; V(k8s.rollout.partition) and V(k8s.rollout.on_delete), which pods do not follow.
    - V(k8s.rollback.unproved) where no pod of the old template is there to show that it still works.
    - V(k8s.owned.argocd) and others say who owns the workload.
  returned: always
  type: list
  elements: dict
"""

from ..module_utils._core.guard import guard_options
from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._k8s.client import Kube
from ..module_utils._k8s.product import K8S, WORKLOAD
from ..module_utils._k8s.rollouts import Scene, afterwards, wait_for, work_of

SWITCHES = ("last_healthy", "force_paused", "accept_drift", "accept_outage")

SPEC = (
    WORKLOAD
    | Spec(
        {
            "state": {
                "type": "str",
                "choices": ["complete", "restarted", "rolled_back", "paused", "resumed"],
                "required": True,
            },
            "since": {"type": "str"},
            "to_revision": {"type": "int"},
            "to_image": {"type": "dict"},
            **{name: {"type": "bool", "default": False} for name in SWITCHES},
            "change_cause": {"type": "str"},
            "wait": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 300},
            "fail_fast": {"type": "bool", "default": True},
        },
        required_if=(("state", "restarted", ("since",)),),
    )
    | guard_options(max_count=10)
)

#: What does not change the plan itself.
APART = ("wait", "timeout", "fail_fast", "change_cause", "confirm", "approved_plan")


def plan(kube: Kube, wanted: Params) -> Plan:
    """A step where the rollout does not stand as wanted, and the wait for its end."""
    scene = Scene.of(kube, wanted)
    work = work_of(scene)
    return Plan(
        target=kube.target,
        selector={name: wanted[name] for name in SPEC.options if name not in APART},
        verify=wait_for(scene, work),
        facts=scene.watch.facts,
        aftermath=afterwards(scene),
        **work.told(),
    )


DOOR = K8S.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
