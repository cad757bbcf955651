# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every example of the documentation runs, in check mode and for real, against a server of the lab."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab import faults
from tests.lab import kubernetes_objects as objects
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_faults import settle
from tests.lab.redis_servers import SentinelSet, start_single
from tests.lab.world import Lab
from tests.support import ROOT, play

MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))


#: What says where a server is; it is turned to the lab's.
_PLACES = frozenset(
    {
        "url",
        "dsn",
        "kubeconfig",
        "context",
        "host",
        "port",
        "db",
        "dbname",
        "username",
        "user",
        "password",
        "tls",
        "ca_cert",
    }
    | {"sentinels", "sentinel_service", "expect_host"}
)

#: Modules without a server of their own, and one for which a place where nobody answers is an answer too.
_PLACELESS = ("api_remedy_info", "parameters", "probe")


@pytest.fixture
def connection(name: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """A server of the module's product, with a little of everything that its examples name."""
    if name.startswith("postgres"):
        return _postgres(request.getfixturevalue("postgres_single"))
    if name.startswith("k8s"):
        return _kubernetes(request.getfixturevalue("cluster"))
    return {} if name in _PLACELESS else _redis(request.getfixturevalue("redis_lab"))


def _redis(redis_lab: Lab) -> dict[str, Any]:
    server = redis_lab.start(start_single, config={"maxmemory": "64mb"})
    faults.add_bystanders(server)
    faults.fill_cache(server, until=8 << 20)
    return server.connection()


def _postgres(server: Any) -> dict[str, Any]:
    server.query("CREATE TABLE feature_flags (flag text PRIMARY KEY, enabled boolean)")
    server.query("INSERT INTO feature_flags VALUES ('replays', true)")
    server.query("CREATE SCHEMA reports")
    server.query("CREATE MATERIALIZED VIEW reports.daily AS SELECT 1 AS day")
    server.query("CREATE UNIQUE INDEX ON reports.daily (day)")
    found: dict[str, Any] = server.connection()
    return found


def _kubernetes(cluster: Cluster) -> dict[str, Any]:
    """The shop of the examples; one is enough, since what they state may be so already."""
    shop = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    cluster.apply(shop)
    cluster.wait(lambda: cluster.exists("ServiceAccount", "default", "shop"), 10, "the namespace's account")
    claim, volume = objects.pvc("data-db-0", size="20Gi"), objects.volume("data-db-0", size="20Gi")
    container = {"resources": {"limits": {"memory": "256Mi"}}}
    workloads = [objects.deployment(name, container=container) for name in ("web", "worker")]
    cluster.apply(volume)
    settle(cluster, "shop", claim, objects.configmap("web-config", MAINTENANCE="off"), *workloads)
    return cluster.connection()


def examples(name: str) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = yaml.safe_load(
        import_module(f"ansible_collections.sre.runbooks.plugins.modules.{name}").EXAMPLES
    )
    return tasks


def aimed(task: dict[str, Any], connection: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The task with its connection turned to the lab, and its files to a folder; everything else as it is printed."""
    module = next((key for key in task if key.startswith("sre.runbooks.")), None)
    if module is None or not connection:  # it shows what to do with a result, or has nowhere to go
        return task
    kept = {key: value for key, value in (task[module] or {}).items() if key not in _PLACES}
    files = {"dest": str(folder)} if "dest" in kept else {}
    return {**task, module: {**kept, **connection, **files}}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("check", [True, False], ids=["check", "real"])
def test_the_examples_of(name: str, check: bool, connection: dict[str, Any], tmp_path: Path) -> None:
    tasks = [aimed(task, connection, tmp_path) for task in examples(name)]
    assert tasks
    result = play(tasks, check=check, env={"ANSIBLE_STDOUT_CALLBACK": "default"})
    assert result.rc == 0, result.stdout
    assert not [entry for entry in result.tasks if entry["status"] == "failed"]


def test_a_sentinel_finds_the_primary(redis_sentinel: SentinelSet) -> None:
    names = [f"{server.host}:{server.port}" for server in redis_sentinel.sentinels]
    task = {"sre.runbooks.redis_info": {"sentinels": names, "sentinel_service": redis_sentinel.name}}
    result = play([task]).result()
    assert result["server"]["name"].endswith(f":{redis_sentinel.primary.port}")
