# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the proofs of rollbacks and restarts share: a workload called C(web), and its bystanders."""

from __future__ import annotations

from typing import Any

from tests.lab import kubernetes_objects as objects
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_witness import fingerprint
from tests.runbooks.harness import Runbook, aimed_at_kubernetes
from tests.support import call

OLD, GOOD, BAD = "registry.example/app:1", "registry.example/app:2", "registry.example/app:3-missing"
#: One pod goes before another comes, so that a rollout takes as long as its pods.
ONE_GOES = {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}
#: What a run may touch.
OURS = ("deployment/web", "replicaset/web-*", "pod/web-*", "statefulset/web", "controllerrevision/web-*")


def runbook(name: str, cluster: Cluster, namespace: str, **declared: Any) -> Runbook:
    more = {"k8s_namespace": namespace, "k8s_workload": "web", "k8s_timeout": 60, **declared}
    return aimed_at_kubernetes(name, cluster, **more)


def state(cluster: Cluster, namespace: str, kind: str = "Deployment") -> str:
    """How the rollout stands once it no longer goes on."""
    which = {"kind": kind, "namespace": namespace, "name": "web", **cluster.connection()}
    waited = {"clear_of": ["k8s.rollout.in_progress"], "consecutive": 1, "timeout": 30, "strict": False}
    call("k8s_rollout_info", **which, **waited)
    return str(call("k8s_rollout_info", **which)["rollout"]["state"])


def history(cluster: Cluster, namespace: str, *images: str, **options: Any) -> str:
    """Rolls out one image after the other; how the last one ended."""
    ended = ""
    for image in images:
        cluster.apply(objects.deployment("web", image=image, **options), namespace=namespace)
        ended = state(cluster, namespace)
    return ended


def add_bystanders(cluster: Cluster, namespace: str) -> None:
    """Another Deployment whose pods have all labels of ours, an autoscaler, a budget, config."""
    other = objects.deployment("other", image=OLD)
    labels = {"app": "web", "part": "other"}
    other["spec"]["selector"] = {"matchLabels": labels}
    other["spec"]["template"]["metadata"]["labels"] = labels
    documents = (other, objects.hpa("web"), objects.pdb("web", minAvailable=1), objects.configmap("web", mode="a"))
    cluster.apply(*documents, namespace=namespace)
    cluster.wait(lambda: _available(cluster, namespace, "other") == 2, 20, "the bystanders")


def _available(cluster: Cluster, namespace: str, name: str) -> int:
    return int(cluster.get("deployment", name, namespace)["status"].get("availableReplicas", 0))


def bystanders(cluster: Cluster, namespace: str) -> dict[str, Any]:
    return fingerprint(cluster, namespace, OURS)


def template(cluster: Cluster, namespace: str, kind: str = "deployment") -> dict[str, Any]:
    return dict(cluster.get(kind, "web", namespace)["spec"]["template"])


def image(cluster: Cluster, namespace: str, kind: str = "deployment") -> str:
    return str(template(cluster, namespace, kind)["spec"]["containers"][0]["image"])


def restarted_at(cluster: Cluster, namespace: str) -> str:
    notes = template(cluster, namespace)["metadata"].get("annotations") or {}
    return str(notes.get("kubectl.kubernetes.io/restartedAt", ""))


def uids(cluster: Cluster, namespace: str) -> set[str]:
    return {one["metadata"]["uid"] for one in cluster.objects("pod", namespace, "app=web,part!=other")}


def break_pods(cluster: Cluster, namespace: str, reason: str = "CrashLoopBackOff") -> None:
    """The pods of a rollout that was complete fail, all alike, as when a dependency is gone."""
    for pod in cluster.objects("pod", namespace, "app=web,part!=other"):
        status = pod["status"]["containerStatuses"][0]
        # So many restarts that the lab's rules leave the pod as it is.
        status |= {"ready": False, "restartCount": 9, "state": {"waiting": {"reason": reason, "message": "back-off"}}}
        down = [{"type": name, "status": "False"} for name in ("Ready", "ContainersReady")]
        body = {"status": {"containerStatuses": [status], "conditions": down}}
        cluster.patch("pod", pod["metadata"]["name"], namespace, body, subresource="status")
    cluster.wait(lambda: _available(cluster, namespace, "web") == 0, 10, "no pod that serves")
