# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Logs as messages, manifests without secrets, and the requests with which evidence is gathered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.sre.runbooks.plugins.module_utils._core.run import execute
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.evidence import logs_of, readable
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.evidence_manifests import clean
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.histogram import Histogram, judge, normal
from ansible_collections.sre.runbooks.plugins.modules.k8s_evidence import DOOR
from tests.fakes.kubernetes import FakeApi, container, door_of, kube_of


@pytest.mark.parametrize(
    ("line", "level", "message"),
    [
        ('{"level":"error","message":"boom","id":7}', "error", "boom"),
        ('{"severity":"INFO","msg":"Error: no error at all"}', "", "Error: no error at all"),
        ('{"level":50,"msg":"pino"}', "error", "pino"),
        ('{"level":60,"msg":"pino"}', "fatal", "pino"),
        ('{"level":30,"msg":"pino"}', "", "pino"),
        ('time=x level=error msg="cannot reach db" n=1', "error", "cannot reach db"),
        ("level=info msg=ERROR", "", "ERROR"),
        ("2030-01-01 ERROR boom", "error", "2030-01-01 ERROR boom"),
        ("java.lang.NullPointerException: x", "error", "java.lang.NullPointerException: x"),
        ("panic: runtime error", "error", "panic: runtime error"),
        ("E0102 10:00:00.000001  1 x.go:1] bad", "error", "E0102 10:00:00.000001  1 x.go:1] bad"),
        ("all is well", "", "all is well"),
        ('{"level": broken', "", '{"level": broken'),
        ("[1, 2]", "", "[1, 2]"),
    ],
)
def test_level_and_message(line: str, level: str, message: str) -> None:
    assert judge(line) == (level, message)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("took 12.5 ms at 2030-01-01T10:00:00.123Z", "took 9 ms at 2031-11-02 11:22:33,5+01:00"),
        ("user 6f1c0a52-0000-4000-8000-00000000fa4e gone", "user 00000000-1111-2222-3333-444444444444 gone"),
        ("dial 10.0.0.1:5432 refused", "dial 192.168.7.250:80 refused"),
        ("dial [fe80:0:0:1::2]:80 refused", "dial 2001:db8:1:2::9 refused"),
        ("at 0xdeadbeef", "at 0x10"),
        ("commit 9fceb02d0ae598e95dc970b74767f19372d61af8", "commit 1234567890abcdef"),
        ("pod web-5d8f7c9b6d-x2x7k died", "pod web-66bf9c9b6f-aaaaa died"),
    ],
)
def test_what_differs_from_line_to_line_is_one_message(one: str, other: str) -> None:
    assert normal(one) == normal(other)


def test_ordinary_words_stay() -> None:
    assert normal("feedback accepted: decade facade") == "feedback accepted: decade facade"


def test_histogram_counts_joins_and_stays_small() -> None:
    one, other = Histogram(), Histogram()
    one.read("a/app", ["ERROR x 1", "ERROR x 2", "fine", ""])
    other.read("b/app", ["ERROR x 3", "ERROR y"])
    one.join(other)
    assert (one.lines, one.errors, one.top()[0]["count"], one.top()[0]["containers"]) == (5, 4, 3, 2)
    many = Histogram()
    many.read("a/app", (f"ERROR {chr(97 + n % 26)}{'x' * (n // 26)}" for n in range(26 * 300)))
    assert (len(many.groups), many.beyond, many.errors) == (5000, 2800, 7800)


def test_messages_hold_no_password() -> None:
    told = Histogram()
    told.read("a/app", ["ERROR postgres://app:hunter2@db/x password=hunter2"])
    assert "hunter2" not in json.dumps(told.as_dict())


def test_a_hostile_line_takes_no_long_time() -> None:
    Histogram().read("a", ["a" * 200_000, "1" * 200_000, ":" * 200_000, "-" * 200_000, " " * 200_000 + "ERROR"])


def test_readable() -> None:
    assert readable(b"\xff\xfe ok\x00\x1b[31m\n") == "\\xff\\xfe ok\\x00\\x1b[31m\n"
    assert "hunter2" not in readable(b"password=hunter2\n")
    assert len(readable(b"x" * 1_000_000)) < 40_000


