# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every way to a real cluster, and every way that leads nowhere: each has its own error, and nothing is written."""

from __future__ import annotations

import base64
import http.server
import json
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import urllib3
import yaml

from ansible_collections.sre.runbooks.plugins.module_utils._k8s import client
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.client import connect
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.kinds import CONFIG_MAP
from tests.lab.certificates import make_certificates
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_objects import configmap, deployment
from tests.lab.kubernetes_proxy import Answer, Cut, Proxy, Reset, Rewrite, proxied
from tests.lab.kubernetes_witness import mark, writes
from tests.lab.process import HOST
from tests.support import call, play

pytestmark = [pytest.mark.kubernetes, pytest.mark.compat]
QUICK = {"connect_timeout": 1, "request_timeout": 2}
EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin", "interactiveMode": "Never"}


@pytest.fixture
def web(cluster: Cluster, namespace: str) -> str:
    """A namespace with a Deployment called web that has no pods."""
    cluster.apply(deployment("web", replicas=0), namespace=namespace)
    return namespace


def look(namespace: str, **connection: Any) -> dict[str, Any]:
    return call("k8s_rollout_info", namespace=namespace, name="web", **{**QUICK, **connection})


def changed(lab: Cluster, path: Path, **parts: Mapping[str, Any]) -> str:
    """The cluster's kubeconfig with another user, or with other words on the cluster."""
    known = yaml.safe_load(lab.kubeconfig.read_text())
    if "user" in parts:
        known["users"][0]["user"] = dict(parts["user"])
    known["clusters"][0]["cluster"].update(parts.get("cluster", {}))
    path.write_text(json.dumps(known))
    return str(path)


def error(result: Mapping[str, Any]) -> tuple[str, str]:
    assert result.get("failed"), result
    assert result["changed"] is False
    assert result["error"]["hint"]
    return result["error"]["kind"], result["error"]["code"]


# Ways that work


def test_by_kubeconfig_by_variables_and_by_parts(
    cluster: Cluster, web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look(web, **cluster.connection())["server"]["version"].startswith("1.")
    known = yaml.safe_load(cluster.kubeconfig.read_text())
    context = known["current-context"]
    assert not look(web, **cluster.connection(context=context)).get("failed")
    nowhere = tmp_path / "none"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", f"{nowhere}:{cluster.kubeconfig}")
    assert not look(web, expect_cluster=cluster.uid).get("failed")
    monkeypatch.setenv("KUBECONFIG", str(nowhere))
    monkeypatch.setenv("K8S_AUTH_KUBECONFIG", str(cluster.kubeconfig))
    assert not look(web, expect_cluster=cluster.uid).get("failed")
    monkeypatch.delenv("K8S_AUTH_KUBECONFIG")
    token = service_account(cluster, web)
    parts = {"host": cluster.url, "api_key": token, "ca_cert": str(cluster.ca)}
    assert not look(web, **parts, expect_cluster=cluster.url).get("failed")
    # A token is who one is, even beside a kubeconfig that has a certificate.
    with connect({"kubeconfig": str(cluster.kubeconfig), "api_key": token}) as kube:
        reviewed = kube.api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", _who())
    assert reviewed["status"]["userInfo"]["username"] == f"system:serviceaccount:{web}:reader"


def service_account(cluster: Cluster, namespace: str) -> str:
    """The token of one that may read Deployments of a namespace."""
    named = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}}
    rbac = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": ["apps", ""], "resources": ["*"], "verbs": ["get", "list"]}]
    role = {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": "reader"}, "rules": rules}
    bound = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace}],
    }
    cluster.apply(named, role, bound, namespace=namespace)
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/reader/token"
    return str(cluster.api.request("POST", path, asked)["status"]["token"])


def _who() -> dict[str, Any]:
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}


def test_acting_as_somebody_else(cluster: Cluster, web: str) -> None:
    lab = {"kubeconfig": str(cluster.admin_kubeconfig)}
    with connect({**lab, "impersonate_user": "ann", "impersonate_groups": ["one", "two"]}) as kube:
        assert kube.uid == ""  # she may not look at kube-system
        found = kube.api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", _who())["status"]["userInfo"]
    assert (found["username"], found["groups"][:2]) == ("ann", ["one", "two"])
    assert error(look(web, **lab, impersonate_user="ann")) == ("forbidden", "rbac")


def test_no_keys_of_a_kubeconfig_stay_behind(cluster: Cluster, web: str) -> None:
    """Also not where the controller's worker ends, which runs no exit handlers."""
    options = {"namespace": web, "name": "web", **cluster.connection()}
    # ansible-core puts sockets there, whose paths have to be short.
    with tempfile.TemporaryDirectory(prefix="keys-") as name:
        result = play([{"name": "Look", "sre.runbooks.k8s_rollout_info": options}], env={"TMPDIR": name})
        assert result.rc == 0, result.stdout + result.stderr
        kept = [path for path in Path(name).rglob("*") if path.is_file()]
        assert [path for path in kept if b"PRIVATE KEY" in path.read_bytes()] == []


