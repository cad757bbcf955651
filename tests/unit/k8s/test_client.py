# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pages, tries and proofs of identity, against answers that no server gives on demand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._k8s import client
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.address import Address, Line
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.client import (
    HttpApi,
    Patch,
    Right,
    demand,
    expect,
    identify,
    require_namespace,
)
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.kinds import ACCESS_REVIEW, CONFIG_MAP, POD
from tests.fakes.kubernetes import UID, FakeApi, allow, kube_of


@dataclass
class Answer:
    status: int
    body: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class Pool:
    """Gives the answers in order; keeps what was asked."""

    def __init__(self, answers: Iterable[Answer | Exception]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    def request(self, method: str, url: str, **options: Any) -> Answer:
        self.asked.append((method, url, options))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def queries(self) -> list[dict[str, str]]:
        return [{name: one[0] for name, one in parse_qs(urlsplit(asked[1]).query).items()} for asked in self.asked]


def api_of(*answers: Answer | Exception) -> tuple[HttpApi, Pool]:
    pool = Pool(answers)
    line = Line("https://h:6443", pool, lambda: [("Impersonate-Group", "a"), ("Impersonate-Group", "b")])
    return HttpApi(line, Address(connect_timeout=2, request_timeout=3)), pool


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    naps: list[float] = []
    monkeypatch.setattr(client.time, "sleep", naps.append)
    return naps


def page(*names: str, token: str = "") -> Answer:
    items = [{"metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}"}} for name in names]
    return Answer(200, {"items": items, "metadata": {"continue": token}})


def gone(token: str = "") -> Answer:
    return Answer(410, {"kind": "Status", "message": "too old", "metadata": {"continue": token}})


def names(api: HttpApi) -> list[list[str]]:
    return [[item["metadata"]["name"] for item in found] for found in api.pages("/api/v1/pods", labelSelector="a=b")]


def test_pages_follow_the_token() -> None:
    api, pool = api_of(page("a", "b", token="t1"), page("c"))
    assert names(api) == [["a", "b"], ["c"]]
    assert pool.queries() == [
        {"limit": "500", "labelSelector": "a=b"},
        {"limit": "500", "labelSelector": "a=b", "continue": "t1"},
    ]


def test_a_list_that_expires_is_gone_on_with_where_it_was() -> None:
    api, pool = api_of(page("a", "b", token="t1"), gone("t2"), page("c", token="t3"), page("d"))
    assert names(api) == [["a", "b"], ["c"], ["d"]]
    assert [query.get("continue") for query in pool.queries()] == [None, "t1", "t2", "t3"]


def test_a_list_that_must_begin_anew_gives_nothing_twice() -> None:
    api, _pool = api_of(page("a", "b", token="t1"), gone(), page("a", "x", "b", token="t2"), page("c"))
    assert names(api) == [["a", "b"], ["x"], ["c"]]


def test_a_list_of_what_has_no_uid() -> None:
    items = [{"metadata": {"name": "a", "namespace": "shop"}}]
    first = Answer(200, {"items": items, "metadata": {"continue": "t"}})
    api, _pool = api_of(first, gone(), first, Answer(200, {"items": None, "metadata": {}}))
    assert names(api) == [["a"], [], []]


def test_a_list_that_always_expires_ends() -> None:
    api, pool = api_of(*[page("a", token="t"), gone()] * 10)
    with pytest.raises(OpsError) as caught:
        names(api)
    assert (caught.value.kind, caught.value.code) == ("conflict", "expired")
    assert len(pool.asked) == 12


def test_a_busy_server_is_asked_again_when_it_says(slept: list[float]) -> None:
    api, _pool = api_of(Answer(429, headers={"Retry-After": "2"}), Answer(503), Answer(200, {"ok": 1}))
    assert api.get("/x") == {"ok": 1}
    assert slept == [2.0, 0.5]


def test_nobody_is_made_to_wait_for_an_hour(slept: list[float]) -> None:
    api, _pool = api_of(Answer(429, headers={"Retry-After": "3600"}))
    with pytest.raises(OpsError) as caught:
        api.get("/x")
    assert (caught.value.kind, caught.value.code, slept) == ("exhausted", "throttled", [])


def test_a_busy_server_is_not_asked_for_ever(slept: list[float]) -> None:
    api, pool = api_of(*[Answer(503)] * 9)
    with pytest.raises(OpsError) as caught:
        api.get("/x")
    assert (caught.value.code, len(pool.asked), len(slept)) == ("unavailable", 4, 3)


def test_what_writes_is_asked_once() -> None:
    for status in (429, 503):
        for act in ("post", "put", "delete"):
            api, pool = api_of(Answer(status), Answer(200))
            with pytest.raises(OpsError):
                getattr(api, act)("/x", {})
            assert len(pool.asked) == 1
    api, pool = api_of(urllib3.exceptions.ProtocolError("reset"), Answer(200))
    with pytest.raises(urllib3.exceptions.ProtocolError):
        api.patch("/x", {}, Patch.MERGE)
    assert len(pool.asked) == 1


def test_rehearsals_and_questions_do_no_harm_twice() -> None:
    api, _pool = api_of(Answer(429), Answer(200, {"ok": 1}))
    assert api.patch("/x", {}, Patch.MERGE, dry_run=True) == {"ok": 1}
    api, _pool = api_of(urllib3.exceptions.ProtocolError("reset"), Answer(201, {"ok": 1}))
    assert api.post(ACCESS_REVIEW.path(), {}) == {"ok": 1}
    api, _pool = api_of(urllib3.exceptions.ProtocolError("reset"), Answer(200, {"ok": 1}))
    assert api.get("/x") == {"ok": 1}


