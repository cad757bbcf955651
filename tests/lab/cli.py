# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab for people: servers that stay up between two commands, with an inventory for the runbooks.

`python -m tests.lab up redis --topology replica`, `... up postgres` or `... up kubernetes`, then `... status`, and at
the end `... down`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.lab.process import LabError, ProcessId
from tests.lab.redis_servers import (
    OPERATOR,
    Cluster,
    RedisServer,
    ReplicaPair,
    SentinelSet,
    start_acl,
    start_cluster,
    start_replica_pair,
    start_sentinel,
    start_single,
    start_tls,
)
from tests.lab.world import Topology

STARTERS: Mapping[str, Callable[..., Topology]] = {
    "single": start_single,
    "replica": start_replica_pair,
    "sentinel": start_sentinel,
    "cluster": start_cluster,
    "acl": start_acl,
    "tls": start_tls,
}
POSTGRES = "postgres"
KUBERNETES = "kubernetes"
POSTGRES_TOPOLOGIES = ("single", "pair", "pgbouncer")
_HOST_VARIABLES = {
    "ansible_connection": "local",
    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
}


@dataclass(frozen=True)
class Resident:
    """A server that is up, as the state file tells it. `host` is its name in the inventory, `group` its group."""

    topology: str
    group: str
    host: str
    pid: int
    started: str
    connection: dict[str, Any]
    helpers: Sequence[tuple[int, str]] = ()  # processes that are there for this one, in the order to end them

    @property
    def identity(self) -> ProcessId:
        return ProcessId(self.pid, self.started)

    def alive(self) -> bool:
        return all(process.alive() for process in (*self.helping(), self.identity))

    def helping(self) -> list[ProcessId]:
        return [ProcessId(*helper) for helper in self.helpers]


