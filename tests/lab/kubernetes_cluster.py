# SPDX-License-Identifier: GPL-3.0-or-later
"""A Kubernetes of our own on loopback ports: real API server, controllers and scheduler; KWOK plays the nodes.

The first start makes a template of etcd in the user's cache folder; every later one copies it.
"""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.lab import kubernetes_members as members
from tests.lab import kubernetes_template as template
from tests.lab.kubernetes_api import Api, ApiError
from tests.lab.kubernetes_build import Binaries, binaries, exclusive
from tests.lab.kubernetes_pki import Authority, write_kubeconfig
from tests.lab.process import HOST, LabError, ProcessId, free_port, spawn, wait_until

_STARTS = 3
_START_SECONDS = 60.0
_MARKED_SECONDS = 0.2
_LOG_CHARACTERS = 3000


@dataclass
class Member:
    """One process of a cluster, in a folder of its own below the cluster's."""

    name: str
    command: Sequence[str]
    folder: Path
    detached: bool
    identity: ProcessId = field(default_factory=lambda: ProcessId(0, ""))
    _child: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "output.log"

    def start(self) -> Self:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        # HOME: some read settings there. No proxy and no KUBECONFIG of whoever runs the tests.
        env = {"PATH": os.defpath, "HOME": str(self.folder)}
        self._child = spawn(self.command, self.folder, self.detached, env=env)
        self.identity = ProcessId.of(self._child.pid)
        return self

    def alive(self) -> bool:
        return self.identity.alive()

    def end(self, first: signal.Signals = signal.SIGKILL, grace: float = 15) -> None:
        self.identity.end(grace, first)
        if self._child is not None:
            self._child.wait(timeout=10)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-_LOG_CHARACTERS:] if self.log.exists() else ""


