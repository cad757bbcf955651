# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What to do about each cause: one sentence for somebody who is on call, with the evidence in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from .causes import Cause

_ADVICE: Mapping[str, str] = {
    "k8s.image_pull.not_found": "No {image} in its registry. Run deployment_rollback, or push the tag that is meant.",
    "k8s.image_pull.auth": "{registry} refuses the pull of {image}. Mend the pull secret of the pod or ServiceAccount.",
    "k8s.image_pull.tls": "The nodes do not trust {registry}. Mend its certificate, or the nodes' authorities.",
    "k8s.image_pull.rate_limit": "{registry} limits pulls. It passes by itself; an account or a mirror avoids it.",
    "k8s.image_pull.network": "The nodes cannot reach {registry}. Look at DNS, egress and proxy of the node.",
    "k8s.image_pull.platform": "{image} is not built for the node's architecture. Build it, or select other nodes.",
    "k8s.image_pull.throttled": "The kubelet limits its own pulls. Wait; it passes by itself.",
    "k8s.image_pull.invalid_name": "{image} is not a name of an image. Run deployment_rollback, or correct it.",
    "k8s.image_pull.never": "imagePullPolicy is Never and the node lacks {image}. Load it there, or change the policy.",
    "k8s.image_pull.unknown": "The image does not come. Read message, and the runtime's log on the node.",
    "k8s.crash_loop.error": "It ends with exit code {exit_code}. Read log; run deployment_rollback if it is new.",
    "k8s.crash_loop.command": "Its command cannot be run. Correct command or image, or run deployment_rollback.",
    "k8s.crash_loop.segfault": "It crashes ({signal}). Roll back, and look at native libraries and architecture.",
    "k8s.crash_loop.liveness": "The liveness probe kills it ({how}). See whether it hangs, or the probe is too strict.",
    "k8s.crash_loop.completed": "It ends well, though it should stay. Give it a command that stays, or make it a Job.",
    "k8s.crash_loop.unknown": "It ends, and nothing says why. Read message, log, and the kubelet's log on the node.",
    "k8s.oom_killed": "It needs more than its limit ({limit}). Run workload_resources, or memory_pressure if it leaks.",
    "k8s.node.oom": "The node {node} ran out of memory. Set limits for what it runs, or move some of it.",
    "k8s.config_missing": "Missing: {kind} {name} {key}. Create it, or correct the reference to it.",
    "k8s.init_failed": "An init container ends with exit code {exit_code}. Read log: what it prepares is broken.",
    "k8s.probe.readiness": "It runs, but its readiness probe fails ({how}). Look at its log and what it depends on.",
    "k8s.probe.liveness": "Its liveness probe fails ({how}), and it will be killed. See why it does not answer.",
    "k8s.probe.startup": "It is not up within its startup probe ({how}). Look at its log, or give it more time.",
    "k8s.unschedulable.resources": "No node has room. Lower its requests to what fits, add a node, or free some.",
    "k8s.unschedulable.taint": "Nodes are tainted or cordoned. Uncordon them, or give the pod a toleration.",
    "k8s.unschedulable.affinity": "No node has the labels it asks for. Correct selector or affinity, or label a node.",
    "k8s.unschedulable.volume": "Its volume is where no fitting node is. Look at the zone of the volume and the nodes.",
    "k8s.unschedulable.host_port": "Its host port is taken on all nodes. Use a Service, or fewer pods than nodes.",
    "k8s.unschedulable.unknown": "It is not placed. See whether a scheduler of its name runs, and read message.",
    "k8s.quota": "ResourceQuota {quota} has no room. Lower what it asks for, free some, or have the quota raised.",
    "k8s.limit_range": "A LimitRange forbids its resources. Bring requests and limits within it.",
    "k8s.admission_denied": "{by} refuses the pods. Read message; its owner or the manifest has to change.",
    "k8s.pod_security": "The Pod Security level of the namespace forbids the pods. Mend their security context.",
    "k8s.create_failed": "The API server refuses the pods. Read message.",
    "k8s.volume.pending": "Its claim has no volume. Look at storage class and provisioner.",
    "k8s.volume.mount": "Volume {volume} cannot be mounted: {kind} {name} {key}. Mend that, and it mounts by itself.",
    "k8s.volume.missing_claim": "There is no claim {claim}. Create it, or correct the name.",
    "k8s.sandbox": "The pod's network cannot be set up. Look at the CNI plug-in on node {node}.",
    "k8s.node.not_ready": "Node {node} does not serve. Bring it back, or drain it; its pods follow.",
    "k8s.node.pressure": "Node {node} is short of room. Free some; until then pods are evicted.",
    "k8s.evicted": "A node put it out. What is left may go; see its requests and the node.",
    "k8s.preempted": "A pod of higher priority took its place. Add room, or correct the priorities.",
    "k8s.terminating_stuck": "It should be gone. Look at its finalizers and its node before it is forced.",
    "k8s.scheduling_gated": "A scheduling gate holds it. Whoever set the gate has to lift it.",
    "k8s.job_backoff": "The Job has given up. Mend the cause, then start it anew.",
    "k8s.rollout.stuck": "The rollout passed its deadline. Run deployment_rollback.",
    "k8s.rollout.paused": "The rollout is paused half-way. Resume it, or roll back.",
    "k8s.hpa.no_metrics": "The autoscaler has no metrics. See whether the metrics server runs and pods have requests.",
    "k8s.hpa.at_max": "The autoscaler is at its end. Raise maxReplicas {max} if quota and nodes allow.",
    "k8s.hpa.inactive": "The autoscaler does not work: {reason}.",
    "k8s.readiness_gate": "A readiness gate is not met. Look at the controller that has to set it.",
    "k8s.pod_not_ready": "It is not ready, and its containers are. Look at its node.",
    "k8s.creating_slow": "It starts for {seconds} s: an init container, or a large image. See log and events.",
}


def advice(cause: Cause) -> str:
    """The sentence for a cause; what the evidence does not know is left out of it."""
    known: dict[str, str] = defaultdict(str, {name: str(value) for name, value in cause.evidence.items()})
    return " ".join(_ADVICE.get(cause.id, "").format_map(known).split()).replace(" .", ".").replace(":.", ".")
