# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What prose runbooks get wrong about where a command for Kubernetes ends up. The ids are those of the catalogue."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_objects import deployment
from tests.lab.kubernetes_witness import mark, writes
from tests.support import ROOT, call, play

pytestmark = pytest.mark.kubernetes
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("k8s_*.py"))


def options_of(name: str) -> dict[str, Any]:
    return dict(import_module(f"ansible_collections.sre.runbooks.plugins.modules.{name}").DOOR.spec.options)


#: The guard's limit is what they all have.
CHANGING = [name for name in MODULES if "max_count" in options_of(name)]


def both(first: Cluster, second: Cluster, path: Path) -> str:
    """A kubeconfig as operators have it: two contexts, and the current one is that of yesterday's work."""
    known: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "current-context": "second"}
    known |= {"clusters": [], "users": [], "contexts": []}
    for name, cluster in (("first", first), ("second", second)):
        found = yaml.safe_load(cluster.kubeconfig.read_text())
        known["clusters"].append({**found["clusters"][0], "name": name})
        known["users"].append({**found["users"][0], "name": name})
        known["contexts"].append({"name": name, "context": {"cluster": name, "user": name}})
    path.write_text(json.dumps(known))
    return str(path)


def test_q3_a_change_that_is_meant_for_another_cluster(cluster: Cluster, own_cluster: Cluster, tmp_path: Path) -> None:
    """The seeds type kubectl without context and namespace: it goes wherever one was last."""
    space = "shop"
    for lab in (cluster, own_cluster):
        lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
        lab.apply(deployment("web", replicas=0), namespace=space)
    kubeconfig = both(cluster, own_cluster, tmp_path / "config")
    since = {lab.uid: mark(lab) for lab in (cluster, own_cluster)}
    wanted = {"namespace": space, "name": "web", "env": {"A": "1"}, "wait": False, "kubeconfig": kubeconfig}

    refused = call("k8s_workload", **wanted, expect_cluster=cluster.uid)
    assert (refused["error"]["kind"], refused["error"]["code"]) == ("precondition", "wrong_target")
    assert own_cluster.uid in refused["msg"], "it is said which cluster was met"
    assert [writes(lab, since[lab.uid], namespace=space) for lab in (cluster, own_cluster)] == [[], []]

    done = call("k8s_workload", **wanted, expect_cluster=cluster.uid, context="first")
    assert done["changed"], done
    assert done["plan"]["target"]["identity"] == cluster.uid
    assert len(writes(cluster, since[cluster.uid], namespace=space)) == 1
    assert writes(own_cluster, since[own_cluster.uid], namespace=space) == []
    cluster.delete_namespace(space)


@pytest.mark.parametrize("name", CHANGING)
def test_q3_no_change_without_a_namespace(name: str) -> None:
    """What changes something has no namespace of its own accord, not even that of the context."""
    options = options_of(name)
    assert "expect_cluster" in options
    assert options["namespace"].get("required") is True
    with pytest.raises(ValueError, match="namespace"):
        call(name)


def test_q8_variables_of_pods_are_not_those_of_the_operator(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seeds write `kubectl exec pod -- redis-cli -u $REDIS_URL`: the operator's own shell fills that in, with
    another server's address, and shows it. Here no shell is on the way, and nothing is run in a pod."""
    monkeypatch.setenv("REDIS_URL", "redis://:canary-of-the-operator@production:6379")
    cluster.apply(deployment("web", replicas=0, env={"REDIS_URL": "redis://of-the-pod"}), namespace=namespace)
    literal = "$REDIS_URL ${REDIS_URL} $(REDIS_URL) `echo $REDIS_URL`"
    since = mark(cluster)
    task = {
        "name": "Set",
        "sre.runbooks.k8s_workload": {
            **cluster.connection(),
            "namespace": namespace,
            "name": "web",
            "env": {"TARGET": literal},
            "wait": False,
        },
    }
    result = play([task])
    assert result.rc == 0, result.stdout
    container = cluster.get("deployment", "web", namespace)["spec"]["template"]["spec"]["containers"][0]
    # Kubernetes itself fills in $(REDIS_URL), in the pod, with the pod's own.
    assert {one["name"]: one["value"] for one in container["env"]}["TARGET"] == literal
    assert "canary-of-the-operator" not in result.stdout + result.stderr + json.dumps(result.tasks)
    assert {write.resource for write in writes(cluster, since, reviews=False)} == {"deployments"}


def test_q8_nothing_is_run_in_pods_or_in_a_shell() -> None:
    """A way into pods would need `pods/exec`; clients that an image lacks are not asked for."""
    files = [*(ROOT / "plugins").rglob("*.py"), *(ROOT / "playbooks").rglob("*.yml")]
    wrong = ("pods/exec", '"exec"', "kubectl exec", "k8s_exec", "ansible.builtin.shell", "ansible.builtin.command")
    found = {(path.name, word) for path in files for word in wrong if word in path.read_text()}
    assert found == set()
