# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong among 5,000 pods: time, memory, and whether the cause is named. And a restart, with its wait."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from tests.bench.bundle import kubernetes_core
from tests.bench.measure import Contender, Failed, Stage, with_bundle
from tests.bench.sick_cluster import FAULTS, LOOK_ALIKES, NAMESPACES, expected, populate, wards
from tests.bench.stats import Reading, Results, Target, mebibytes, ratio, seconds, summarize, table, verdicts
from tests.lab.kubernetes_build import unavailable
from tests.lab.kubernetes_cluster import Cluster, start_cluster
from tests.lab.kubernetes_objects import deployment
from tests.lab.world import lab

OURS = "`k8s_diagnosis_info`"
CORE = "`kubernetes.core.k8s_info`, five kinds, and filters"
KUBECTL = "`kubectl get -o json`, five kinds, and filters"
RESTARTS = ("`k8s_rollout`, state `restarted`", "`kubernetes.core.k8s`, patched, `wait`", "`kubectl rollout`")

_WHO = "telling"


def missing() -> str:
    """Why nothing can be measured here; empty when all is there."""
    return unavailable() or ""


def circumstances() -> list[str]:
    """What a reader needs to know of the contenders."""
    return [
        f"Kubernetes Python client {version('kubernetes')}",
        f"kubernetes.core {kubernetes_core() or 'missing'}",
        "API server and etcd of the lab on loopback, on the same cores",
    ]


def measure(stage: Stage) -> dict[str, list[Reading]]:
    """Readings by contender; those under C(telling ...) say how many workloads of a fault got which cause."""
    with lab() as world:
        sick = world.start(start_cluster)
        everything = wards(5 if stage.quick else 1)
        stage.say(f"writing {len(everything)} workloads")
        populate(sick, everything)
        told: dict[str, dict[str, str]] = {}
        results = stage.in_turns(_tellers(stage, sick, told))
        truth = dict(expected(everything))
        for name, causes in told.items():
            results[f"{_WHO} {name}"] = [_confusion(truth, causes, everything)]
        restarted = world.start(start_cluster)
        results |= stage.in_turns(_restarts(stage, restarted))
    return results


def _tellers(stage: Stage, cluster: Cluster, told: dict[str, dict[str, str]]) -> list[Contender]:
    namespaces = [f"team-{number}" for number in range(NAMESPACES)]
    given = json.dumps({**cluster.connection(), "namespaces": namespaces, "max_pods": 10_000, "logs": "none"})
    calls = [sys.executable, "-m", "tests.bench.kubernetes_calls"]
    kubectl = str(cluster.built.program("kubectl"))
    commands = {
        OURS: [sys.executable, "-m", "tests.bench.ours", "k8s_diagnosis_info", given],
        KUBECTL: [*calls, "kubectl", str(cluster.kubeconfig), kubectl],
    }
    if kubernetes_core():
        commands[CORE] = [*calls, "core", str(cluster.kubeconfig)]

    def run(name: str) -> Reading:
        reading, said = stage.metered(commands[name], with_bundle(stage))
        told[name] = _ranked_first(json.loads(said)) if name == OURS else json.loads(said)
        return reading

    return [Contender(name, lambda name=name: run(name)) for name in commands]  # type: ignore[misc]


def _ranked_first(result: Mapping[str, Any]) -> dict[str, str]:
    """The first of the ranked causes of each workload."""
    first: dict[str, str] = {}
    for cause in result["root_causes"]:
        name = str(cause["workload"]).rpartition("/")[2]
        first.setdefault(f"{cause['namespace']}/{name}", cause["id"])
    return first


def _confusion(truth: Mapping[str, str], causes: Mapping[str, str], everything: Sequence[Any]) -> Reading:
    """C(fault -> cause): how many. Names of both in one key, since a reading holds numbers."""
    faults = {f"{ward.namespace}/{ward.name}": ward.fault.name for ward in everything}
    pairs = Counter((faults[name], causes.get(name, "")) for name in truth)
    return {f"{fault} -> {cause}": count for (fault, cause), count in pairs.items()}


def _restarts(stage: Stage, cluster: Cluster) -> list[Contender]:
    """A Deployment of ten pods, each ready in a moment; done when all are new."""
    namespace = cluster.new_namespace("bench")
    cluster.apply(deployment("web", replicas=10), namespace=namespace)
    cluster.wait(lambda: _available(cluster, namespace) == 10, 60, "ten pods")
    kubectl = [str(cluster.built.program("kubectl")), "--kubeconfig", str(cluster.kubeconfig), "-n", namespace]
    given = {**cluster.connection(), "namespace": namespace, "name": "web", "state": "restarted", "timeout": 120}

    def ours() -> Reading:
        command = [sys.executable, "-m", "tests.bench.ours", "k8s_rollout", json.dumps({**given, "since": "0s"})]
        return stage.metered(command)[0]

    def core() -> Reading:
        command = [sys.executable, "-m", "tests.bench.kubernetes_calls", "restart", str(cluster.kubeconfig), namespace]
        return stage.metered(command, with_bundle(stage))[0]

    def tool() -> Reading:
        quoted = " ".join(kubectl)
        line = f"{quoted} rollout restart deployment/web && {quoted} rollout status deployment/web"
        return stage.metered(["sh", "-c", line])[0]

    runs: list[Callable[[], Reading]] = [ours, core, tool]
    found = [Contender(name, _proven(cluster, namespace, run)) for name, run in zip(RESTARTS, runs, strict=True)]
    return found if kubernetes_core() else [found[0], found[2]]