def test_through_a_proxy(cluster: Cluster, web: str) -> None:
    """TLS goes through it to the API server, whose certificate is verified as ever."""
    with tunnel() as (url, asked):
        assert not look(web, **cluster.connection(proxy=url)).get("failed")
        assert asked == [cluster.url.removeprefix("https://")]


@contextmanager
def tunnel() -> Iterator[tuple[str, list[str]]]:
    """A proxy that knows CONNECT."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            asked.append(self.path)
            host, _colon, port = self.path.partition(":")
            with socket.create_connection((host, int(port))) as behind:
                self.send_response(200)
                self.end_headers()
                answers = threading.Thread(target=_pump, args=(behind, self.connection), daemon=True)
                answers.start()
                _pump(self.connection, behind)
                answers.join(timeout=5)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = http.server.ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://{HOST}:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


# Ways that lead nowhere


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        pytest.param({"kubeconfig": "/none/kubeconfig"}, ("not_found", "no_kubeconfig"), id="no kubeconfig"),
        pytest.param({"context": "other"}, ("not_found", "no_context"), id="no context"),
        pytest.param({"api_key": "canary-garbage"}, ("auth", "token"), id="garbage token"),
        pytest.param({"expect_cluster": "production"}, ("precondition", "wrong_target"), id="wrong cluster"),
        pytest.param({"ca_cert": "/none/ca.crt"}, ("not_found", "no_file"), id="no authority"),
        pytest.param({"proxy": "http://127.0.0.1:1"}, ("unreachable", "refused"), id="no proxy"),
    ],
)
def test_wrong_options(cluster: Cluster, web: str, wrong: dict[str, Any], expected: tuple[str, str]) -> None:
    since = mark(cluster)
    result = look(web, **cluster.connection(**wrong))
    assert error(result) == expected
    assert "canary" not in json.dumps(result)
    assert writes(cluster, since, user=None, namespace=web) == []


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param({"user": {"exec": EXEC}}, ("auth", "exec_plugin"), id="exec plugin"),
        pytest.param({"user": {}}, ("auth", "anonymous"), id="no user"),
        pytest.param({"user": {"token": "x"}}, ("auth", "token"), id="bad token"),
        pytest.param({"cluster": {"server": "https://no-such-host.invalid"}}, ("unreachable", "dns"), id="no host"),
        pytest.param({"cluster": {"server": f"https://{HOST}:1"}}, ("unreachable", "refused"), id="no port"),
        pytest.param({"cluster": {"tls-server-name": "other.example"}}, ("unreachable", "tls"), id="other name"),
    ],
)
def test_wrong_kubeconfigs(
    cluster: Cluster, web: str, tmp_path: Path, parts: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert error(look(web, kubeconfig=changed(cluster, tmp_path / "config", **parts))) == expected


@pytest.mark.parametrize("content", ["{ a: [", "", "words"])
def test_a_kubeconfig_that_is_none(web: str, tmp_path: Path, content: str) -> None:
    file = tmp_path / "config"
    file.write_text(content)
    assert error(look(web, kubeconfig=str(file))) == ("precondition", "kubeconfig")


def test_plain_http_to_a_port_that_speaks_tls(cluster: Cluster, web: str, tmp_path: Path) -> None:
    place = {"server": cluster.url.replace("https", "http")}
    path = changed(cluster, tmp_path / "config", cluster=place)
    assert error(look(web, kubeconfig=path)) == ("unreachable", "plain_http")


def test_another_authority(cluster: Cluster, web: str, tmp_path: Path) -> None:
    foreign = make_certificates(tmp_path).ca_cert
    result = look(web, **cluster.connection(ca_cert=str(foreign)))
    assert error(result) == ("unreachable", "tls")
    assert not look(web, **cluster.connection(ca_cert=str(foreign), validate_certs=False)).get("failed")


@contextmanager
def page(status: int, body: bytes, **headers: str) -> Iterator[str]:
    """Something that answers, and is no API server."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = http.server.ThreadingHTTPServer((HOST, 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"<html>Welcome</html>", ("unsupported", "not_kubernetes")),
        (200, b'{"cluster_name": "elastic"}', ("unsupported", "not_kubernetes")),
        (404, b"<html>404</html>", ("unsupported", "not_kubernetes")),
        (302, b"", ("unsupported", "not_kubernetes")),
        (502, b"<html><h1>Bad gateway</h1></html>", ("unreachable", "unavailable")),
    ],
)
def test_what_is_not_kubernetes(web: str, status: int, body: bytes, expected: tuple[str, str]) -> None:
    with page(status, body, Location="https://login.example/") as url:
        assert error(look(web, host=url)) == expected
        assert error(look(web, host=url.replace("http:", "https:")))[1] in ("tls",)


