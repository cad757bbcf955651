# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis and Valkey servers of our own: one, a pair, under sentinels, as a cluster, with ACL users, with TLS."""

from __future__ import annotations

import contextlib
import functools
import re
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.lab.certificates import Certificates, make_certificates
from tests.lab.process import BUS_OFFSET, HOST, LabError, ProcessId, find_program, free_port, spawn, wait_until

Config = Mapping[str, str]

MASTER_NAME = "lab"
SLOTS = 16384
OPERATOR = "operator"
USERS: Mapping[str, str] = {
    OPERATOR: "~* &* +@all",
    "reader": "~* &* +@read +@connection +command -@dangerous -@scripting +info",
    "noscript": "~* &* +@all -@scripting",
    "noconfig": "~* &* +@all -config",
}
_ADVICE = "`make setup` installs it where apt is at hand and you are root; otherwise install the package redis-server"
_STARTS = 3
_START_SECONDS = 10.0


class PortTaken(LabError):
    """Somebody bound the port between our look and the server's start."""


def ask(client: redis.Redis, *words: str | bytes | int | float) -> Any:
    """One command; redis-py types no answer, and parses those of `"CLUSTER NODES"` and the like, given as one word."""
    send: Callable[..., Any] = client.execute_command
    return send(*words)


@dataclass(frozen=True)
class Recipe:
    """All that a server is started from."""

    scratch: Path
    directives: tuple[str, ...] = ()
    password: str | None = None
    passwords: Mapping[str, str] = field(default_factory=dict)
    tls: Certificates | None = None
    sentinel: bool = False
    cluster: bool = False
    detached: bool = False