def _proven(cluster: Cluster, namespace: str, run: Callable[[], Reading]) -> Callable[[], Reading]:
    """The run, and Failed unless ten pods are new and serve when it says that it is done."""

    def proven() -> Reading:
        before = {pod["metadata"]["uid"] for pod in cluster.objects("Pod", namespace)}
        reading = run()
        pods = [pod for pod in cluster.objects("Pod", namespace) if not pod["metadata"].get("deletionTimestamp")]
        new = {pod["metadata"]["uid"] for pod in pods} - before
        if len(new) != 10 or _available(cluster, namespace) != 10:
            raise Failed(f"{len(new)} of 10 pods are new, {_available(cluster, namespace)} serve")
        return reading

    return proven


def _available(cluster: Cluster, namespace: str) -> int:
    return int((cluster.get("Deployment", "web", namespace).get("status") or {}).get("availableReplicas", 0))


def tell(results: Results) -> str:
    """The tables of this benchmark."""
    told = {name: summarize(results[name]) for name in (OURS, KUBECTL, CORE) if name in results}
    costs = [
        [name, *(one[of].shown(seconds) for of in ("wall", "cpu")), one["peak"].shown(mebibytes)]
        for name, one in told.items()
    ]
    named = [[name, *_named(results[f"{_WHO} {name}"][0], exact=name == OURS)] for name in told]
    restarts = [
        [name, *(summarize(results[name])[of].shown(seconds) for of in ("wall", "cpu"))]
        for name in RESTARTS
        if name in results
    ]
    faults = len(FAULTS)
    return "\n\n".join(
        (
            table(["500 workloads of ten pods", "wall, s", "CPU of client, s", "peak memory, MiB"], costs),
            table(["who tells", f"seen as sick, of {faults}", f"told apart, of {faults}", "false alarms"], named),
            "How each fault was named by `k8s_diagnosis_info`, in workloads:",
            table(["fault", "expected", "named"], _matrix(results[f"{_WHO} {OURS}"][0])),
            table(["restart of ten pods, until all are new", "wall, s", "CPU of client, s"], restarts),
            verdicts(targets(results)),
        )
    )


def _causes(confusion: Reading, fault: str) -> dict[str, int]:
    pairs = ((key.partition(" -> "), count) for key, count in confusion.items())
    return {cause: int(count) for (name, _arrow, cause), count in pairs if name == fault}


def _named(confusion: Reading, *, exact: bool) -> list[str]:
    """A filter's reason tells a fault apart where it stands for no other; ours has to be the very cause."""
    reasons = {fault.name: _causes(confusion, fault.name) for fault in (*FAULTS, *LOOK_ALIKES)}
    seen = sum("" not in reasons[fault.name] for fault in FAULTS)
    if exact:
        apart = sum(set(reasons[fault.name]) == {fault.cause} for fault in FAULTS)
    else:
        apart = sum(_only(fault.name, reasons) for fault in FAULTS)
    wrong = [*(fault.name for fault in LOOK_ALIKES), "healthy"]
    alarms = sum(count for name in wrong for cause, count in _causes(confusion, name).items() if cause)
    return [str(seen), str(apart), str(alarms)]


def _only(name: str, reasons: Mapping[str, Mapping[str, int]]) -> bool:
    mine = set(reasons[name])
    others = {reason for other, found in reasons.items() if other != name for reason in found}
    return mine != {""} and not mine & others


def _matrix(confusion: Reading) -> list[list[str]]:
    rows = []
    for fault in (*FAULTS, *LOOK_ALIKES):
        found = _causes(confusion, fault.name)
        words = ", ".join(f"{_cause(cause)} ({count})" for cause, count in sorted(found.items()))
        rows.append([fault.name, _cause(fault.cause), words])
    return rows


def _cause(cause: str) -> str:
    return f"`{cause}`" if cause else "well"


def targets(results: Results) -> list[Target]:
    confusion = results[f"{_WHO} {OURS}"][0]
    right = sum(_causes(confusion, fault.name).get(fault.cause, 0) for fault in FAULTS)
    every = sum(count for fault in FAULTS for count in _causes(confusion, fault.name).values())
    mine, tool = summarize(results[OURS]), summarize(results[KUBECTL])
    faster = ratio(tool["wall"], mine["wall"])
    found = [
        Target("the cause is ranked first in at least 95 %", f"{right} of {every}", right >= 0.95 * every),
        Target("at least 2x faster than `kubectl get -o json`", f"{faster:.1f}x", faster >= 2),
    ]
    words = ("at least 3x faster than `kubernetes.core`", "in at most 0.4x its memory")
    if CORE not in results:
        return [*found, *(Target(word, "", None) for word in words)]
    core = summarize(results[CORE])
    speed, memory = ratio(core["wall"], mine["wall"]), ratio(mine["peak"], core["peak"])
    shown = (f"{speed:.1f}x", f"{memory:.2f}x")
    return [*found, *(Target(*one) for one in zip(words, shown, (speed >= 3, memory <= 0.4), strict=True))]