class Cluster:
    """One cluster; `start_cluster` makes it. `uid` is that of kube-system, which tells it from every other."""

    host = HOST

    def __init__(self, scratch: Path, built: Binaries, detached: bool = False) -> None:
        self.scratch = scratch
        self.built = built
        self.detached = detached
        self.uid = ""
        self.members: dict[str, Member] = {}
        self.ports = members.Ports(*(free_port() for _each in members.Ports.__dataclass_fields__))
        self.authority = Authority(scratch / "pki")
        self.files = members.write_files(scratch, self.authority, self.url)
        self.kubeconfig = self.files.kubeconfig(template.RUNBOOKS)
        self.admin_kubeconfig = self.files.kubeconfig("lab")

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.ports.api}"

    @property
    def ca(self) -> Path:
        return self.authority.ca

    @property
    def audit_log(self) -> Path:
        return self.scratch / "audit.log"

    @property
    def server_log(self) -> str:
        """The end of what the API server said."""
        return self._apiserver.tail()

    @functools.cached_property
    def api(self) -> Api:
        """The lab's own connections, as user `lab`."""
        return Api(self.admin_kubeconfig)

    @property
    def identity(self) -> ProcessId:
        return self._apiserver.identity

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def _apiserver(self) -> Member:
        return self.members["kube-apiserver"]

    def connection(self, **more: Any) -> dict[str, Any]:
        """Connection options of our modules, as user `runbooks`."""
        return {"kubeconfig": str(self.kubeconfig), "expect_cluster": self.uid, **more}

    # What is asked and done as `lab`

    def kubectl(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """As `lab`; the caller looks at the return code."""
        command = [self.built.program("kubectl"), "--kubeconfig", str(self.admin_kubeconfig), *arguments]
        env = {"PATH": os.defpath, "HOME": str(self.scratch)}
        return subprocess.run(command, input=input, env=env, capture_output=True, text=True, timeout=120, check=False)

    def apply(self, *documents: Mapping[str, Any], namespace: str | None = None) -> None:
        """Server-side, one after the other."""
        for document in documents:
            self.api.apply(document, namespace)

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        return self.api.get(kind, name, namespace)

    def objects(self, kind: str, namespace: str | None = None, selector: str = "") -> list[dict[str, Any]]:
        return self.api.objects(kind, namespace, selector)

    def patch(self, kind: str, name: str, namespace: str | None, body: Any, **options: Any) -> dict[str, Any]:
        return self.api.patch(kind, name, namespace, body, **options)

    def delete(self, kind: str, name: str, namespace: str | None = None) -> None:
        self.api.delete(kind, name, namespace)

    def new_namespace(self, prefix: str = "t", labels: Mapping[str, str] | None = None) -> str:
        """A fresh one, whose default ServiceAccount is there: pods can be made."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        meta = {"name": name, "labels": dict(labels or {})}
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        self.wait(lambda: self.exists("serviceaccount", "default", name), 20, f"a ServiceAccount in {name}")
        return name

    def delete_namespace(self, name: str) -> None:
        """Begins it; nobody waits."""
        self.api.delete("namespace", name)

    def exists(self, kind: str, name: str, namespace: str | None = None) -> bool:
        try:
            self.api.get(kind, name, namespace)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    def user(self, name: str, rules: Sequence[Mapping[str, Any]], namespace: str | None = None) -> Path:
        """The kubeconfig of a user who may do exactly this, in one namespace or in all."""
        role, binding = members.rights(name, rules, namespace)
        self.apply(role, binding)
        return self.authority.kubeconfig(self.scratch / f"{name}.kubeconfig", self.url, name)

    def wait(self, predicate: Callable[[], Any], seconds: float, what: str) -> None:
        wait_until(lambda: bool(predicate()), seconds, what, pause=0.05)

    # The life of the processes

    def identities(self) -> list[ProcessId]:
        """In the order to end them."""
        return [self.members[name].identity for name in sorted(self.members, key=members.STOP_ORDER.index)]

    def alive(self) -> bool:
        return bool(self.members) and all(member.alive() for member in self.members.values())

    def prove_own(self) -> None:
        """LabError unless the server that answers is the process we started, with the data we know."""
        if not self._apiserver.alive():
            raise LabError(f"our API server has ended:\n{self.server_log}")
        found = self.get("namespace", "kube-system")["metadata"]["uid"]
        if not self.uid or found != self.uid:
            raise LabError(f"{self.url} is the cluster {found}, not ours ({self.uid})")

    def freeze(self) -> None:
        """Stop the API server in its tracks: connections open, nobody answers."""
        self._apiserver.identity.send(signal.SIGSTOP)
        wait_until(lambda: self._apiserver.identity.state() == "T", 5, "a frozen API server")

    def thaw(self) -> None:
        self._apiserver.identity.send(signal.SIGCONT)

    def kill_apiserver(self) -> None:
        """SIGKILL: connections are refused from now on."""
        self._apiserver.end()

    def restart_apiserver(self) -> Self:
        """Start it again at the same port, and wait until it is ready."""
        self._apiserver.end()
        self._launch("kube-apiserver")
        self._wait_ready()
        return self

    def start_metrics(self, wait: float = 0) -> Self:
        """The metrics API, on figures that pods have in annotations; with `wait` seconds for the first of them."""
        self._launch("metrics-server")
        self.apply(*members.metrics_documents(self.ports.metrics))
        if wait:
            path = "/apis/metrics.k8s.io/v1beta1/nodes"
            self.wait(lambda: self._has_items(path), wait, "metrics of the nodes")
        return self

    def start_cert_manager(self) -> Self:
        """cert-manager's controllers for self-signed and CA issuers."""
        self._launch("cert-manager")
        log = self.members["cert-manager"].log
        self.wait(lambda: log.exists() and "controllers" in log.read_text(), 20, f"cert-manager, see {log}")
        return self

    def stop(self, clean: bool = False) -> None:
        """Controllers first, etcd last: an API server without its etcd would not end. Harmless when repeated.

        What etcd holds is thrown away, so nobody is waited for unless it shall be `clean`."""
        for name in sorted(self.members, key=members.STOP_ORDER.index):
            keeps = clean and name in ("kube-apiserver", "etcd")
            self.members[name].end(signal.SIGTERM if keeps else signal.SIGKILL)

    def _has_items(self, path: str) -> bool:
        try:
            return bool(self.api.request("GET", path)["items"])
        except LabError:
            return False

    def _launch(self, name: str) -> Member:
        if name in self.members and self.members[name].alive():
            return self.members[name]
        command = [self.built.program(name), *members.flags(name, self.scratch, self.files, self.ports)]
        self.members[name] = Member(name, command, self.scratch / name, self.detached).start()
        return self.members[name]

    def _wait_start(self, ready: Callable[[], Any], what: str) -> None:
        def check() -> bool:
            for name, member in self.members.items():
                if not member.alive():
                    raise LabError(f"{name} ended at its start:\n{member.tail()}")
            return bool(ready())

        wait_until(check, _START_SECONDS, f"{what}, see {self.scratch}", pause=0.03)

    def _wait_ready(self) -> None:
        self._wait_start(self.api.ready, "a ready API server")

    def start(self, nodes: bool = True) -> Self:
        """All processes; returns when pods can be made, or without `nodes` when the API answers."""
        self._launch("etcd")
        self._launch("kube-apiserver")
        self._wait_ready()
        self._launch("kube-controller-manager")
        if nodes:
            members.write_default_log(self.scratch / "kwok")
            self._launch("kwok")
            self._launch("kube-scheduler")
        self.wait(lambda: self.exists("namespace", "kube-system"), 20, "the namespace kube-system")
        self.uid = str(self.get("namespace", "kube-system")["metadata"]["uid"])
        if nodes:
            self._wait_start(self._nodes_ready, "ready nodes")
            self.prove_nodes(*template.NODES)
        return self

    def prove_nodes(self, *nodes: str) -> None:
        """Until pods on them become and stay ready: controllers that still take a node for sick mark its new pods."""
        namespace = self.new_namespace("lab-probe")
        self.wait(lambda: self._keep_ready(nodes, namespace), _START_SECONDS, f"pods that stay ready on {nodes}")
        self.delete_namespace(namespace)

    def _keep_ready(self, nodes: Sequence[str], namespace: str) -> bool:
        label = secrets.token_hex(4)
        for node in nodes:
            self.api.create(members.probe(node, label), namespace)
        probes = functools.partial(self.objects, "pod", namespace, f"probe={label}")
        self.wait(lambda: all(pod["status"]["phase"] == "Running" for pod in probes()), _START_SECONDS, "running pods")
        time.sleep(_MARKED_SECONDS)
        return all(_conditions(pod).get("Ready") == "True" for pod in probes())

    def _nodes_ready(self) -> bool:
        found = self.objects("node")
        return len(found) == len(template.NODES) and all(_is_ready(node) for node in found)


def _is_ready(node: Mapping[str, Any]) -> bool:
    return _conditions(node).get("Ready") == "True" and not node["spec"].get("taints")


def _conditions(item: Mapping[str, Any]) -> dict[str, str]:
    return {entry["type"]: entry["status"] for entry in item["status"].get("conditions", ())}


class ForeignCluster(Cluster):
    """A cluster that somebody else runs and has marked as ours to break; it has no processes and no audit log."""

    def __init__(self, scratch: Path, kubeconfig: Path) -> None:
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.scratch = scratch
        self.kubeconfig = self.admin_kubeconfig = kubeconfig
        self.members = {}
        if not self.exists("namespace", template.MARKER):
            raise LabError(f"{kubeconfig} leads to a cluster without a namespace {template.MARKER}: it may be broken?")
        self.uid = str(self.get("namespace", "kube-system")["metadata"]["uid"])

    @property
    def url(self) -> str:
        return self.api.url

    def kubectl(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=input, capture_output=True, text=True, timeout=120, check=False)

    def user(self, name: str, rules: Sequence[Mapping[str, Any]], namespace: str | None = None) -> Path:
        """A ServiceAccount in the marker namespace: nobody signs certificates for us here."""
        role, binding = members.rights(name, rules, namespace)
        subject = {"kind": "ServiceAccount", "name": name, "namespace": template.MARKER}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        self.apply(account, role, {**binding, "subjects": [subject]}, namespace=template.MARKER)
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        path = self.api.resource("serviceaccount").path(template.MARKER, name, "token")
        token = self.api.request("POST", path, asked)["status"]["token"]
        return write_kubeconfig(self.scratch / f"{name}.kubeconfig", self.url, self.ca, name, token=token)

    @property
    def ca(self) -> Path:
        path = self.scratch / "ca.crt"
        path.write_text(self.get("configmap", "kube-root-ca.crt", template.MARKER)["data"]["ca.crt"])
        return path

    def alive(self) -> bool:
        return self.api.ready()

    def prove_own(self) -> None:
        if self.get("namespace", "kube-system")["metadata"]["uid"] != self.uid:
            raise LabError(f"{self.url} is another cluster than before")

    def stop(self, clean: bool = False) -> None:
        """It is not ours to stop."""


def start_cluster(
    scratch: Path, *, metrics: bool = False, cert_manager: bool = False, detached: bool = False
) -> Cluster:
    """A cluster with three ready nodes; $SRE_RUNBOOKS_TEST_KUBECONFIG names one that is there already."""
    foreign = os.environ.get("SRE_RUNBOOKS_TEST_KUBECONFIG")
    if foreign:
        return ForeignCluster(scratch, Path(foreign))
    built = binaries()
    data = _template(built)
    cluster = _started(scratch, built, data, detached)
    try:
        if metrics:
            cluster.start_metrics()
        if cert_manager:
            cluster.start_cert_manager()
        cluster.prove_own()
    except BaseException:
        cluster.stop()
        raise
    return cluster


def _started(scratch: Path, built: Binaries, data: Path | None, detached: bool) -> Cluster:
    for attempt in range(1, _STARTS + 1):
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        cluster = Cluster(scratch, built, detached)
        if data:
            _copy(data, scratch / "etcd-data")
        try:
            return cluster.start(nodes=data is not None)
        except BaseException as error:
            cluster.stop()
            taken = any("address already in use" in member.tail() for member in cluster.members.values())
            if not (isinstance(error, LabError) and taken) or attempt == _STARTS:
                raise
            shutil.rmtree(scratch)  # somebody took a port between look and start
    raise AssertionError("unreachable")


def _template(built: Binaries) -> Path:
    """The data folder of an etcd that has all that a cluster begins with."""
    ready = built.folder.with_name(f"{built.folder.name}-template-{template.fingerprint(built)}")
    with exclusive(ready):
        if not ready.is_dir():
            with tempfile.TemporaryDirectory(prefix=".new-", dir=ready.parent) as fresh:
                _make_template(Path(fresh) / "cluster", built).rename(ready)
    os.utime(ready)
    return ready


def _copy(data: Path, target: Path) -> None:
    """Most of an etcd's files is room for later: 64 MB on disk otherwise."""
    sparse = ["--sparse=always"] if sys.platform == "linux" else []
    subprocess.run(["cp", "-r", *sparse, str(data), str(target)], check=True)


def _make_template(scratch: Path, built: Binaries) -> Path:
    cluster = _started(scratch, built, None, detached=False)
    try:
        cluster.apply(*template.definitions(built))
        kinds = [document["metadata"]["name"] for document in template.definitions(built)]
        cluster.wait(lambda: all(_established(cluster, kind) for kind in kinds), 30, "the custom resources")
        cluster.apply(*template.documents(built))
        for node in filter(lambda document: document["kind"] == "Node", template.documents(built)):
            cluster.patch("node", node["metadata"]["name"], None, {"status": node["status"]}, subresource="status")
        cluster.new_namespace("lab-start")
        cluster.members["kube-controller-manager"].end()
        cluster.members["kube-apiserver"].end(signal.SIGTERM)
        for prefix in ("namespaces/kube-system", "leases/", "events/", "masterleases/"):
            _forget(cluster, f"/registry/{prefix}")
    finally:
        cluster.stop(clean=True)
    _copy(scratch / "etcd-data", scratch / "template")
    return scratch / "template"


def _established(cluster: Cluster, name: str) -> bool:
    status = cluster.get("customresourcedefinition", name).get("status", {})
    return any(entry["type"] == "Established" and entry["status"] == "True" for entry in status.get("conditions", ()))


def _forget(cluster: Cluster, prefix: str) -> None:
    """Out of etcd itself: the namespace kube-system, whose uid shall be each cluster's own, and what ages."""
    members.etcd_delete(cluster.ports.etcd, prefix)