def test_a_port_that_says_nothing(web: str) -> None:
    with socket.create_server((HOST, 0)) as silent:
        port = silent.getsockname()[1]
        assert error(look(web, host=f"http://{HOST}:{port}")) == ("timeout", "timeout")


def test_a_namespace_that_is_not_there(cluster: Cluster) -> None:
    result = look("no-such-namespace", **cluster.connection())
    assert error(result) == ("not_found", "no_namespace")


# A server in trouble


@pytest.fixture
def front(cluster: Cluster, web: str, tmp_path: Path) -> Iterator[Proxy]:
    with proxied(cluster, tmp_path) as proxy:
        yield proxy


def test_a_server_that_is_busy_for_a_moment(front: Proxy, web: str) -> None:
    front.on("GET", "/deployments/web", Answer(429, b"{}", {"Retry-After": "1"}), Answer(503))
    assert not look(web, **front.connection()).get("failed")
    assert len([path for _method, path in front.seen if path.endswith("/deployments/web")]) >= 3


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (429, ("exhausted", "throttled")),
        (500, ("unreachable", "server_error")),
        (503, ("unreachable", "unavailable")),
        (504, ("timeout", "server_timeout")),
    ],
)
def test_a_server_that_stays_busy(front: Proxy, web: str, status: int, expected: tuple[str, str]) -> None:
    front.on("GET", "/deployments/web", *[Answer(status)] * 9)
    result = look(web, **front.connection())
    assert error(result) == expected
    assert result["error"]["retryable"] is True


def names(proxy: Proxy, namespace: str) -> list[str]:
    with connect(proxy.connection(**QUICK)) as kube:
        return sorted(
            item["metadata"]["name"]
            for item in kube.all(CONFIG_MAP, namespace)
            if item["metadata"]["name"].startswith("c-")
        )


@pytest.fixture
def many(cluster: Cluster, web: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Seven ConfigMaps, read two a page."""
    monkeypatch.setattr(client, "PAGE", 2)
    made = [f"c-{number}" for number in range(7)]
    cluster.apply(*map(configmap, made), namespace=web)
    return made


def test_a_line_that_breaks_in_the_middle_of_a_list(front: Proxy, web: str, many: list[str]) -> None:
    front.on("GET", "/configmaps.*continue", Reset(), None, Cut())
    assert names(front, web) == many


def test_a_list_that_expires_in_the_middle(front: Proxy, web: str, many: list[str]) -> None:
    expired = json.dumps({"kind": "Status", "code": 410, "reason": "Expired", "metadata": {}}).encode()
    front.on("GET", "/configmaps.*continue", None, Answer(410, expired))
    assert names(front, web) == many


def test_a_list_that_etcd_has_forgotten(own_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server itself says 410, and gives a token for the rest as it is now."""
    monkeypatch.setattr(client, "PAGE", 2)
    space = own_cluster.new_namespace()
    made = [f"c-{number}" for number in range(7)]
    own_cluster.apply(*map(configmap, made), namespace=space)
    compact(own_cluster)
    with proxied(own_cluster, tmp_path) as front:
        front.on("GET", "/configmaps.*continue", None, Rewrite(aged))
        assert names(front, space) == made
        assert front.answers.count(410) == 1


def aged(path: str) -> str:
    """The token of a list that was begun when the cluster was."""
    parts = urlsplit(path)
    query = dict(parse_qsl(parts.query))
    token = query["continue"]
    known = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    known["rv"] = 1
    query["continue"] = base64.urlsafe_b64encode(json.dumps(known).encode()).decode().rstrip("=")
    return f"{parts.path}?{urlencode(query)}"


def compact(cluster: Cluster) -> None:
    """Makes etcd forget all but the newest revision, by its JSON gateway."""
    pool, base = urllib3.PoolManager(retries=False), f"http://{HOST}:{cluster.ports.etcd}/v3/kv"
    key = {"key": "AA==", "range_end": "AA==", "limit": "1"}
    status = json.loads(pool.request("POST", f"{base}/range", body=json.dumps(key)).data)
    wanted = {"revision": status["header"]["revision"], "physical": True}
    assert pool.request("POST", f"{base}/compaction", body=json.dumps(wanted)).status == 200


def test_a_server_that_is_frozen_or_gone(own_cluster: Cluster) -> None:
    space = own_cluster.new_namespace()
    own_cluster.apply(deployment("web", replicas=0), namespace=space)
    own_cluster.freeze()
    assert error(look(space, **own_cluster.connection())) == ("timeout", "timeout")
    own_cluster.thaw()
    assert not look(space, **own_cluster.connection()).get("failed")
    own_cluster.kill_apiserver()
    assert error(look(space, **own_cluster.connection())) == ("unreachable", "refused")
    own_cluster.restart_apiserver()
    assert not look(space, **own_cluster.connection()).get("failed")
