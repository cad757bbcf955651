#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s_pod
short_description: No pod of a kind is left in a namespace
version_added: 1.0.0
description:
  - States that no pod of the selection meets the conditions (older than, in a phase, with a reason, restarted so often,
    using so much memory), and makes those that do go, one by one.
  - By default through the eviction API, so that no PodDisruptionBudget is broken. Pods that serve nobody go first. The
    next pod goes only when the one before it is replaced by one that is ready and that its Services reach.
  - Static pods, pods of DaemonSets, finished pods and pods at work of Jobs are left alone, and so is a pod that nothing
    would make again.
  - A pod is ended only as it was when it was last looked at. One that has recovered meanwhile stays.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.k8s
  - sre.runbooks.guard
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  namespace:
    description: Namespace of the pods.
    type: str
    required: true
  selector:
    description: Label selector of the pods, such as V(app=web,tier!=canary).
    type: str
  kind:
    description: Kind of the workload O(name). With V(DaemonSet) that one's pods may go.
    type: str
    choices: [Deployment, StatefulSet, DaemonSet]
    default: Deployment
  name:
    description: Only pods that this workload controls; labels may be shared, an owner is not.
    type: str
  names:
    description: Only pods of these names.
    type: list
    elements: str
  min_age:
    description:
      - Only pods that are older than this, such as V(1h).
      - One of O(min_age), O(older_than), O(phase), O(reason), O(min_restarts) and O(min_memory) has to be given.
    type: str
  older_than:
    description:
      - Only pods from before this moment, such as V(2030-01-31T18:00:00Z).
      - A restart that was interrupted goes on with it, and one that is complete is not done again.
    type: str
  phase:
    description:
      - Only pods in one of these phases. With V(Failed) and V(Succeeded) alone a whole namespace may be meant.
      - V(Pending) and V(Running) need another condition beside them, which a pod that was just made does not meet.
    type: list
    elements: str
    choices: [Failed, Succeeded, Pending, Running]
  reason:
    description:
      - Only pods that bear one of these reasons, themselves or in what one of their containers waits for or ended with
        last, such as V(Evicted), V(NodeLost), V(CrashLoopBackOff), V(OOMKilled).
    type: list
    elements: str
  min_restarts:
    description: Only pods whose containers have restarted this often, all together.
    type: int
  min_memory:
    description:
      - Only pods that use this much memory by the metrics API, such as V(512mb), or of which a container uses this
        share of its limit, such as V(90%).
      - A pod that nobody has measured yet is left alone, and a finding says so.
    type: str
  order:
    description:
      - Who goes first among pods that are alike in serving or not. V(worst) is by restarts.
      - Pods of a StatefulSet go from the highest number down, as it does itself.
    type: str
    choices: [oldest, worst, most_memory]
    default: oldest
  via:
    description:
      - V(evict) respects disruption budgets. V(delete) does not, hence it asks for O(confirm) unless all pods that are
        meant have ended for good.
    type: str
    choices: [evict, delete]
    default: evict
  grace:
    description: Seconds that a pod gets to end; its own by default.
    type: int
  bare:
    description: Let pods go that nothing controls, hence nothing makes again; asks for O(confirm).
    type: bool
    default: false
  allow_outage:
    description: Let a pod go that serves while no other of its controller does.
    type: bool
    default: false
  wait:
    description:
      - Let the next pod go only when the replacement is ready, has been so for C(minReadySeconds), and is among the
        ready endpoints of the Services that select it.
    type: bool
    default: true
  wait_timeout:
    description: How long to wait for one replacement. Then the run ends, and no other pod is touched.
    type: str
    default: 5m
  budget_timeout:
    description: How long to wait for disruption budgets to let one pod go.
    type: str
    default: 5m
  confirm:
    description: Must equal O(name), else O(namespace), where a refusal asks for it.
    type: str
  max_count:
    description: Refuse when more pods than this would go.
    type: int
    default: 10
  max_fraction:
    description: Refuse when more than this share of the pods looked at would go.
    type: float
    default: 1.0
  max_bytes:
    description: Refuse when the pods that would go use more memory than this, as far as it was measured.
    type: str
notes:
  - O(min_age) goes by the clock of where this runs; O(older_than) compares with what the API server wrote.
seealso:
  - module: sre.runbooks.k8s_evidence
"""

EXAMPLES = r"""
- name: No pod of the shop is older than the moment at which its certificate was renewed
  sre.runbooks.k8s_pod:
    namespace: shop
    name: web
    older_than: "2026-01-31T18:00:00Z"

- name: No pod uses more than nine tenths of its memory
  sre.runbooks.k8s_pod:
    namespace: shop
    name: web
    min_memory: 90%
    order: most_memory