class RedisServer:
    """A server that this lab started. Ends with its starter unless the recipe says detached."""

    host = HOST

    def __init__(self, recipe: Recipe, port: int) -> None:
        self.recipe = recipe
        self.port = port
        self.run_id = ""
        self.identity = ProcessId(0, "")
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def scratch(self) -> Path:
        return self.recipe.scratch

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def servers(self) -> tuple[RedisServer, ...]:
        return (self,)

    @property
    def passwords(self) -> Mapping[str, str]:
        """Password by ACL user; empty without ACL users."""
        return self.recipe.passwords

    @property
    def tls(self) -> Certificates | None:
        return self.recipe.tls

    @property
    def url(self) -> str:
        """What a user would set as REDIS_URL."""
        login = self._login(None)
        secret = f"{quote(login.get('username', ''))}:{quote(login['password'], safe='')}@" if login else ""
        return f"{'rediss' if self.tls else 'redis'}://{secret}{self.host}:{self.port}/0"

    def connection(self, user: str | None = None, db: int | None = None) -> dict[str, Any]:
        """Connection options of our modules, for the lab's own account or for an ACL `user`."""
        options: dict[str, Any] = {"host": self.host, "port": self.port, **self._login(user)}
        if self.tls:
            options |= {"tls": True, "ca_cert": str(self.tls.ca_cert)}
            options |= {"cert": str(self.tls.client_cert), "key": str(self.tls.client_key)}
        return options if db is None else {**options, "db": db}

    def client(self, user: str | None = None, **options: Any) -> redis.Redis:
        """A client that never repeats a command by itself; `options` go to redis.Redis."""
        known: dict[str, Any] = {"host": self.host, "port": self.port, "retry": Retry(NoBackoff(), 0)}
        known |= self._login(user)
        if self.tls:
            known |= {"ssl": True, "ssl_ca_certs": str(self.tls.ca_cert)}
            known |= {"ssl_certfile": str(self.tls.client_cert), "ssl_keyfile": str(self.tls.client_key)}
        return redis.Redis(**{**known, **options})

    def command(self, *words: str | bytes | int | float) -> Any:
        """One command of the lab's own account on a connection of its own."""
        with contextlib.closing(self.client()) as client:
            return ask(client, *words)

    def info(self, section: str = "server") -> dict[str, Any]:
        with contextlib.closing(self.client()) as client:
            return dict(ask(client, "INFO", section))

    def prove_own(self) -> None:
        """LabError unless the server that answers on our port is the process that we started."""
        try:
            told = self.info()
        except redis.RedisError as error:
            raise LabError(f"the server on {self.host}:{self.port} gives no proof of itself: {error}") from error
        proof = (told["process_id"], str(told["config_file"]), told["run_id"])
        if proof != (self.pid, str(self._config_file), self.run_id) or not self.alive():
            raise LabError(f"the server on {self.host}:{self.port} is not ours: {proof}")

    def alive(self) -> bool:
        return self.identity.alive()

    def start(self) -> Self:
        """Start on the same port with the configuration as the server left it; PortTaken or LabError."""
        mode = ["--sentinel"] if self.recipe.sentinel else []
        self._child = spawn([_binary(), str(self._config_file), *mode], self.scratch, self.recipe.detached)
        self.identity = ProcessId.of(self._child.pid)
        try:
            wait_until(self._ready, _START_SECONDS, f"start on port {self.port}, see {self.scratch}", pause=0.01)
        except BaseException:
            self.kill()
            raise
        self.prove_own()
        return self

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after 3 s; harmless when repeated."""
        self.identity.end()
        self._reap()

    def kill(self) -> None:
        """SIGKILL: the server has no time to say good-bye."""
        self.identity.send(signal.SIGKILL)
        self._reap()

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def freeze(self) -> None:
        """SIGSTOP: the port still accepts connections, nobody answers."""
        self.identity.send(signal.SIGSTOP)
        wait_until(lambda: self.identity.state() == "T", 2, f"freeze of process {self.pid}")

    def thaw(self) -> None:
        self.identity.send(signal.SIGCONT)

    def log_tail(self, lines: int = 20) -> str:
        """The last `lines` of the server's log, also of what it said before it opened its log."""
        texts = [path.read_text(errors="replace") for path in self._logs() if path.exists()]
        return "\n".join("".join(texts).splitlines()[-lines:])

    def write_config(self) -> None:
        self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        for log in self._logs():  # an earlier attempt's "address in use" must not be read as this one's
            log.unlink(missing_ok=True)
        port = ["port 0", f"tls-port {self.port}"] if self.tls else [f"port {self.port}"]
        lines = [f"bind {HOST}", *port, f'dir "{self.scratch}"', f'logfile "{self.scratch}/server.log"']
        self._config_file.touch(mode=0o600)
        self._config_file.write_text("\n".join([*lines, *self.recipe.directives]) + "\n")

    @property
    def _config_file(self) -> Path:
        return self.scratch / "server.conf"

    def _logs(self) -> tuple[Path, ...]:
        return self.scratch / "output.log", self.scratch / "server.log"

    def _login(self, user: str | None) -> dict[str, str]:
        if user or self.passwords:
            name = user or OPERATOR
            return {"username": name, "password": self.passwords[name]}
        return {"password": self.recipe.password} if self.recipe.password else {}

    def _ready(self) -> bool:
        if not self.alive():
            log = self.log_tail(20)
            kind = PortTaken if "Address already in use" in log else LabError
            raise kind(f"the server for port {self.port} ended at once:\n{log}")
        try:
            told = {**self.info(), **({} if self.recipe.sentinel else self.info("persistence"))}
        except redis.RedisError:
            return False
        self.run_id = told["run_id"]
        # Whoever else may answer on this port has another pid.
        return bool(told["process_id"] == self.pid and not told.get("loading"))

    def _reap(self) -> None:
        if self._child is not None:
            self._child.wait(timeout=5)


@dataclass(frozen=True)
class ReplicaPair:
    primary: RedisServer
    replica: RedisServer

    @property
    def servers(self) -> tuple[RedisServer, ...]:
        return self.primary, self.replica

    def stop(self) -> None:
        _stop_all(self.servers)


@dataclass(frozen=True)
class SentinelSet:
    primary: RedisServer
    replica: RedisServer
    sentinels: tuple[RedisServer, ...]
    name: str = MASTER_NAME

    @property
    def servers(self) -> tuple[RedisServer, ...]:
        return *self.sentinels, self.primary, self.replica

    def stop(self) -> None:
        _stop_all(self.servers)


@dataclass(frozen=True)
class Cluster:
    """Six nodes; the first three were made primaries, the others follow them in the same order."""

    nodes: tuple[RedisServer, ...]

    @property
    def primaries(self) -> tuple[RedisServer, ...]:
        return self.nodes[:3]

    @property
    def servers(self) -> tuple[RedisServer, ...]:
        return self.nodes

    def stop(self) -> None:
        _stop_all(self.servers)