def test_a_server_that_does_not_answer_is_not_asked_again() -> None:
    api, pool = api_of(urllib3.exceptions.ReadTimeoutError(None, "", "x"), Answer(200))  # type: ignore[arg-type]
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        api.get("/x")
    assert len(pool.asked) == 1


def test_what_a_request_says() -> None:
    api, pool = api_of(Answer(200), Answer(200), Answer(200))
    api.patch("/x", {"a": 1}, Patch.STRATEGIC, dry_run=True)
    method, _url, options = pool.asked[0]
    assert (method, options["headers"]["content-type"]) == ("PATCH", "application/strategic-merge-patch+json")
    assert options["headers"].getlist("Impersonate-Group") == ["a", "b"]
    assert (options["timeout"].connect_timeout, options["timeout"].read_timeout) == (2, 3)
    assert pool.queries()[0] == {"fieldManager": "sre.runbooks", "dryRun": "All"}
    # The API server looks for a deletion's rehearsal in the body, when there is one.
    api.delete("/x", {"preconditions": {"uid": "u"}}, dry_run=True)
    assert json.loads(pool.asked[1][2]["body"]) == {"preconditions": {"uid": "u"}, "dryRun": ["All"]}
    api.delete("/x", {})
    assert json.loads(pool.asked[2][2]["body"]) == {}


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>Log in</html>"),
        Answer(200, {"status": "green"}),
        Answer(200, []),
        Answer(302, b""),
        Answer(404, b"<html>nothing here</html>"),
    ],
)
def test_what_is_not_kubernetes(answer: Answer) -> None:
    api, _pool = api_of(answer)
    with pytest.raises(OpsError) as caught:
        identify(api, "h:6443")
    assert (caught.value.kind, caught.value.code) == ("unsupported", "not_kubernetes")


VERSION = Answer(200, {"gitVersion": "v1.33.1-eks-123"})


def test_identity() -> None:
    api, _pool = api_of(VERSION, Answer(200, {"metadata": {"uid": "u"}}))
    kube = identify(api, "h:6443")
    assert (kube.uid, kube.target.identity, kube.target.version, kube.target.managed) == (
        "u",
        "u",
        "1.33.1-eks-123",
        "eks",
    )


def test_identity_of_who_may_not_look() -> None:
    api, _pool = api_of(VERSION, Answer(403, {"message": 'User "ann" cannot'}))
    assert identify(api, "h:6443").target.identity == "h:6443"
    api, _pool = api_of(VERSION, Answer(403, {"message": 'User "system:anonymous" cannot'}))
    with pytest.raises(OpsError) as caught:
        identify(api, "h:6443")
    assert (caught.value.kind, caught.value.code) == ("auth", "anonymous")


@pytest.mark.parametrize(
    ("place", "wanted", "fits"),
    [
        ("h:6443", "", True),
        ("h:6443", "u", True),
        ("h:6443", "h:6443", True),
        ("h:6443", "https://h:6443/", True),
        ("h:6443", "h", True),
        ("[::1]:6443", "[::1]", True),
        ("h:6443", "h:6444", False),
        ("h:6443", "other", False),
        ("h", "", True),
        ("rancher/k8s/clusters/c-1", "https://rancher/k8s/clusters/c-1", True),
        ("rancher/k8s/clusters/c-1", "rancher", False),
        ("rancher:443/k8s/clusters/c-1", "rancher", False),
    ],
)
def test_which_cluster_is_meant(place: str, wanted: str, fits: bool) -> None:
    api, _pool = api_of(VERSION, Answer(200, {"metadata": {"uid": "u"}}))
    kube = identify(api, place)
    if fits:
        expect({"expect_cluster": wanted}, kube)
        return
    with pytest.raises(OpsError) as caught:
        expect({"expect_cluster": wanted}, kube)
    assert caught.value.code == "wrong_target"


def test_all_missing_rights_are_named_at_once() -> None:
    kube = kube_of(FakeApi(rules=(allow("get", "pods"),)))
    demand(kube, Right("get", POD, "shop"))
    with pytest.raises(OpsError) as caught:
        demand(
            kube,
            Right("get", POD, "shop"),
            Right("create", POD, "shop", "web-1", "eviction"),
            Right("patch", CONFIG_MAP, "shop"),
            Right("patch", CONFIG_MAP, "shop"),
        )
    assert str(caught.value) == "this user may not create pods/eviction in shop, nor patch configmaps in shop"


def test_an_object_that_is_not_there() -> None:
    api = FakeApi()
    kube = kube_of(api)
    for namespace, code in (("default", "not_found"), ("shop", "no_namespace")):
        with pytest.raises(OpsError) as caught:
            kube.get(CONFIG_MAP, namespace, "a")
        assert (caught.value.kind, caught.value.code) == ("not_found", code)
        assert kube.find(CONFIG_MAP, namespace, "a") is None


def test_a_namespace_that_is_not_there() -> None:
    api = FakeApi()
    with pytest.raises(OpsError) as caught:
        require_namespace(kube_of(api), "shop")
    assert (caught.value.kind, caught.value.code) == ("not_found", "no_namespace")
    require_namespace(kube_of(api), "default")
    require_namespace(kube_of(FakeApi(rules=())), "shop")  # who may not look goes on
    assert kube_of(api).uid == UID