- name: What the kubelets evicted is cleared away
  sre.runbooks.k8s_pod:
    namespace: shop
    phase: [Failed]
    reason: [Evicted]
    via: delete
    max_count: 500
"""

RETURN = r"""
pods:
  description:
    - How many pods were C(looked_at), which of them are C(due), and, after the run, which were C(removed), with the
      seconds until each was replaced.
  returned: always
  type: dict
  sample:
    looked_at: 3
    due:
      - name: web-5d8f7c9b6-x2x7k
        uid: 5b1c6b0e-6a0e-4a52-9a0e-0f6a3a1d4f11
        owner: ReplicaSet/web-5d8f7c9b6
        node: node-1
        ready: true
        usage: {memory: 503316480, share: 0.938, container: app}
        why: phase Running, OOMKilled, 4 restarts, 480.0 MiB (94% of the limit)
    removed: []
spared:
  description: Pods that meet the conditions and were left alone, each with the reason.
  returned: always
  type: list
  elements: dict
  sample: [{subject: Pod/shop/agent-x@5b1c6b0e, reason: of DaemonSet agent; name that one to mean it, count: 1}]
findings:
  description:
    - V(k8s.pod.budget) names a disruption budget that has to be waited for, V(k8s.pod.outage) a pod that nobody stands
      in for, V(k8s.usage.unseen) pods whose memory could not be judged.
  returned: always
  type: list
  elements: dict
measured:
  description: Pods that meet the conditions, before and after, against what was forecast.
  returned: when something was done
  type: dict
"""

from ..module_utils._core.guard import guard_options
from ..module_utils._core.plan import Forecast, Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._k8s.client import Kube, demand
from ..module_utils._k8s.disruptions import rehearse
from ..module_utils._k8s.evictions import Removal, Way, facts_of, lonely
from ..module_utils._k8s.pod_choice import Choice, confirmation, look
from ..module_utils._k8s.product import K8S

PHASES = ["Failed", "Succeeded", "Pending", "Running"]
ASIDE = ("confirm", "approved_plan", "wait", "wait_timeout", "budget_timeout")

SPEC = Spec(
    {
        "namespace": {"type": "str", "required": True},
        "kind": {"type": "str", "choices": ["Deployment", "StatefulSet", "DaemonSet"], "default": "Deployment"},
        **{name: {"type": "str"} for name in ("selector", "name", "min_age", "older_than", "min_memory")},
        **{name: {"type": "list", "elements": "str"} for name in ("names", "reason")},
        "phase": {"type": "list", "elements": "str", "choices": PHASES},
        **{name: {"type": "int"} for name in ("min_restarts", "grace")},
        "order": {"type": "str", "choices": ["oldest", "worst", "most_memory"], "default": "oldest"},
        "via": {"type": "str", "choices": ["evict", "delete"], "default": "evict"},
        **{name: {"type": "bool", "default": False} for name in ("bare", "allow_outage")},
        "wait": {"type": "bool", "default": True},
        **{name: {"type": "str", "default": "5m"} for name in ("wait_timeout", "budget_timeout")},
    },
    mutually_exclusive=(("selector", "name"), ("min_age", "older_than")),
) | guard_options(max_count=10)


def plan(kube: Kube, wanted: Params) -> Plan:
    """A step for each pod that meets the conditions and may go."""
    choice, way = Choice.of(wanted), Way.of(wanted)
    crowd = look(kube, choice, wanted)
    due, spared = choice.sort(crowd.pods)
    work = Removal(kube, choice, way)
    if due:
        demand(kube, *work.rights())
    # The guard refuses more than max_count; nobody has to ask about those.
    asked = due[: wanted["max_count"]]
    held = rehearse(kube, asked, lambda one: way.send(kube, one, dry_run=True))
    facts = {"looked_at": len(crowd.pods), "due": [facts_of(one) for one in due[:50]], "removed": []}
    return Plan(
        target=kube.target,
        selector={name: wanted[name] for name in SPEC.options if name not in ASIDE},
        before={"pods": [one.pod.name for one in due]},
        after={"pods": []},
        steps=work.steps(due),
        spared=spared,
        findings=(*crowd.findings, *lonely(kube, asked, allow=wanted["allow_outage"]), *held),
        forecast=Forecast("pods", "pods", len(due), 0, lambda: len(choice.sort(look(kube, choice, wanted).pods)[0])),
        verify=work.gone_for_good(due) if due else None,
        facts={"pods": facts},
        exact=False,
        population=len(crowd.pods),
        confirm=confirmation(due, wanted),
        aftermath=work.aftermath(facts),
    )


DOOR = K8S.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
