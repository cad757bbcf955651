# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Workloads with a history, as the API server would have them, for tests of rollouts without a server."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.sre.runbooks.plugins.module_utils._core.run import execute
from ansible_collections.sre.runbooks.plugins.modules import k8s_rollout
from tests.fakes.kubernetes import FakeApi, container, door_of, kube_of

Json = dict[str, Any]
LABELS = {"app": "web"}
GOOD, BAD, OLD = "registry.example/web:1.4", "registry.example/web:1.5-missing", "registry.example/web:1.3"
TIMES = "2026-11-20T10:00:00Z"


def template(image: str = GOOD, hash: str = "", **fields: Any) -> Json:
    labels = {**LABELS, **({"pod-template-hash": hash} if hash else {})}
    return {"metadata": {"labels": labels}, "spec": {"containers": [container("web", image)], **fields}}


def owner(of: Json) -> Json:
    meta = of["metadata"]
    return {"kind": of["kind"], "name": meta["name"], "uid": meta["uid"], "controller": True, "apiVersion": "apps/v1"}


def deployment(api: FakeApi, image: str = BAD, *, complete: bool = False, replicas: int = 2, **spec: Any) -> Json:
    """A Deployment in the middle of a rollout; two old pods serve, one new one does not start."""
    updated = replicas if complete else 1
    return api.add(
        {
            "kind": "Deployment",
            "metadata": {
                "name": "web",
                "uid": "uid-web",
                "resourceVersion": "100",
                "generation": 3,
                "annotations": {"deployment.kubernetes.io/revision": "3", "team": "shop"},
            },
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": dict(LABELS)},
                "template": template(image),
                "revisionHistoryLimit": 10,
                **spec,
            },
            "status": {
                "observedGeneration": 3,
                "replicas": replicas if complete else replicas + 1,
                "updatedReplicas": updated,
                "readyReplicas": replicas,
                "availableReplicas": replicas,
                "conditions": [
                    {
                        "type": "Progressing",
                        "status": "True",
                        "reason": "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated",
                    }
                ],
            },
        }
    )


def replica_set(api: FakeApi, of: Json, number: int, image: str, history: str = "", **fields: Any) -> Json:
    name = f"{of['metadata']['name']}-{number}"
    notes = {"deployment.kubernetes.io/revision": str(number)}
    if history:
        notes["deployment.kubernetes.io/revision-history"] = history
    return api.add(
        {
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "uid": f"uid-{name}",
                "labels": {**LABELS, "pod-template-hash": f"h{number}"},
                "annotations": notes,
                "ownerReferences": [owner(of)],
                "creationTimestamp": TIMES,
            },
            "spec": {"template": template(image, f"h{number}", **fields)},
        }
    )


def pod(api: FakeApi, of: Json, name: str, waiting: str = "", born: str = TIMES, **labels: str) -> Json:
    """A pod that is ready, or waits for C(waiting)."""
    state = {"waiting": {"reason": waiting, "message": "as the kubelet says"}} if waiting else {"running": {}}
    return api.add(
        {
            "kind": "Pod",
            "metadata": {
                "name": name,
                "uid": f"uid-{name}",
                "labels": {**LABELS, **labels},
                "ownerReferences": [owner(of)],
                "creationTimestamp": born,
            },
            "spec": {"containers": [container("web")]},
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "False" if waiting else "True"}],
                "containerStatuses": [{"name": "web", "state": state, "restartCount": 0}],
            },
        }
    )


def stuck(api: FakeApi, waiting: str = "ImagePullBackOff", **spec: Any) -> Json:
    """Revision 3 does not start, revision 2 serves, revision 1 has no pods."""
    made = deployment(api, **spec)
    replica_set(api, made, 1, OLD)
    serving = replica_set(api, made, 2, GOOD)
    newest = replica_set(api, made, 3, BAD)
    pod(api, serving, "web-2-a")
    pod(api, serving, "web-2-b")
    pod(api, newest, "web-3-a", waiting)
    return made


def ask(api: FakeApi, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    """The module's result; it does not wait unless it is told to."""
    door = door_of(k8s_rollout.DOOR, kube_of(api))
    wanted = {"namespace": "shop", "name": "web", "wait": False, **options}
    checked = ArgumentSpecValidator(door.spec.arguments(), **door.spec.rules()).validate(wanted)
    if checked.error_messages:
        raise ValueError("; ".join(checked.error_messages))
    return execute(door, checked.validated_parameters, check_mode=check_mode)
