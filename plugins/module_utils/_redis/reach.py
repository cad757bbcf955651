# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far one gets on the way to a server, stage by stage, and where it ends. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from .._core.errors import Kind, OpsError
from .._core.plan import Finding, Severity, Target
from .._core.spec import Params
from .._core.stages import Stage, milliseconds_since, where_it_ended
from . import wire
from .address import Address
from .client import DriverServer, Server, expect, locate, target_of
from .errors import meaning_of, translate
from .facts import Look, read_facts, read_memory
from .replies import Node, number, pairs, parse_info, parse_nodes, text

#: Days of a certificate's life below which its end is a finding.
_SOON = 14

_SLOTS = 16384

#: Refusals that say that somebody else, or nobody, has been let in.
_AUTH = frozenset({"noauth", "wrongpass", "no_password_set"})

#: Replies that a healthy server gives to a read as well.
_NOT_SICK = frozenset({"acl", "cluster_node"})

STAGES = ("sentinel", "resolve", "tcp", "tls", "auth", "acl", "serving", "writes")


@dataclass(slots=True)
class Way:
    """The way to one server, and what was met on it. Everything here is learned stage by stage."""

    params: Params
    stack: ExitStack
    now: datetime
    address: Address = field(default_factory=Address)
    places: tuple[str, ...] = ()
    #: How the server refused the first command; None where it answered.
    refusal: OpsError | None = None
    info: Mapping[str, str] = field(default_factory=dict)
    rights: Mapping[str, bool] | None = None
    findings: list[Finding] = field(default_factory=list)
    open: Callable[[Address], Server] = DriverServer
    _opened: Server | None = None

    @property
    def server(self) -> Server:
        """The server at the end of the way; the first stage that speaks to it opens the connection."""
        if self._opened is None:
            self._opened = self.open(self.address)
            self.stack.callback(self._opened.close)
        return self._opened

    def note(self, id_: str, severity: Severity, evidence: Mapping[str, Any], suggest: str) -> None:
        self.findings.append(Finding(id_, severity, self.address.name, evidence, suggest))


@contextmanager
def approach(params: Params) -> Iterator[Way]:
    """The product's way in: it connects nowhere yet, so that nothing can fail."""
    with ExitStack() as stack:
        yield Way(params, stack, datetime.now(UTC))


def walk(way: Way) -> tuple[Stage, ...]:
    """Goes as far as possible. After the first stage that fails, the others are not tried."""
    stages: list[Stage] = []
    for name in STAGES:
        if any(stage.ok is False for stage in stages):
            stages.append(Stage(name, None, detail="not reached"))
        else:
            stages.append(_timed(name, way))
    return tuple(stages)


def _timed(name: str, way: Way) -> Stage:
    start = time.monotonic()
    try:
        detail = _LOOKS[name](way)
    except Exception as error:
        known = translate(error)
        if known is None or known.code == "wrong_target":
            raise
        return Stage(name, False, milliseconds_since(start), known.message, known.code, known.hint)
    return Stage(name, None if detail is None else True, milliseconds_since(start), detail or "not needed")


def _sentinel(way: Way) -> str | None:
    """The primary's address, from those who watch it; without Sentinels, from the options."""
    address = locate(way.params, way.stack)
    expect(way.params.get("expect_host"), address)
    # Whoever asks whether a server answers does not want to wait long for it.
    way.address = replace(address, op_timeout=min(address.op_timeout, address.connect_timeout))
    return f"the primary is {address.name}" if way.params.get("sentinels") else None


def _resolve(way: Way) -> str | None:
    if way.address.path:
        way.places = (way.address.path,)
        return None
    way.places = wire.resolve(way.address)
    return f"{way.address.host} is {', '.join(way.places)}"


def _tcp(way: Way) -> str:
    """All addresses are tried: one that is dead costs every client its timeout, now and then."""
    failed: dict[str, OpsError] = {}
    for place in way.places:
        try:
            wire.dial(way.address, place).close()
        except OpsError as error:
            failed[place] = error
    alive = [place for place in way.places if place not in failed]
    if not alive:
        raise next(iter(failed.values()))
    if failed:
        advice = "Clients that try it first wait for it in vain: mend it, or take it out of DNS."
        evidence = {place: error.message for place, error in failed.items()}
        way.note("redis.address_down", Severity.WARNING, evidence, advice)
    way.places = tuple(alive)
    return f"connected to {', '.join(alive)}"