@dataclass(frozen=True)
class Home:
    """Where the lab of one checkout keeps its things."""

    root: Path

    @property
    def lab(self) -> Path:
        return self.root / ".lab"

    @property
    def state(self) -> Path:
        return self.lab / "state.json"

    @property
    def inventory(self) -> Path:
        return self.root / "inventories" / "lab" / "hosts.yml"

    def load(self) -> list[Resident]:
        if not self.state.exists():
            return []
        return [Resident(**entry) for entry in json.loads(self.state.read_text())]

    def save(self, residents: list[Resident]) -> None:
        """Write state and inventory (0600: they hold passwords); without residents both go."""
        if not residents:
            self.state.unlink(missing_ok=True)
            self.inventory.unlink(missing_ok=True)
            return
        _write_secret(self.state, json.dumps([asdict(resident) for resident in residents], indent=2) + "\n")
        _write_secret(self.inventory, "# Written by the lab.\n" + "\n".join(_yaml(_inventory(residents))) + "\n")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One command at a time."""
        self.lab.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.lab / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def main(arguments: list[str] | None = None) -> int:
    """0 when done, 1 with the reason on stderr when not."""
    options = _parser().parse_args(arguments)
    home = Home(options.root.resolve())
    try:
        with home.locked():
            return int(options.run(home, options))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def up(home: Home, options: argparse.Namespace) -> int:
    """Start the topology unless it is up; one of which only a part still runs is started anew."""
    topology = _name(options)
    others, same = _split(home.load(), topology)
    if same and all(resident.alive() for resident in same):
        print(f"{topology}: already up, as it was started")
    else:
        _end(home, topology, same)
        home.save(others)
        if options.product == POSTGRES:
            same = _start_postgres(home.lab / topology, topology)
        elif options.product == KUBERNETES:
            same = _start_kubernetes(home.lab / topology)
        else:
            config = {"maxmemory": options.maxmemory} if options.maxmemory else {}
            made = STARTERS[topology](home.lab / topology, config=config, detached=True)
            same = _residents(topology, made)
        home.save([*others, *same])
    _show(home, same)
    return 0


def status(home: Home, _options: argparse.Namespace) -> int:
    """Show all servers; 1 when one of them has died or none is up."""
    residents = home.load()
    if not residents:
        print("nothing is up")
        return 1
    _show(home, residents)
    return 0 if all(resident.alive() for resident in residents) else 1


def down(home: Home, options: argparse.Namespace) -> int:
    """Stop what `up` started, and nothing else: a recycled pid has another start time."""
    residents = home.load()
    for topology in [options.topology] if options.topology else sorted({r.topology for r in residents}):
        residents, same = _split(residents, topology)
        _end(home, topology, same)
        home.save(residents)
        print(f"{topology}: {'down' if same else 'was not up'}")
    return 0


def build(_home: Home, _options: argparse.Namespace) -> int:
    """Build what is too long to be built at the first use."""
    from tests.lab.kubernetes_build import build as build_kubernetes

    print(build_kubernetes().folder)
    return 0


def _name(options: argparse.Namespace) -> str:
    """What the state calls it: Redis topologies have the name they had when there was nothing else."""
    if options.product == POSTGRES:
        if options.topology not in POSTGRES_TOPOLOGIES or options.maxmemory:
            raise LabError(f"postgres has the topologies {', '.join(POSTGRES_TOPOLOGIES)}, and no maxmemory")
        return f"{POSTGRES}-{options.topology}"
    if options.product == KUBERNETES:
        if options.topology != "single" or options.maxmemory:
            raise LabError("kubernetes has no topologies, and no maxmemory")
        return KUBERNETES
    if options.topology not in STARTERS:
        raise LabError(f"redis has the topologies {', '.join(STARTERS)}")
    return str(options.topology)


def _end(home: Home, topology: str, residents: list[Resident]) -> None:
    for helper in [helper for resident in residents for helper in resident.helping()]:
        helper.end(first=signal.SIGKILL)
    for identity in {resident.identity for resident in residents}:
        # PostgreSQL takes SIGTERM for "when all have gone", SIGINT for "now".
        identity.end(first=signal.SIGINT if topology.startswith(POSTGRES) else signal.SIGTERM)
    folder = home.lab / topology
    shutil.rmtree(folder.resolve(), ignore_errors=True)
    if folder.is_symlink():
        folder.unlink()


def _split(residents: list[Resident], topology: str) -> tuple[list[Resident], list[Resident]]:
    same = [resident for resident in residents if resident.topology == topology]
    return [resident for resident in residents if resident.topology != topology], same


def _residents(topology: str, made: Topology) -> list[Resident]:
    def resident(group: str, host: str, server: RedisServer, user: str | None = None) -> Resident:
        who = server.identity
        return Resident(topology, group, f"redis-{host}", who.pid, who.started, server.connection(user))

    match made:
        case ReplicaPair(primary, replica):
            return [resident("redis", "primary", primary), resident("redis", "replica", replica)]
        case SentinelSet(primary, replica, sentinels):
            watched = [resident("redis", "watched-primary", primary), resident("redis", "watched-replica", replica)]
            return watched + [
                resident("redis_sentinels", f"sentinel-{number}", server)
                for number, server in enumerate(sentinels, start=1)
            ]
        case Cluster(nodes):
            return [resident("redis", f"cluster-{number}", node) for number, node in enumerate(nodes, start=1)]
    (server,) = made.servers
    # The other users reach the same server: apart, so that a run over `redis` meets it once.
    others = [user for user in server.passwords if user != OPERATOR]
    return [
        resident("redis", topology, server),
        *(resident("redis_acl_users", f"{topology}-{user}", server, user) for user in others),
    ]


def _start_postgres(link: Path, topology: str) -> list[Resident]:
    """The driver is imported by those who ask for it only."""
    try:
        from tests.lab import postgres_servers as lab
    except ImportError as error:
        raise LabError(f"PostgreSQL needs psycopg2: {error}") from error
    # Root's servers run as another user, who as a rule cannot reach the checkout.
    folder = Path(tempfile.mkdtemp(prefix="lab-postgres-"))
    link.symlink_to(folder)

    def resident(group: str, host: str, server: lab.PostgresServer | lab.PgBouncer, role: str) -> Resident:
        who = server.identity
        return Resident(topology, group, f"postgres-{host}", who.pid, who.started, server.connection(role))

    if topology == "postgres-pair":
        pair = lab.start_pair(folder / "pair", detached=True)
        names = {"primary": pair.primary, "standby": pair.standby}
        return [resident(POSTGRES, name, server, lab.OPERATOR) for name, server in names.items()]
    if topology == "postgres-pgbouncer":
        lab.pgbouncer_program()  # before a server is up that nobody would know of
    server = lab.start_postgres(folder / "single", detached=True)
    if topology == "postgres-pgbouncer":
        try:
            pooler = lab.start_pgbouncer(folder / "pooler", server, "transaction", detached=True)
        except BaseException:
            server.stop()
            raise
        return [
            resident(POSTGRES, "pooled", server, lab.OPERATOR),
            resident("postgres_pools", "pool", pooler, lab.OPERATOR),
        ]
    # The other roles reach the same server: apart, so that a run over `postgres` meets it once.
    others = [role for role in lab.ROLES if role != lab.OPERATOR]
    named = [resident("postgres_roles", f"single-{role}", server, role) for role in others]
    return [resident(POSTGRES, "single", server, lab.OPERATOR), *named]


def _start_kubernetes(folder: Path) -> list[Resident]:
    """One host; the other processes of the cluster end before etcd, which is last."""
    from tests.lab.kubernetes_build import unavailable

    if reason := unavailable():
        raise LabError(reason)
    from tests.lab.kubernetes_cluster import start_cluster

    made = start_cluster(folder, detached=True)
    if not made.members:
        raise LabError("$SRE_RUNBOOKS_TEST_KUBECONFIG names a cluster that is up already")
    *helpers, last = made.identities()
    told = [(helper.pid, helper.started) for helper in helpers]
    return [Resident(KUBERNETES, "k8s", "k8s-lab", last.pid, last.started, made.connection(), told)]


def _show(home: Home, residents: list[Resident]) -> None:
    print(f"inventory: {home.inventory}")
    for resident in residents:
        life = "up" if resident.alive() else "DEAD"
        shown = {name: "********" if name == "password" else value for name, value in resident.connection.items()}
        print(f"  {resident.host} ({resident.group}) {life}, pid {resident.pid}: {json.dumps(shown)}")


def _inventory(residents: list[Resident]) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    for resident in residents:
        hosts = groups.setdefault(resident.group, {"hosts": {}})["hosts"]
        product = resident.group.partition("_")[0]
        hosts[resident.host] = {**_HOST_VARIABLES, f"{product}_connection": resident.connection}
    return groups


def _yaml(value: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Block YAML of nested mappings; a JSON scalar is a YAML scalar."""
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield f"{indent}{name}:"
            yield from _yaml(inner, indent + "  ")
        else:
            yield f"{indent}{name}: {json.dumps(inner)}"


def _write_secret(path: Path, text: str) -> None:
    """Readable by nobody else at any moment, and never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="Real servers to try the runbooks on.")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(required=True)
    start = verbs.add_parser("up", help="start servers that stay up")
    start.add_argument("product", choices=["redis", POSTGRES, KUBERNETES])
    start.add_argument("--topology", choices=[*STARTERS, *POSTGRES_TOPOLOGIES[1:]], default="single")
    start.add_argument("--maxmemory", help="limit of each data server, such as 64mb")
    start.set_defaults(run=up)
    made = verbs.add_parser("build", help="build what the lab needs and no package has")
    made.add_argument("product", choices=[KUBERNETES])
    made.set_defaults(run=build)
    verbs.add_parser("status", help="show what is up").set_defaults(run=status)
    end = verbs.add_parser("down", help="stop what `up` started")
    known = [KUBERNETES, *STARTERS, *(f"{POSTGRES}-{name}" for name in POSTGRES_TOPOLOGIES)]
    end.add_argument("--topology", choices=known, help="only this one")
    end.set_defaults(run=down)
    return parser
