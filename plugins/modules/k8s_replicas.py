#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s_replicas
short_description: A workload has so many pods, or none for a while
version_added: 1.2.0
description:
  - States how many pods a Deployment or StatefulSet has, by the means of whoever decides about that number. Under a
    HorizontalPodAutoscaler its bounds are moved; KEDA is paused; where there is neither, C(spec.replicas) is written.
  - Before the first write, quotas, limit ranges, the free room on nodes, and a declared budget of connections are held
    against the pods to come. The change itself is tried as a dry run.
  - What was there before is kept in an annotation of the same object, C(sre.runbooks/quiesced) or
    C(sre.runbooks/raised), by the same write, and put back exactly by O(quiesced=false) and O(restored=true).
  - Where fewer pods of a StatefulSet mean that their claims are deleted (C(whenScaled)), that has to be confirmed.
  - A raise does not expire by itself. A later run with O(restored=true) ends it.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.k8s
  - sre.runbooks.guard
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  kind:
    description: Kind of the workload.
    type: str
    choices: [Deployment, StatefulSet]
    default: Deployment
  name:
    description: Name of the workload.
    type: str
    required: true
  namespace:
    description: Its namespace.
    type: str
    required: true
  replicas:
    description:
      - Exactly so many pods, from 1. May take pods away, see O(max_fraction).
      - Under a HorizontalPodAutoscaler both bounds are set to it, which needs O(change_max=true).
    type: int
  min_replicas:
    description:
      - At least so many pods, from 1. Never takes pods away.
      - Under a HorizontalPodAutoscaler its C(minReplicas) is raised, and C(maxReplicas) with O(change_max=true) only.
      - Under KEDA it is frozen at this number, or at the present one where that is higher.
    type: int
  quiesced:
    description:
      - V(true) stops all pods and keeps their number. A HorizontalPodAutoscaler rests meanwhile by itself; KEDA is
        paused. Done twice in a row, the first number counts.
      - V(false) brings exactly those back. Nothing happens where nothing was quiesced, or where there are pods again.
    type: bool
  restored:
    description:
      - V(true) takes a temporary raise back. Replicas, bounds and pauses become what they were, whatever their number.
      - Refused as a C(conflict) where somebody else has changed the number since.
    type: bool
  temporary:
    description:
      - Whether what was there is kept for O(restored). By default it is with O(min_replicas), and not with O(replicas),
        which then also forgets what was kept. A pause of KEDA is always kept.
    type: bool
  mode:
    description:
      - V(auto) takes what fits. V(scale) writes C(spec.replicas) although there is a HorizontalPodAutoscaler, but only
        within its bounds. V(hpa_bounds) and V(keda_pause) refuse where there is nothing of that sort.
    type: str
    choices: [auto, scale, hpa_bounds, keda_pause]
    default: auto
  change_max:
    description: Whether C(maxReplicas) of a HorizontalPodAutoscaler may be changed, too.
    type: bool
    default: false
  max_replicas:
    description: Refuse to bring a workload above so many pods.
    type: int
    default: 50
  require_room:
    description:
      - Refuse when the nodes of now have no room for all pods to come, by requests against allocatable. Set it to
        V(false) where nodes are added on demand. Quotas and limit ranges count in any case.
    type: bool
    default: true
  connections_per_replica:
    description:
      - Connections that one pod may open to the server it shares with others, its pool with the overflow.
      - More pods are refused when (pods + C(maxSurge)) x this + O(connections_reserved) + O(connections_other) is more
        than O(connections_limit).
    type: int
  connections_limit:
    description: Connections that the server allows.
    type: int
  connections_reserved:
    description: Those of them that it keeps for superusers and the like.
    type: int
    default: 0
  connections_other:
    description: Those that others use.
    type: int
    default: 0
  accept_drift:
    description: Go on although a GitOps tool has written this very number and will do so again.
    type: bool
    default: false
  wait:
    description: Wait until the pods are ready, or gone.
    type: bool
    default: true
  timeout:
    description: Seconds to wait at most.
    type: float
    default: 120.0
  protect:
    description: Workloads never to scale, as glob patterns of C(name) or C(namespace/name).
  max_count:
    description: Refuse when more pods than this would be added or taken away. Taking back counts as one.
    type: int
    default: 50
  max_fraction:
    description: Refuse when O(replicas) would take more than this share of the pods away.
    type: float
    default: 0.5
