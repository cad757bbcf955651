# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reaching a Redis: one server, what a Sentinel calls the primary, or every primary of a cluster.

The driver (redis-py) is imported when it is used, so that a missing one is an error with a hint.
Replies stay as the server sent them, bytes and lists: keys are bytes, and nothing guesses.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha1
from typing import Any, Protocol, TypeAlias

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.plan import Target
from .._core.spec import Params
from .address import Address, address_of, managed_by
from .errors import translate
from .replies import Node, parse_info, parse_nodes, text

Arg: TypeAlias = "bytes | str | int | float"
Command: TypeAlias = "tuple[Arg, ...]"


class Server(Protocol):
    """One Redis process. Whatever speaks these four words can be operated on."""

    address: Address

    def call(self, *command: Arg) -> Any:
        """Sends one command and returns the raw reply. Never sent twice."""

    def script(self, lua: str, *args: Arg) -> Any:
        """Runs a Lua script without declared keys, by its hash once the server knows it."""

    def batch(self, commands: Sequence[Command]) -> list[Any]:
        """Sends commands in one write, without a transaction; a failed one's place holds an OpsError."""

    def close(self) -> None:
        """Lets go of the connection."""


@dataclass(frozen=True, slots=True)
class Redis:
    """The deployment behind the connection options: C(servers) are its primaries.

    C(info) is the entry server's INFO, read once at the start.
    """

    target: Target
    servers: tuple[Server, ...]
    info: Mapping[str, str]
    topology: str = "single"

    @property
    def entry(self) -> Server:
        return self.servers[0]

    @property
    def clustered(self) -> bool:
        return self.topology == "cluster"


class DriverServer:
    """A server through redis-py. No automatic retries: a slow UNLINK must not be sent again."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._known: set[str] = set()
        self._client = _open(address)
        # Replies as the server sent them; the driver's own conversions differ between its versions.
        self._client.response_callbacks.clear()

    def call(self, *command: Arg) -> Any:
        return self._client.execute_command(*command)

    def script(self, lua: str, *args: Arg) -> Any:
        name = sha1(lua.encode(), usedforsecurity=False).hexdigest()
        if name in self._known:
            with suppress(_driver().exceptions.NoScriptError):
                return self.call("EVALSHA", name, 0, *args)
        reply = self.call("EVAL", lua, 0, *args)
        self._known.add(name)
        return reply

    def batch(self, commands: Sequence[Command]) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        pipe.response_callbacks.clear()
        for command in commands:
            pipe.execute_command(*command)
        replies = pipe.execute(raise_on_error=False)
        return [translate(reply) or reply if isinstance(reply, Exception) else reply for reply in replies]

    def close(self) -> None:
        self._client.close()


@contextmanager
def connect(params: Params) -> Iterator[Redis]:
    """Opens the deployment that the options name, proves that it is the expected one, closes it."""
    with ExitStack() as stack:
        address = locate(params, stack)
        expect(params.get("expect_host"), address)
        entry = _enter(stack, address)
        info = parse_info(entry.call("INFO"))
        with suppress(_driver().exceptions.RedisError):
            entry.call("CLIENT", "SETNAME", "sre.runbooks")
        if info.get("redis_mode") == "sentinel":
            hint = "Name it under sentinels, with sentinel_service; the primary is then found through it."
            raise OpsError(Kind.PRECONDITION, f"{address.name} is a Sentinel, not a Redis", hint, code="sentinel")
        if info.get("redis_mode") == "cluster" or info.get("cluster_enabled") == "1":
            yield _cluster(params, stack, entry, info)
        else:
            yield Redis(target_of(address, info, info.get("run_id", "")), (entry,), info)


def primary_only(redis: Redis) -> None:
    """Refuses to write through a replica: it is read-only, or worse, writable and lies."""
    if redis.clustered or redis.info.get("role") == "master":
        return
    primary = f"{redis.info.get('master_host')}:{redis.info.get('master_port')}"
    text_ = f"{redis.target.name} is a replica of {primary}"
    raise OpsError(Kind.PRECONDITION, text_, f"Aim at its primary, {primary}.", code="replica")


def require(server: Server, *commands: Command) -> None:
    """Asks the server whether this user may send the commands, before any of them is sent.

    Redis 6.2 has no C(ACL DRYRUN), and a user may not be allowed to ask: then the first write answers.
    """
    try:
        user = text(server.call("ACL", "WHOAMI"))
        replies = server.batch([("ACL", "DRYRUN", user, *command) for command in commands])
    except Exception as error:
        if translate(error) is None:
            raise
        return
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, bytes) and reply != b"OK":
            name = " ".join(str(word) for word in command[:2] if not isinstance(word, bytes))
            hint = f"Grant it (ACL SETUSER {user} +{name.lower().replace(' ', '|')}) or use another user."
            raise OpsError(Kind.FORBIDDEN, f"user {user} may not send {name}: {text(reply)}", hint, code="acl")


def _driver() -> Any:
    return importlib.import_module("redis")


def _open(address: Address) -> Any:
    redis = _driver()
    retry = importlib.import_module("redis.retry").Retry(importlib.import_module("redis.backoff").NoBackoff(), 0)
    tls: dict[str, Any] = {}
    if address.tls is not None:
        tls = {
            "ssl": True,
            "ssl_ca_certs": address.tls.ca_cert or None,
            "ssl_certfile": address.tls.cert or None,
            "ssl_keyfile": address.tls.key or None,
            "ssl_cert_reqs": "required" if address.tls.verify else "none",
            "ssl_check_hostname": address.tls.verify,
        }
    where = {"unix_socket_path": address.path} if address.path else {"host": address.host, "port": address.port}
    return redis.Redis(
        **where,
        **tls,
        db=address.db,
        username=address.username or None,
        password=address.password or None,
        socket_timeout=address.op_timeout,
        socket_connect_timeout=address.connect_timeout,
        retry=retry,
        protocol=2,
    )


def _enter(stack: ExitStack, address: Address) -> DriverServer:
    server = DriverServer(address)
    stack.callback(server.close)
    return server


def locate(params: Params, stack: ExitStack) -> Address:
    """The address given, or the one that the Sentinels vouch for."""
    address = address_of(params, os.environ)
    sentinels: Sequence[str] = params.get("sentinels") or ()
    if not sentinels:
        return address
    service, problems = params.get("sentinel_service") or "", []
    for name in sentinels:
        guide = _sentinel(address, name, params.get("sentinel_password") or "")
        try:
            reply = _enter(stack, guide).call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        except Exception as error:
            problem = translate(error)
            if problem is None:
                raise
            problems.append(problem.message)
            continue
        if reply:
            return replace(address, host=text(reply[0]), port=int(reply[1]))
        problems.append(f"{name} knows no service {service!r}")
    hint = "Check sentinels and sentinel_service."
    raise OpsError(Kind.UNREACHABLE, f"no Sentinel named a primary: {'; '.join(problems)}", hint, code="sentinel")


def _sentinel(address: Address, name: str, password: str) -> Address:
    """A Sentinel's address; it has its own password and no databases."""
    host, colon, port = name.rpartition(":")
    if colon and not port.isdigit():
        raise bad_parameter("sentinels", f"{name!r} is not host:port")
    place: dict[str, Any] = {"host": host, "port": int(port)} if colon else {"host": name, "port": 26379}
    return replace(address, **place, path="", db=0, username="", password=password)


