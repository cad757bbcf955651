# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""k8s_evidence on a real API server: all that there is, nothing that is secret, whole or not at all."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._k8s.bundle import Place, gathering
from tests.lab import kubernetes_faults as faults
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_objects import configmap, deployment, init_container, secret
from tests.lab.kubernetes_witness import fingerprint, mark, writes
from tests.support import call, play

pytestmark = pytest.mark.kubernetes


def keep(cluster: Cluster, namespace: str, dest: Path, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    wanted = {"namespace": namespace, "dest": str(dest), "incident": "inc-1", **options}
    return call("k8s_evidence", check_mode=check_mode, **cluster.connection(), **wanted)


def content(dest: Path, name: str, incident: str = "inc-1") -> Any:
    return json.loads((dest / incident / name).read_text())


@pytest.fixture
def crashing(cluster: Cluster, namespace: str) -> str:
    """Two pods that crash, one of another workload that is well, a Secret, a ConfigMap and an init container."""
    env = {"FAULT": "crash", "DB_PASSWORD": "hunter2-env", "PLAIN": "shown"}
    faults.settle(cluster, namespace, deployment("other", replicas=1))
    cluster.apply(secret("keys", password="hunter2-secret"), configmap("web", mode="hunter2-map"), namespace=namespace)
    cluster.apply(deployment("web", env=env, initContainers=[init_container()]), namespace=namespace)

    def crashed() -> bool:
        found = [pod["status"].get("containerStatuses") or [{}] for pod in faults.pods(cluster, namespace, "web")]
        return len(found) == 2 and all(one[0].get("restartCount", 0) > 1 for one in found)

    cluster.wait(crashed, 20, "two pods that crash")
    for number, one in enumerate(faults.pods(cluster, namespace, "web")):
        said = [f"2030-01-01T10:00:0{number}Z ERROR cannot reach 10.0.0.{number}:5432 password=hunter2-log"] * 3
        faults.write_logs(cluster, one, [f"starting {number}"], previous=said)
        faults.event(cluster, one, "BackOff", "Back-off restarting failed container app")
    return namespace


def test_keeps_all_pods_all_containers_and_what_was_before(cluster: Cluster, crashing: str, tmp_path: Path) -> None:
    before, since = fingerprint(cluster, crashing), mark(cluster)
    result = keep(cluster, crashing, tmp_path, name="web")
    assert (result.get("msg"), result["changed"], result["verify"]["ok"]) == (None, True, True)
    assert [write for write in writes(cluster, since) if write.done] == []
    assert fingerprint(cluster, crashing) == before
    folder = Path(result["evidence"]["path"])
    names = [one["metadata"]["name"] for one in faults.pods(cluster, crashing, "web")]
    for name in names:
        for file in ("app.log", "app.previous.log", "prepare.log"):
            assert (folder / "logs" / name / file).is_file() or file in str(result["evidence"]["said"]), file
        assert "cannot reach 10.0.0." in (folder / "logs" / name / "app.previous.log").read_text()
    assert sorted(result["evidence"]["pods"]) == sorted(names)
    assert not list(folder.glob("logs/other*"))
    assert {one["reason"] for one in content(tmp_path, "events.json")} >= {"BackOff"}
    kinds = {path.parent.name for path in folder.glob("manifests/*/*.json")}
    assert kinds >= {"pods", "deployments", "replicasets", "configmaps", "nodes"}
    top = result["evidence"]["histogram"]["top"][0]
    assert (top["message"], top["count"], top["containers"]) == (
        "<time> ERROR cannot reach <address> password=***",
        6,
        2,
    )


def test_keeps_no_secret_and_no_stranger_reads_it(cluster: Cluster, crashing: str, tmp_path: Path) -> None:
    dest = tmp_path / "new" / "evidence"
    result = keep(cluster, crashing, dest)
    files = [path for path in dest.rglob("*") if path.is_file()]
    assert len(files) == result["evidence"]["files"] + 1
    text = "\n".join(path.read_text() for path in files)
    assert "hunter2" not in text
    assert "hunter2" not in json.dumps(result)
    assert '"value": "shown"' in text
    assert "last-applied-configuration" not in text
    assert "managedFields" not in text
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    folders = [path for path in (dest / "inc-1").rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (dest, dest / "inc-1", *folders)} == {0o700}
    assert [path.name for path in dest.iterdir()] == ["inc-1"]


def test_again_verifies_the_seal_and_gathers_nothing(cluster: Cluster, crashing: str, tmp_path: Path) -> None:
    first = keep(cluster, crashing, tmp_path, name="web")
    again = keep(cluster, crashing, tmp_path, name="web")
    assert (again["changed"], again["evidence"], again["verify"]["ok"]) == (False, first["evidence"], True)
    other = keep(cluster, crashing, tmp_path, name="other")
    assert (other["error"]["code"], other["changed"]) == ("bad_parameter", False)
    log = next((tmp_path / "inc-1" / "logs").rglob("*.log"))
    log.write_text("nothing happened\n")
    damaged = keep(cluster, crashing, tmp_path, name="web")
    assert (damaged["error"]["code"], log.name in damaged["msg"]) == ("bundle_damaged", True)


def test_check_mode_writes_nothing_and_forecasts(cluster: Cluster, crashing: str, tmp_path: Path) -> None:
    dest = tmp_path / "later"
    checked = keep(cluster, crashing, dest, check_mode=True, name="web")
    assert (checked["changed"], dest.exists()) == (True, False)
    done = keep(cluster, crashing, dest, name="web")
    assert (checked["actions"], checked["plan"], checked["diff"]) == (done["actions"], done["plan"], done["diff"])
    assert checked["forecast"]["after"] > 0


def test_what_never_started_is_noted(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    faults.break_image(cluster, namespace, "web")
    result = keep(cluster, namespace, tmp_path, selector="app=web")
    assert result["changed"] is True
    assert result["evidence"]["files"] > 3
    assert result["verify"]["ok"] is True


def test_is_bounded_and_says_what_had_no_room(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    faults.settle(cluster, namespace, deployment("web", replicas=2))
    for one in faults.pods(cluster, namespace, "web"):
        faults.write_logs(cluster, one, [f"line {number} {'x' * 2000}" for number in range(600)])
    result = keep(cluster, namespace, tmp_path, name="web", max_bytes="1mb")
    assert result["changed"] is True
    assert result["evidence"]["bytes"] <= 1 << 20
    assert [found["id"] for found in result["findings"]][:1] == ["k8s.evidence.cut"]
    logs = sorted((tmp_path / "inc-1" / "logs").rglob("*.log"))
    assert all("line 599 " in path.read_text().splitlines()[-1] for path in logs[:1])  # the newest are kept
    few = keep(cluster, namespace, tmp_path, name="web", tail=5, incident="inc-2")
    logs = list((tmp_path / "inc-2" / "logs").rglob("*.log"))
    assert few["evidence"]["histogram"]["lines"] == 10
    assert [len(path.read_text().splitlines()) for path in logs] == [5, 5]


def test_binary_and_endless_lines_are_kept_readable(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    faults.settle(cluster, namespace, deployment("web", replicas=1))
    (one,) = faults.pods(cluster, namespace, "web")
    faults.write_logs(cluster, one, ["y" * 100_000, "ERROR \x07 beep"])
    keep(cluster, namespace, tmp_path, name="web")
    (log,) = (tmp_path / "inc-1" / "logs").rglob("*.log")
    lines = log.read_text().splitlines()
    assert len(lines[0]) < 33_000
    assert "more characters]" in lines[0]
    assert "\\x07 beep" in lines[1]


def test_places_that_cannot_be_written_to(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for check in (True, False):
        refused = keep(cluster, namespace, tmp_path / "file" / "sub", check_mode=check)
        assert (refused["error"]["code"], refused["changed"]) == ("not_writable", False)
    full = keep(cluster, namespace, tmp_path, max_bytes="900tb")
    assert (full["error"]["kind"], full["error"]["code"]) == ("exhausted", "disk_full")
    for incident in ("../x", "", ".hidden", "a/b"):
        assert keep(cluster, namespace, tmp_path, incident=incident)["error"]["code"] == "bad_parameter"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_disk_that_fills_up_leaves_nothing(
    cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible_collections.sre.runbooks.plugins.module_utils._k8s import bundle

    def full(path: Path, _content: bytes) -> None:
        if "logs" in str(path):
            raise OSError(28, "No space left on device")

    faults.settle(cluster, namespace, deployment("web", replicas=1))
    monkeypatch.setattr(bundle, "_write", full)
    failed = keep(cluster, namespace, tmp_path)
    assert (failed["error"]["code"], failed["changed"], list(tmp_path.iterdir())) == ("disk_full", False, [])


def test_missing_rights(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    faults.settle(cluster, namespace, deployment("web", replicas=1))
    pods = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]
    reader = cluster.user(f"reader-{namespace}", pods, namespace)
    wanted = {"namespace": namespace, "dest": str(tmp_path), "incident": "inc-1"}
    refused = call("k8s_evidence", kubeconfig=str(reader), **wanted)
    assert (refused["error"]["code"], "get pods/log" in refused["msg"]) == ("rbac", True)
    logs = [{"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}]
    keeper = cluster.user(f"keeper-{namespace}", pods + logs, namespace)
    done = call("k8s_evidence", kubeconfig=str(keeper), **wanted)
    assert (done.get("msg"), done["changed"]) == (None, True)
    unseen = next(found for found in done["findings"] if found["id"] == "k8s.evidence.unseen")
    assert unseen["evidence"]["events"] == "forbidden"


def test_two_at_once(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    faults.settle(cluster, namespace, deployment("web", replicas=1))
    with gathering(Place(tmp_path, "inc-1"), 1 << 20) as writer:
        writer.add("mine", b"x")
        refused = keep(cluster, namespace, tmp_path)
        assert (refused["error"]["kind"], refused["error"]["code"]) == ("conflict", "busy")
        assert (tmp_path / ".inc-1.partial" / "mine").exists()
    assert keep(cluster, namespace, tmp_path)["changed"] is True


def test_a_killed_run_leaves_nothing_that_looks_whole(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """What it had gathered lies beside, and the next run begins anew."""
    faults.settle(cluster, namespace, deployment("web", replicas=1))
    left = tmp_path / ".inc-1.partial"
    left.mkdir()
    (left / "half").write_text("x")
    (tmp_path / ".inc-1.lock").write_text("")
    assert keep(cluster, namespace, tmp_path)["changed"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["inc-1"]
    assert not (tmp_path / "inc-1" / "half").exists()


def test_is_quick_with_many_pods(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    faults.settle(cluster, namespace, deployment("web", replicas=30))
    started = time.monotonic()
    result = keep(cluster, namespace, tmp_path, name="web")
    assert (len(result["evidence"]["pods"]), time.monotonic() - started < 15) == (30, True)


def test_shipped_and_in_process_alike(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    faults.settle(cluster, namespace, deployment("web", replicas=1))
    options = {"namespace": namespace, "dest": str(tmp_path), "incident": "inc-1", **cluster.connection()}
    task = {"sre.runbooks.k8s_evidence": options, "check_mode": True}
    ran = play([{"name": "here", **task}, {"name": "shipped", "environment": {"X": "y"}, **task}])
    here, shipped = ran.result("here"), ran.result("shipped")
    assert (ran.rc, "invocation" in shipped) == (0, True)
    for name in ("changed", "actions", "diff", "plan", "evidence", "findings", "forecast"):
        assert here[name] == shipped[name], name