seealso:
  - module: sre.runbooks.k8s_rollout
"""

EXAMPLES = r"""
- name: Web has at least six pods until the rush is over, and the database bears them
  sre.runbooks.k8s_replicas:
    namespace: shop
    name: web
    min_replicas: 6
    connections_per_replica: 10
    connections_limit: 200
    connections_reserved: 3
    connections_other: 60

- name: The rush is over
  sre.runbooks.k8s_replicas:
    namespace: shop
    name: web
    restored: true

- name: No worker runs during the migration
  sre.runbooks.k8s_replicas:
    namespace: shop
    name: worker
    quiesced: true

- name: As many workers run as before
  sre.runbooks.k8s_replicas:
    namespace: shop
    name: worker
    quiesced: false
"""

RETURN = r"""
scale:
  description:
    - C(owner) of the number (V(hpa), V(keda) or V(none)) and its C(autoscaler), C(replicas) wanted and C(ready) now,
      the C(goal), the autoscaler's C(min_replicas) and C(max_replicas), whether it is C(quiesced), and the C(surge)
      of a rollout.
    - For more pods, the C(room) there is, how many C(fit) on how many C(nodes); C(exact) is false where affinity,
      volumes and the like have a say. With a budget, C(connections) with what is needed and how many pods would fit.
  returned: always
  type: dict
  sample:
    owner: hpa
    autoscaler: HorizontalPodAutoscaler shop/web
    replicas: 6
    ready: 6
    goal: 6
    min_replicas: 6
    max_replicas: 10
    quiesced: false
    surge: 2
    room: {fit: 34, nodes: 3, exact: true}
    connections: {per_replica: 10, limit: 200, reserved: 3, other: 60, surge: 2, need: 143, most_replicas: 11}
measured:
  description: Ready pods before and after, against what was forecast.
  returned: when something was done
  type: dict
findings:
  description:
    - V(k8s.hpa.no_metrics) and V(k8s.hpa.at_max) of the autoscaler; V(k8s.replicas.quiesced) and
      V(k8s.replicas.raised) with what was kept and not yet put back; V(k8s.replicas.applied) where the next
      server-side apply undoes it; V(k8s.owned.*) with the tool that manages the workload.
    - V(k8s.capacity.*) of what is short when something is put back, and V(k8s.capacity.unseen) and
      V(k8s.replicas.keda_unseen) for what this user may not read.
  returned: always
  type: list
  elements: dict
"""

from ..module_utils._core.guard import guard_options
from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._k8s import budget, replicas
from ..module_utils._k8s.client import Kube
from ..module_utils._k8s.product import K8S
from ..module_utils._k8s.scaling import aftermath_of, facts_of, findings_of, forecast_of, prepare, verify_of

_OPTIONS = Spec(
    {
        "kind": {"type": "str", "choices": ["Deployment", "StatefulSet"], "default": "Deployment"},
        **{name: {"type": "str", "required": True} for name in ("name", "namespace")},
        "max_replicas": {"type": "int", "default": 50},
        "accept_drift": {"type": "bool", "default": False},
        **{name: {"type": "bool", "default": True} for name in ("require_room", "wait")},
        "timeout": {"type": "float", "default": 120.0},
    }
)
SPEC = _OPTIONS | replicas.OPTIONS | budget.OPTIONS | guard_options(max_count=50, max_fraction=0.5)

#: What says how carefully something is done, not what.
_MANNER = ("wait", "timeout", "confirm", "approved_plan")


def plan(kube: Kube, wanted: Params) -> Plan:
    """The edits that bring the workload to the number that is wanted, once nothing speaks against them."""
    work = prepare(kube, wanted)
    return Plan(
        target=kube.target,
        selector={name: wanted[name] for name in SPEC.options if name not in _MANNER},
        before=work.before,
        after=work.after,
        steps=work.steps,
        findings=findings_of(work),
        forecast=forecast_of(kube, work),
        verify=verify_of(kube, work),
        facts={"scale": facts_of(work)},
        exact=work.exact,
        confirm=work.confirm,
        aftermath=lambda: aftermath_of(kube, work),
    )


DOOR = K8S.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