def _cluster(params: Params, stack: ExitStack, entry: DriverServer, info: Mapping[str, str]) -> Redis:
    if params.get("cluster") == "never":
        hint = "Set cluster to auto, to work on every primary of it."
        text_ = f"{entry.address.name} is a node of a cluster"
        raise OpsError(Kind.PRECONDITION, text_, hint, code="cluster_node")
    primaries = primaries_of(entry)
    if not primaries:
        hint = "Check CLUSTER INFO: no slots are served."
        raise OpsError(Kind.PRECONDITION, f"{entry.address.name}: no primary with slots", hint, code="clusterdown")
    servers = [
        entry if node.myself else _enter(stack, replace(entry.address, host=node.host, port=node.port))
        for node in primaries
    ]
    # The entry comes first where it is a primary, so that what is asked of "the server" is asked there.
    servers.sort(key=lambda server: server is not entry)
    return Redis(target_of(entry.address, info, identity_of(primaries)), tuple(servers), info, "cluster")


def primaries_of(server: Server) -> tuple[Node, ...]:
    """The nodes that serve slots, as this node of the cluster sees it now."""
    nodes = parse_nodes(text(server.call("CLUSTER", "NODES")), server.address.host)
    return tuple(node for node in nodes if node.primary and node.slots)


def identity_of(primaries: Sequence[Node]) -> str:
    """A cluster is the set of its primaries: another set holds the keys elsewhere."""
    return sha1(" ".join(sorted(node.id for node in primaries)).encode(), usedforsecurity=False).hexdigest()


def target_of(address: Address, info: Mapping[str, str], identity: str) -> Target:
    """The server as its INFO names it."""
    version = info.get("valkey_version") or info.get("redis_version", "")
    return Target("redis", address.name, identity, version, info.get("role", ""), managed_by(address.host))


def expect(pattern: str | None, address: Address) -> None:
    """Refuses an address that is not the one that O(expect_host) asks for."""
    if pattern and not re.fullmatch(pattern, address.name):
        hint = "Look at the connection options and at REDIS_URL: one of them points elsewhere."
        text_ = f"{address.name} is not the server that expect_host asks for ({pattern})"
        raise OpsError(Kind.PRECONDITION, text_, hint, code="wrong_target")
