# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the API server's statuses, and the ways in which a connection fails, mean."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

from .._core.errors import Kind, Meaning, OpsError, later

Json = dict[str, Any]

_BUDGET = later(Kind.PRECONDITION, "disruption_budget", "A PodDisruptionBudget holds the pod. Wait for its others.")
_EXISTS = Meaning(Kind.CONFLICT, "exists", "There is one of this name. Choose another, or change the one there is.")
_THROTTLED = later(Kind.EXHAUSTED, "throttled", "The API server has too much to do. Try again in a while.")
_UNAVAILABLE = later(Kind.UNREACHABLE, "unavailable", "The API server, or one behind it, does not serve now.")
_ADMISSION = Meaning(Kind.PRECONDITION, "admission", "An admission webhook or policy of the cluster refuses it.")
_DRY_RUN = Meaning(Kind.UNSUPPORTED, "dry_run", "An admission webhook with side effects refuses dry runs.")
_QUOTA = Meaning(Kind.EXHAUSTED, "quota", "The namespace's ResourceQuota has no room. Free some, or have it raised.")

_CODES: Mapping[int, Meaning] = {
    300: Meaning(
        Kind.UNSUPPORTED, "not_kubernetes", "It points elsewhere, as login pages do. Check host, kubeconfig and proxy."
    ),
    400: Meaning(Kind.PRECONDITION, "bad_request", "The API server does not take this request."),
    401: Meaning(Kind.AUTH, "token", "The token or certificate is not valid, or has expired. Log in anew."),
    403: Meaning(Kind.FORBIDDEN, "rbac", "Have the right granted to this user by a Role or ClusterRole."),
    404: Meaning(Kind.NOT_FOUND, "not_found", "Check name, namespace and cluster."),
    405: Meaning(Kind.UNSUPPORTED, "not_allowed", "This API does not do that."),
    406: Meaning(Kind.UNSUPPORTED, "not_acceptable", "This API does not answer in JSON."),
    408: later(Kind.TIMEOUT, "timeout", "The API server ran out of time."),
    409: later(Kind.CONFLICT, "conflict", "Somebody changed the object meanwhile. Run again."),
    410: later(Kind.CONFLICT, "expired", "The list grew too old while it was read. Run again."),
    413: Meaning(Kind.PRECONDITION, "too_large", "The object is larger than the API server takes."),
    415: Meaning(Kind.UNSUPPORTED, "media_type", "This kind of object cannot be patched in this way."),
    422: Meaning(Kind.PRECONDITION, "invalid", "The API server's validation refuses it. Nothing was changed."),
    429: _THROTTLED,
    500: later(Kind.UNREACHABLE, "server_error", "The API server failed; see its log."),
    502: _UNAVAILABLE,
    503: _UNAVAILABLE,
    504: later(Kind.TIMEOUT, "server_timeout", "The API server ran out of time; etcd may be slow."),
}

#: Words of a status that say more than its number. The first that is found counts.
_WORDS: tuple[tuple[str, Meaning], ...] = (
    (
        "HTTP request to an HTTPS server",
        Meaning(Kind.UNREACHABLE, "plain_http", "Write https:// in host, or in the kubeconfig's server."),
    ),
    (
        'User "system:anonymous"',
        Meaning(Kind.AUTH, "anonymous", "Nothing says who asks. Give api_key, or a kubeconfig whose user has a token."),
    ),
    ("does not support dry run", _DRY_RUN),
    ("denied the request", _ADMISSION),
    ("ValidatingAdmissionPolicy", _ADMISSION),
    ("failed calling webhook", later(Kind.UNREACHABLE, "webhook", "An admission webhook of the cluster is down.")),
    ("exceeded quota", _QUOTA),
    (
        "violates PodSecurity",
        Meaning(Kind.PRECONDITION, "pod_security", "The namespace's Pod Security level forbids it."),
    ),
    (
        "more than one PodDisruptionBudget",
        Meaning(Kind.PRECONDITION, "several_budgets", "Two PodDisruptionBudgets select this pod. Leave one of them."),
    ),
    ("is being terminated", later(Kind.CONFLICT, "terminating", "It, or its namespace, is being deleted.")),
)