def start_single(
    scratch: Path,
    *,
    config: Config | None = None,
    password: str | None = None,
    users: Mapping[str, str] | None = None,
    tls: Certificates | None = None,
    detached: bool = False,
) -> RedisServer:
    """One server. `users` maps a name to ACL rules; each gets a random password, `default` is off, `operator` added."""
    rules = {OPERATOR: USERS[OPERATOR], **users} if users else {}
    passwords = {name: secrets.token_urlsafe(18) for name in rules}
    accounts = [f"user {name} on >{passwords[name]} {rule}" for name, rule in rules.items()]
    recipe = Recipe(
        scratch,
        (*_directives(config, password), *accounts, *(["user default off"] if users else []), *_tls_directives(tls)),
        password,
        passwords,
        tls,
        detached=detached,
    )
    return _launch(recipe)


def start_acl(scratch: Path, *, config: Config | None = None, detached: bool = False) -> RedisServer:
    """One server with `default` off and the users `operator`, `reader`, `noscript` and `noconfig`."""
    return start_single(scratch, config=config, users=USERS, detached=detached)


def start_tls(scratch: Path, *, config: Config | None = None, detached: bool = False) -> RedisServer:
    """One server that speaks TLS only and wants a client certificate; files at `.tls`."""
    return start_single(scratch, config=config, tls=make_certificates(scratch / "tls"), detached=detached)


def start_replica_pair(
    scratch: Path, *, config: Config | None = None, password: str | None = None, detached: bool = False
) -> ReplicaPair:
    """A primary and a replica whose link is up."""
    with _all_or_none() as started:
        base = _directives(config, password)
        primary = started(Recipe(scratch / "primary", base, password, detached=detached))
        follow = f"replicaof {HOST} {primary.port}"
        replica = started(Recipe(scratch / "replica", (*base, follow), password, detached=detached))
        wait_until(lambda: _linked(replica) and _online(primary), 15, "link between replica and primary")
    return ReplicaPair(primary, replica)


def start_sentinel(
    scratch: Path, *, config: Config | None = None, password: str | None = None, detached: bool = False
) -> SentinelSet:
    """A pair under three sentinels that know each other; a primary is held dead after 1000 ms of silence."""
    with _all_or_none() as started:
        pair = start_replica_pair(scratch, config=config, password=password, detached=detached)
        started.adopt(pair.servers)
        watch = _watch(pair.primary, password)
        sentinels = tuple(
            started(Recipe(scratch / f"sentinel-{n}", watch, sentinel=True, detached=detached)) for n in (1, 2, 3)
        )
        wait_until(lambda: all(map(_sees_all, sentinels)), 20, "sentinels that know the pair and each other", 0.05)
    return SentinelSet(pair.primary, pair.replica, sentinels)


def start_cluster(
    scratch: Path, *, config: Config | None = None, password: str | None = None, detached: bool = False
) -> Cluster:
    """Three primaries with a replica each, all slots served."""
    directives = (*_directives(config, password), "cluster-enabled yes", "cluster-node-timeout 2000")
    with _all_or_none() as started:
        nodes = tuple(
            started(Recipe(scratch / f"node-{n}", directives, password, cluster=True, detached=detached))
            for n in range(1, 7)
        )
        _join(nodes)
    return Cluster(nodes)


class _Started:
    """Starts servers and remembers them, for the case that a later one fails."""

    def __init__(self) -> None:
        self.servers: list[RedisServer] = []

    def __call__(self, recipe: Recipe) -> RedisServer:
        self.servers.append(_launch(recipe))
        return self.servers[-1]

    def adopt(self, servers: tuple[RedisServer, ...]) -> None:
        self.servers.extend(servers)


@contextlib.contextmanager
def _all_or_none() -> Iterator[_Started]:
    started = _Started()
    try:
        yield started
    except BaseException:
        _stop_all(tuple(started.servers))
        raise


def _stop_all(servers: tuple[RedisServer, ...]) -> None:
    """Ask all first, so that the waiting is shared."""
    for server in servers:
        server.identity.send(signal.SIGCONT)
        server.identity.send(signal.SIGTERM)
    for server in servers:
        server.stop()


def _launch(recipe: Recipe) -> RedisServer:
    for _attempt in range(_STARTS):
        server = RedisServer(recipe, free_port(bus=recipe.cluster))
        server.write_config()
        with contextlib.suppress(PortTaken):
            return server.start()
    raise LabError(f"{_STARTS} times the port was taken between look and start:\n{server.log_tail()}")


