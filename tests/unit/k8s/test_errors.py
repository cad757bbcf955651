# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What answers, and what ways of failing, mean: a playbook branches on these."""

from __future__ import annotations

import json
import socket
import ssl
from typing import Any

import pytest
import urllib3

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.errors import expired_token, refusal, translate


def status(words: str = "words", **more: Any) -> bytes:
    return json.dumps({"kind": "Status", "message": words, **more}).encode()


def causes(**cause: str) -> dict[str, Any]:
    return {"details": {"causes": [cause]}}


@pytest.mark.parametrize(
    ("code", "body", "expected"),
    [
        (302, b"", ("unsupported", "not_kubernetes", False)),
        (400, status(), ("precondition", "bad_request", False)),
        (400, b"Client sent an HTTP request to an HTTPS server.\n", ("unreachable", "plain_http", False)),
        (401, status("Unauthorized"), ("auth", "token", False)),
        (403, status('pods is forbidden: User "ann" cannot'), ("forbidden", "rbac", False)),
        (403, status('is forbidden: User "system:anonymous" cannot'), ("auth", "anonymous", False)),
        (403, status('pods "a" is forbidden: exceeded quota: q'), ("exhausted", "quota", False)),
        (403, status("violates PodSecurity"), ("precondition", "pod_security", False)),
        (403, status("because it is being terminated"), ("conflict", "terminating", True)),
        (403, status('admission webhook "w" denied the request: no'), ("precondition", "admission", False)),
        (
            422,
            status("ValidatingAdmissionPolicy 'p' denied request"),
            ("precondition", "admission", False),
        ),
        (400, status('admission webhook "w" does not support dry run'), ("unsupported", "dry_run", False)),
        (500, status('failed calling webhook "w": refused'), ("unreachable", "webhook", True)),
        (500, status("This pod has more than one PodDisruptionBudget"), ("precondition", "several_budgets", False)),
        (404, status('pods "exceeded quota" not found'), ("not_found", "not_found", False)),
        (404, b"404 page not found", ("not_found", "not_found", False)),
        (409, status(), ("conflict", "conflict", True)),
        (409, status(reason="AlreadyExists"), ("conflict", "exists", False)),
        (410, status(), ("conflict", "expired", True)),
        (418, b"", ("precondition", "bad_request", False)),
        (422, status(), ("precondition", "invalid", False)),
        (422, status(**causes(field="metadata.uid")), ("conflict", "conflict", True)),
        (422, status(**causes(field="spec.replicas")), ("precondition", "invalid", False)),
        (429, status(), ("exhausted", "throttled", True)),
        (429, status(**causes(reason="DisruptionBudget")), ("precondition", "disruption_budget", True)),
        (500, status(), ("unreachable", "server_error", True)),
        (503, b"<html><h1>Sorry</h1></html>", ("unreachable", "unavailable", True)),
        (504, b"", ("timeout", "server_timeout", True)),
        (599, b"", ("unreachable", "server_error", True)),
    ],
)
def test_answers(code: int, body: bytes, expected: tuple[str, str, bool]) -> None:
    error = refusal(code, body)
    assert (error.kind, error.code, error.retryable) == expected
    assert error.hint
    assert error.facts["status"]["code"] == code


def test_pages_of_others_are_shown_without_tags() -> None:
    assert str(refusal(503, b"<html><style>a{}</style><h1>Sorry</h1>\n<p>later</html>")) == "HTTP 503 Sorry later"
    assert str(refusal(500, b"")) == "HTTP 500"
    assert len(str(refusal(500, b"x" * 10_000))) < 300


def test_a_list_that_expired_can_be_gone_on_with() -> None:
    assert expired_token(status(metadata={"continue": "abc"})) == "abc"
    assert expired_token(status()) == expired_token(b"words") == expired_token(b"[]") == ""


def after(cause: BaseException, error: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (after(ssl.SSLCertVerificationError(), urllib3.exceptions.SSLError("x")), ("unreachable", "tls")),
        (urllib3.exceptions.SSLError("x"), ("unreachable", "tls")),
        (after(socket.gaierror(), urllib3.exceptions.NewConnectionError(None, "x")), ("unreachable", "dns")),  # type: ignore[arg-type]
        (after(ConnectionRefusedError(), urllib3.exceptions.NewConnectionError(None, "x")), ("unreachable", "refused")),  # type: ignore[arg-type]
        (urllib3.exceptions.ConnectTimeoutError("x"), ("timeout", "timeout")),
        (urllib3.exceptions.ReadTimeoutError(None, "", "x"), ("timeout", "timeout")),  # type: ignore[arg-type]
        (urllib3.exceptions.ProtocolError("x"), ("unreachable", "connection")),
        (urllib3.exceptions.MaxRetryError(None, "", urllib3.exceptions.SSLError("x")), ("unreachable", "tls")),  # type: ignore[arg-type]
        (PermissionError("x"), ("precondition", "file")),
        (FileNotFoundError("x"), ("not_found", "no_file")),
    ],
)
def test_ways_of_failing(error: Exception, expected: tuple[str, str]) -> None:
    found = translate(error)
    assert found is not None
    assert (found.kind, found.code) == expected


def test_a_bug_stays_one() -> None:
    assert translate(KeyError("x")) is None
    known = OpsError(refusal(409, b"").kind, "x")
    assert translate(known) is known