def _tls(way: Way) -> str | None:
    if way.address.tls is None:
        return None
    certificate = wire.handshake(way.address, way.places[0], way.address.tls)
    days = certificate.days_left(way.now)
    if days is None or certificate.expires is None:
        return f"{certificate.version}, the certificate was not verified"
    expires = certificate.expires.strftime("%Y-%m-%dT%H:%M:%SZ")
    if days < _SOON:
        evidence = {"expires": expires, "days_left": round(days, 1)}
        way.note("redis.certificate_expires", Severity.WARNING, evidence, "Renew the server's certificate.")
    return f"{certificate.version}, the certificate ends {expires}"


def _auth(way: Way) -> str | None:
    """Sends the first command. What it is refused for may belong to a later stage."""
    try:
        # Not PING: that is refused, as a write is, while snapshots fail.
        way.server.call("ECHO", "sre.runbooks")
    except Exception as error:
        way.refusal = _told_better(way, error)
        if way.refusal.code in _AUTH or way.refusal.code == "tls":
            raise way.refusal from error
        return None
    return f"as {way.address.username or 'default'}"


def _told_better(way: Way, error: Exception) -> OpsError:
    """A connection that was just closed says little; listening without a word often says why."""
    known = translate(error)
    if known is None:
        raise error
    if known.code == "tls":
        known.hint = "The server closed it after the handshake: it may want a client's certificate (cert and key)."
    if known.code not in ("connection", "protocol", "timeout") or way.address.tls is not None:
        return known
    # A server that takes a connection and never answers would say nothing here either.
    words = "" if known.code == "timeout" else wire.greeting(way.address, way.places[0])
    reply = meaning_of(words.removeprefix("-"))
    if reply is not None:
        return reply
    if known.code != "protocol" and wire.speaks_tls(way.address, way.places[0]):
        hint = "Set tls, or write rediss://, and give ca_cert where the authority is your own."
        return OpsError(Kind.UNREACHABLE, "the port speaks TLS", hint, "tls")
    return known


def _acl(way: Way) -> str | None:
    """What this user may do, asked and not tried."""
    if way.refusal is not None and way.refusal.code != "acl":
        return None
    way.info = parse_info(way.server.call("INFO"))
    seen = read_facts(way.server, way.info, Look(frozenset({"rights"})))
    way.rights = seen.rights
    if seen.rights is None:
        evidence = {"why": (seen.unseen or {}).get("rights", ""), "needs": list(way.params.get("needs") or ())}
        way.note("redis.unseen.rights", Severity.INFO, evidence, "Allow this user ACL WHOAMI and ACL DRYRUN (7.0).")
        return "the server does not tell what this user may do"
    missing = [name for name, may in seen.rights.items() if not may]
    needed = sorted(set(missing) & set(way.params.get("needs") or ()))
    if needed:
        hint = "Grant the commands to this user with ACL SETUSER, or use another user."
        raise OpsError(Kind.FORBIDDEN, f"this user may not: {', '.join(needed)}", hint, "acl")
    return f"this user may not: {', '.join(missing)}" if missing else "this user may do all that is needed"


def _serving(way: Way) -> str:
    if way.refusal is not None and way.refusal.code != "acl":
        raise _with_details(way.refusal, way.server)
    try:
        way.server.call("EXISTS", "sre.runbooks:reach")
    except Exception as error:
        known = translate(error)
        if known is None:
            raise
        if known.code not in _NOT_SICK:
            raise _with_details(known, way.server) from error
    if way.info.get("cluster_enabled") == "1":
        _whole_cluster(way)
    return f"{way.info.get('redis_mode', '')} {way.info.get('role', '')}".strip()


def _with_details(refusal: OpsError, server: Server) -> OpsError:
    """While it loads, a server answers INFO, and there says how long it will take."""
    if refusal.code != "loading":
        return refusal
    try:
        info = parse_info(server.call("INFO", "persistence"))
    except Exception as error:
        if translate(error) is None:
            raise
        return refusal
    done, left = info.get("loading_loaded_perc", "?"), info.get("loading_eta_seconds", "?")
    return _reworded(refusal, f"the data set is being read: {done} % done, about {left} s left")


def _reworded(error: OpsError, message: str) -> OpsError:
    """The same error in better words."""
    return OpsError(error.kind, message, error.hint, error.code, error.retryable)


def _whole_cluster(way: Way) -> None:
    """Asks every primary: each answers for its own slots only, and a client has to reach all of them."""
    nodes = parse_nodes(text(way.server.call("CLUSTER", "NODES")), way.address.host)
    problems = {f"{node.host}:{node.port}": _part_of_cluster(way, node) for node in nodes if "master" in node.flags}
    wrong = {name: words for name, words in problems.items() if words}
    if wrong:
        message = "; ".join(f"{name}: {words}" for name, words in wrong.items())
        hint = "Look at CLUSTER NODES for nodes that failed, and at slots that nobody has."
        raise OpsError(Kind.PRECONDITION, message, hint, "clusterdown", retryable=True)