def test_a_clean_manifest() -> None:
    env = [{"name": "DB_PASSWORD", "value": "hunter2"}, {"name": "MODE", "value": "x"}, {"name": "K", "valueFrom": {}}]
    notes = {"kubectl.kubernetes.io/last-applied-configuration": "hunter2", "other": "stays"}
    manifest = {
        "kind": "Deployment",
        "metadata": {"name": "web", "annotations": notes, "managedFields": [{"manager": "x"}]},
        "spec": {"template": {"spec": {"containers": [container(env=env, args=["--password=hunter2"])]}}},
    }
    found = clean(manifest)
    assert "hunter2" not in json.dumps(found)
    values = [entry.get("value") for entry in found["spec"]["template"]["spec"]["containers"][0]["env"]]
    assert (values, found["metadata"]["annotations"]) == (["***", "x", None], {"other": "stays"})
    assert manifest["metadata"]["managedFields"]
    words = ["--api-key", "hunter2", "--client-secret=hunter2", "--port", "80", "--auth", "--verbose", "hunter"]
    header = {"httpGet": {"httpHeaders": [{"name": "Authorization", "value": "Basic hunter2"}]}}
    told = clean({"metadata": {"name": "c"}, "spec": {"containers": [{"command": words, "livenessProbe": header}]}})
    assert "hunter2" not in json.dumps(told)
    assert told["spec"]["containers"][0]["command"][3:] == ["--port", "80", "--auth", "--verbose", "hunter"]
    held = clean({"metadata": {"name": "c"}, "data": {"mode": "hunter2"}, "binaryData": {"b": "aHVudGVyMg=="}})
    assert held["data"]["mode"].startswith("sha256:")
    assert "hunter2" not in json.dumps(held)
    assert "aHVudGVyMg" not in json.dumps(held)


def pod(name: str, **status: Any) -> dict[str, Any]:
    spec = {"containers": [container(), container("side")], "initContainers": [container("init")]}
    metadata = {"name": name, "labels": {"app": "web"}}
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Running", **status}}


def test_every_container_and_previous_ones_only_where_there_are_any() -> None:
    again = [{"name": "app", "restartCount": 2}, {"name": "side", "restartCount": 0}]
    files = [log.file for log in logs_of([pod("a", containerStatuses=again)])]
    wanted = ["logs/a/app.log", "logs/a/app.previous.log", "logs/a/side.log", "logs/a/init.log"]
    assert files == wanted


def test_asks_with_bounds_never_follows_and_goes_on_without_metrics(tmp_path: Path) -> None:
    api = FakeApi()
    api.add(pod("a"))
    api.add(pod("b"))
    api.logs["shop", "b", "app", False] = b"2030-01-01T00:00:00Z ERROR x 1\n"
    api.refuse("GET", "pods/a/log", 400, 'container "app" in pod "a" is waiting to start: ContainerCreating')
    given = {"namespace": "shop", "selector": "app=web", "dest": str(tmp_path), "incident": "i", "since": "1h"}
    door = door_of(DOOR, kube_of(api))
    checked = ArgumentSpecValidator(door.spec.arguments(), **door.spec.rules()).validate(given)
    done = execute(door, checked.validated_parameters, check_mode=False)
    assert (done.get("msg"), done["changed"], api.written) == (None, True, [])
    asked = [request.query for request in api.log if request.sub == "log"]
    assert len(asked) == 6
    assert all({"tailLines", "limitBytes", "sinceSeconds"} <= set(query) and "follow" not in query for query in asked)
    assert len([one for one in done["evidence"]["said"] if one["log"].startswith("logs/a/")]) == 3
    assert "waiting to start" in done["evidence"]["said"][0]["message"]
    assert done["evidence"]["histogram"]["errors"] == 1
    unseen = [found["evidence"] for found in done["findings"] if found["id"] == "k8s.evidence.unseen"]
    assert [list(one) for one in unseen] == [["usage"]]