@functools.cache
def _binary() -> str:
    return find_program(("redis-server", "valkey-server"), "REDIS_SERVER", _ADVICE)


@functools.cache
def server_version() -> tuple[int, ...]:
    """The version of the program that the lab starts, as in (7, 0, 15)."""
    told = subprocess.run([_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\d+)\.(\d+)\.(\d+)", told)
    if found is None:
        raise LabError(f"not a Redis server: {_binary()} says {told!r}")
    return tuple(map(int, found.groups()))


def _directives(config: Config | None, password: str | None) -> tuple[str, ...]:
    base = {"save": '""', "appendonly": "no", "repl-diskless-sync-delay": "0", "databases": "16"}
    if server_version() >= (7,):
        # Without the second a primary whose replica is frozen takes 10 s to stop.
        base |= {"enable-debug-command": "local", "shutdown-timeout": "0"}
    if password:
        base |= {"requirepass": f'"{password}"', "masterauth": f'"{password}"'}
    return tuple(f"{name} {value}" for name, value in {**base, **(config or {})}.items())


def _tls_directives(tls: Certificates | None) -> tuple[str, ...]:
    if tls is None:
        return ()
    files = {"cert": tls.server_cert, "key": tls.server_key, "ca-cert": tls.ca_cert}
    return (*(f'tls-{name}-file "{path}"' for name, path in files.items()), "tls-auth-clients yes")


def _watch(primary: RedisServer, password: str | None) -> tuple[str, ...]:
    wanted = {"monitor": f"{HOST} {primary.port} 2", "down-after-milliseconds": "1000", "failover-timeout": "5000"}
    if password:
        wanted["auth-pass"] = f'"{password}"'
    return tuple(f"sentinel {name} {MASTER_NAME} {value}" for name, value in wanted.items())


def _linked(replica: RedisServer) -> bool:
    return replica.info("replication").get("master_link_status") == "up"


def _online(primary: RedisServer) -> bool:
    """The primary learns last that its replica has all: with its first acknowledgement."""
    return primary.info("replication").get("slave0", {}).get("state") == "online"


def _sees_all(sentinel: RedisServer) -> bool:
    with sentinel.client() as client:
        try:
            ask(client, "SENTINEL", "CKQUORUM", MASTER_NAME)
        except redis.ResponseError:
            return False
        told = ask(client, "INFO", "sentinel")["master0"]
    return (told["status"], told["slaves"], told["sentinels"]) == ("ok", 1, 3)


def _join(nodes: tuple[RedisServer, ...]) -> None:
    """Make one cluster of empty nodes, as `redis-cli --cluster create` would, by plain commands."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(node.client()) for node in nodes]
        for number, client in enumerate(clients):
            ask(client, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for other in nodes[:number]:  # every pair, because gossip alone takes seconds
                ask(client, "CLUSTER", "MEET", other.host, other.port, other.port + BUS_OFFSET)
        for number, client in enumerate(clients[:3]):
            owned = range(SLOTS * number // 3, SLOTS * (number + 1) // 3)
            ask(client, "CLUSTER", "ADDSLOTS", *owned)
        names = [_text(ask(client, "CLUSTER", "MYID")) for client in clients]
        wait_until(lambda: all(_knows(client, names) for client in clients), 15, "handshake of all cluster nodes")
        for client, primary in zip(clients[3:], names[:3], strict=True):
            ask(client, "CLUSTER", "REPLICATE", primary)
        wait_until(lambda: all(_cluster_ok(client) for client in clients), 30, "cluster_state:ok on all nodes", 0.05)
        wait_until(lambda: all(map(_linked, nodes[3:])), 15, "links of all cluster replicas")


def _knows(client: redis.Redis, names: list[str]) -> bool:
    table = _nodes(client)
    return {node["node_id"] for node in table} == set(names) and not any("handshake" in n["flags"] for n in table)


def _cluster_ok(client: redis.Redis) -> bool:
    replicas = [node for node in _nodes(client) if "slave" in node["flags"]]
    return len(replicas) == 3 and ask(client, "CLUSTER INFO")["cluster_state"] == "ok"


def _nodes(client: redis.Redis) -> list[dict[str, Any]]:
    return list(ask(client, "CLUSTER NODES").values())


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
