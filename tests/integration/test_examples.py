# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every example of the documentation runs, in check mode and for real, against a server of the lab."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab import faults
from tests.lab.redis_servers import RedisServer, SentinelSet, start_single
from tests.lab.world import Lab
from tests.support import ROOT, play

MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))


@pytest.fixture
def patient(redis_lab: Lab, tmp_path: Path) -> RedisServer:
    """A server with a little of everything, and a configuration file that can be rewritten."""
    server = redis_lab.start(start_single, config={"maxmemory": "64mb"})
    faults.add_bystanders(server)
    faults.fill_cache(server, until=8 << 20)
    return server


def examples(name: str) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = yaml.safe_load(
        import_module(f"ansible_collections.sre.runbooks.plugins.modules.{name}").EXAMPLES
    )
    return tasks


def aimed(task: dict[str, Any], server: RedisServer) -> dict[str, Any]:
    """The task with its connection turned to the lab; everything else as it is printed."""
    module = next((key for key in task if key.startswith("sre.runbooks.")), None)
    if module is None:  # it shows what to do with a result
        return task
    places = {"url", "host", "port", "db", "username", "password", "tls", "ca_cert", "sentinels", "sentinel_service"}
    kept = {key: value for key, value in (task[module] or {}).items() if key not in places | {"expect_host"}}
    return {**task, module: {**kept, **(server.connection() if module != "sre.runbooks.parameters" else {})}}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("check", [True, False], ids=["check", "real"])
def test_the_examples_of(name: str, check: bool, patient: RedisServer) -> None:
    tasks = [aimed(task, patient) for task in examples(name)]
    assert tasks
    result = play(tasks, check=check, env={"ANSIBLE_STDOUT_CALLBACK": "default"})
    assert result.rc == 0, result.stdout
    assert not [entry for entry in result.tasks if entry["status"] == "failed"]


def test_a_sentinel_finds_the_primary(redis_sentinel: SentinelSet) -> None:
    names = [f"{server.host}:{server.port}" for server in redis_sentinel.sentinels]
    task = {"sre.runbooks.redis_info": {"sentinels": names, "sentinel_service": redis_sentinel.name}}
    result = play([task]).result()
    assert result["server"]["name"].endswith(f":{redis_sentinel.primary.port}")