#: Where the cause of a failed connection has a class of its own. The first that fits counts.
_BELOW: Mapping[type[BaseException], Meaning] = {
    ssl.SSLCertVerificationError: Meaning(
        Kind.UNREACHABLE, "tls", "The server's certificate is not from this authority, or for another name."
    ),
    ssl.SSLError: Meaning(
        Kind.UNREACHABLE, "tls", "Check client_cert and client_key, and that what listens there speaks TLS."
    ),
    socket.gaierror: Meaning(Kind.UNREACHABLE, "dns", "The API server's name does not resolve. Check host."),
    ConnectionRefusedError: later(Kind.UNREACHABLE, "refused", "Nothing listens there. Check host and port."),
    TimeoutError: later(Kind.TIMEOUT, "timeout", "No answer in time. See whether the API server is well."),
    PermissionError: Meaning(Kind.PRECONDITION, "file", "Let this user read the file."),
    FileNotFoundError: Meaning(Kind.NOT_FOUND, "no_file", "Correct the name of the file."),
}
#: urllib3's exceptions by name, where the cause beneath was dropped.
_WRAPPERS: Mapping[str, Meaning] = {
    "SSLError": _BELOW[ssl.SSLError],
    "NameResolutionError": _BELOW[socket.gaierror],
    "NewConnectionError": _BELOW[ConnectionRefusedError],
    "ConnectTimeoutError": _BELOW[TimeoutError],
    "ReadTimeoutError": _BELOW[TimeoutError],
}
_BROKE = later(Kind.UNREACHABLE, "connection", "The connection broke. See whether the API server still runs.")


def refusal(code: int, body: bytes) -> OpsError:
    """The answer to a request that was not granted. C(facts) holds the status' own details."""
    status = _status(body)
    words = str(status.get("message") or f"HTTP {code} {_bare(body)}".rstrip())
    # A name that is not there may be any words.
    meaning = None if code in (401, 404) else next((found for text, found in _WORDS if text in words), None)
    if meaning is None:
        meaning = _detailed(code, status)
    error = (meaning or _CODES.get(code) or _CODES[min(500, code // 100 * 100)]).error(words)
    error.facts = {"status": {"code": code, "reason": status.get("reason", "")}}
    return error


def expired_token(body: bytes) -> str:
    """The token with which a list that expired can be gone on with, from its next object on; empty without one."""
    return str((_status(body).get("metadata") or {}).get("continue") or "")


def translate(error: Exception) -> OpsError | None:
    """An exception of the client as one of ours; None for a bug."""
    if isinstance(error, OpsError):
        return error
    package = type(error).__module__.partition(".")[0]
    if package not in ("urllib3", "kubernetes") and not isinstance(error, OSError):
        return None
    words = str(error)
    links = list(_links(error))
    for link in links:
        for kind, meaning in _BELOW.items():
            if isinstance(link, kind):
                return meaning.error(words)
    names = (type(link).__name__ for link in links)
    return next((_WRAPPERS[name] for name in names if name in _WRAPPERS), _BROKE).error(words)


def _bare(body: bytes) -> str:
    """The beginning of a page that is not from an API server, without its tags."""
    text = re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", body[:2000].decode("utf-8", "replace"), flags=re.DOTALL)
    return " ".join(text.split())[:200]


def _status(body: bytes) -> Json:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _detailed(code: int, status: Json) -> Meaning | None:
    """What the reason and the causes of a status say beyond its number."""
    if status.get("reason") == "AlreadyExists":
        return _EXISTS
    causes = (status.get("details") or {}).get("causes") or []
    if code == 429 and any(cause.get("reason") == "DisruptionBudget" for cause in causes):
        return _BUDGET
    # To a patch that says which object it is for, and meets another, validation answers.
    if code == 422 and any(cause.get("field") == "metadata.uid" for cause in causes):
        return _CODES[409]
    return None


def _links(error: BaseException) -> Iterator[BaseException]:
    """The exception, what urllib3 keeps as its reason, and those that lie underneath."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        reason = getattr(link, "reason", None)
        waiting += [reason if isinstance(reason, BaseException) else None, link.__cause__, link.__context__]