def _part_of_cluster(way: Way, node: Node) -> str:
    """What is wrong with one primary, as it is seen from here; empty if nothing is."""
    if node.flags & {"fail", "noaddr", "handshake"}:
        return "the cluster holds it for failed" if node.slots else ""
    server = way.server if node.myself else way.open(replace(way.address, host=node.host, port=node.port))
    try:
        found = parse_info(server.call("CLUSTER", "INFO"))
    except Exception as error:
        known = translate(error)
        if known is None:
            raise
        return known.message
    finally:
        if not node.myself:
            server.close()
    served = number(found, "cluster_slots_ok")
    if found.get("cluster_state") == "ok" and served == _SLOTS:
        return ""
    return f"the cluster is {found.get('cluster_state')}, {_SLOTS - served} of {_SLOTS} slots are not served"


def _writes(way: Way) -> str:
    """What would refuse a write, by the server's own numbers."""
    for look in (_replica, _misconf, _oom, _noreplicas):
        problem = look(way.info, way.server)
        if problem:
            code = look.__name__.strip("_")
            known = meaning_of(_WORDS[code])
            hint = known.hint if known else ""
            raise OpsError(Kind.PRECONDITION, problem, hint, code)
    return "nothing would refuse a write"


#: The reply that a write would get, by the code of its cause.
_WORDS = {"replica": "READONLY", "misconf": "MISCONF", "oom": "OOM", "noreplicas": "NOREPLICAS"}


def _replica(info: Mapping[str, str], _server: Server) -> str:
    if info.get("role") != "slave" or info.get("slave_read_only") == "0":
        return ""
    return f"it is a replica of {info.get('master_host')}:{info.get('master_port')}"


def _misconf(info: Mapping[str, str], server: Server) -> str:
    if info.get("aof_last_write_status", "ok") != "ok":
        return "the append-only file cannot be written"
    if info.get("rdb_last_bgsave_status", "ok") == "ok":
        return ""
    # Redis refuses writes only where it is set to, and where snapshots are wanted at all; both are the default.
    stops = _setting(server, "stop-writes-on-bgsave-error", "yes") == "yes" and _setting(server, "save", "?") != ""
    return "the latest snapshot failed, and the server is set to refuse writes then" if stops else ""


def _oom(info: Mapping[str, str], server: Server) -> str:
    memory = read_memory(server, info)
    if not memory.limit or memory.counted < memory.limit or memory.evictable > 0:
        return ""
    return f"{memory.counted} of {memory.limit} bytes are in use, and {memory.policy} has nothing to evict"


def _noreplicas(info: Mapping[str, str], server: Server) -> str:
    if "min_slaves_good_slaves" not in info:
        return ""
    good = number(info, "min_slaves_good_slaves")
    wanted = _setting(server, "min-replicas-to-write", "1")
    return f"{good} replicas are in step, {wanted} are needed" if good < int(wanted) else ""


def _setting(server: Server, name: str, otherwise: str) -> str:
    """A setting, or the value to assume where this user may not read it."""
    try:
        return dict(pairs(server.call("CONFIG", "GET", name))).get(name, otherwise)
    except Exception as error:
        if translate(error) is None:
            raise
        return otherwise


_LOOKS: Mapping[str, Callable[[Way], str | None]] = {
    "sentinel": _sentinel,
    "resolve": _resolve,
    "tcp": _tcp,
    "tls": _tls,
    "auth": _auth,
    "acl": _acl,
    "serving": _serving,
    "writes": _writes,
}


def findings(way: Way, stages: tuple[Stage, ...]) -> tuple[Finding, ...]:
    """What was met on the way, and where the way ended."""
    return (*way.findings, *where_it_ended("redis", way.address.name, stages))


def target(way: Way) -> Target:
    """The server as far as it has shown itself."""
    return target_of(way.address, way.info, way.info.get("run_id", ""))


def summary(way: Way, stages: tuple[Stage, ...]) -> dict[str, Any]:
    """What the module returns. C(writable) is None where nobody could find out."""
    by_name = {stage.name: stage for stage in stages}
    reachable = by_name["serving"].ok is True
    return {
        "reachable": reachable,
        "writable": by_name["writes"].ok if reachable else False,
        "stages": [stage.as_dict() for stage in stages],
        "addresses": list(way.places),
        "rights": dict(way.rights or {}),
    }
