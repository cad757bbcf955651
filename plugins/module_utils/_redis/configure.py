# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Changing a server's settings, so that each change can be taken back, and outlives a restart where it should."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._core.errors import Kind, OpsError
from .._core.plan import Aftermath, Done, Finding, Progress, Severity, Step, Undo, Verify
from .client import Redis, Server, require
from .errors import translate
from .replies import pairs, parse_info, parse_nodes, text
from .settings import canonical, merged

#: Who changes the settings where the service does not let CONFIG through.
_ELSEWHERE = {
    "elasticache": "Change the parameter group: community.aws.elasticache_parameter_group.",
    "azure": "Change it in the service: azure.azcollection.azure_rm_rediscache.",
    "redis-cloud": "Change it in the database's page, or through the API of Redis Cloud.",
    "upstash": "Change it in the console of Upstash.",
    "aliyun": "Change it in the instance's parameter settings.",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One setting of one server, in the form in which CONFIG GET answers."""

    server: Server
    name: str
    before: str
    after: str

    @property
    def subject(self) -> str:
        return f"{self.name} on {self.server.address.name}"


@dataclass(slots=True)
class Persistence:
    """Whether the changes are to outlive a restart, and what came of that, by server."""

    mode: str
    temporary: bool = False
    unwritable: dict[str, str] = field(default_factory=dict)
    written: list[Server] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        return self.mode != "never" and not self.temporary


def read_settings(redis: Redis, server: Server, names: Iterable[str]) -> dict[str, str]:
    """The settings by name. Raises not_found for one that this server does not have."""
    try:
        found = {name: dict(pairs(server.call("CONFIG", "GET", name))) for name in names}
    except Exception as error:
        raise _way_out(redis, error) from error
    unknown = [name for name, reply in found.items() if name not in reply]
    if unknown:
        text_ = f"{server.address.name} has no setting {', '.join(unknown)}"
        raise OpsError(Kind.NOT_FOUND, text_, "Check the name, and the server's version.", code="unknown_setting")
    return {name: canonical(name, reply[name]) for name, reply in found.items()}


def _way_out(redis: Redis, error: Exception) -> Exception:
    """The error with the place where a managed service, or another user, can change settings."""
    known = translate(error)
    if known is None or known.kind not in (Kind.FORBIDDEN, Kind.UNSUPPORTED):
        return error
    advice = "Grant CONFIG to this user, or CONFIG has been renamed: then change it where the server is configured."
    known.hint = _ELSEWHERE.get(redis.target.managed, advice)
    return known


def changes(redis: Redis, wanted: Mapping[str, Any]) -> list[Change]:
    """What differs from the wanted settings, on every server of the deployment."""
    found = []
    for server in redis.servers:
        current = read_settings(redis, server, wanted)
        for name, value in wanted.items():
            after = merged(name, value, current[name])
            if after != current[name]:
                found.append(Change(server, name, current[name], after))
    return found


def steps(redis: Redis, wanted: Sequence[Change], persistence: Persistence) -> tuple[Step, ...]:
    """One for each change; the files come last, when nothing can fail any more."""
    servers = list({id(change.server): change.server for change in wanted}.values())
    for server in servers:
        mine = [("CONFIG", "SET", change.name, change.after) for change in wanted if change.server is server]
        try:
            require(server, *mine)
        except OpsError as error:
            raise _way_out(redis, error) from error
    files = [server for server in servers if persistence.wanted and _has_file(redis, server, persistence)]
    return (*(_set(change, persistence) for change in wanted), *(_rewrite(server, persistence) for server in files))


def _has_file(redis: Redis, server: Server, persistence: Persistence) -> bool:
    """Whether there is a file that can be written, as far as the server tells; if it has to be, raises."""
    info = redis.info if server is redis.entry else parse_info(server.call("INFO", "server"))
    try:
        if not info.get("config_file"):
            raise OpsError(
                Kind.PRECONDITION, f"{server.address.name} runs without a configuration file", code="no_file"
            )
        require(server, ("CONFIG", "REWRITE"))
    except OpsError as error:
        if persistence.mode == "always":
            raise
        persistence.unwritable[server.address.name] = error.message
        return False
    return True


def _set(change: Change, persistence: Persistence) -> Step:
    server, name = change.server, change.name

    def compare_and_set(expected: str, value: str) -> None:
        # Scripts and transactions cannot hold CONFIG back, so a narrow gap remains between the two calls.
        current = canonical(name, dict(pairs(server.call("CONFIG", "GET", name))).get(name, ""))
        if current != expected:
            text_ = f"{change.subject} is {current} now, not {expected}: somebody else is changing it"
            raise OpsError(Kind.CONFLICT, text_, "Find out who, then run again.", code="changed_meanwhile")
        try:
            server.call("CONFIG", "SET", name, value)
        except Exception as error:
            raise _refused(change, error) from error

    def act(_progress: Progress) -> Done:
        compare_and_set(change.before, change.after)
        return Done()

    def undo() -> None:
        compare_and_set(change.after, change.before)
        if server in persistence.written:
            server.call("CONFIG", "REWRITE")

    words = f"Set {change.subject} to {change.after!r} (was {change.before!r})"
    back = f"Set {change.subject} back to {change.before!r}"
    args = {"settings": {name: change.before}}
    return Step(change.subject, words, act, Undo(back, undo, "sre.runbooks.redis_setting", args))


def _refused(change: Change, error: Exception) -> Exception:
    """Tells a value that the server does not take from a setting that it never takes while it runs."""
    known = translate(error)
    if known is None or known.code != "refused_command":
        return error
    if "immutable" in known.message:
        hint = "It is read at the start only: change the configuration file, then restart the server."
        return OpsError(Kind.UNSUPPORTED, f"{change.subject} cannot be changed while it runs", hint, code="immutable")
    return OpsError(Kind.PRECONDITION, f"{change.subject}: {known.message}", "Check the value.", code="bad_value")


def _rewrite(server: Server, persistence: Persistence) -> Step:
    """Writes the server's configuration file; with C(auto) a failure is reported, not raised."""
    name = server.address.name

    def act(_progress: Progress) -> Done:
        try:
            server.call("CONFIG", "REWRITE")
        except Exception as error:
            known = translate(error)
            if known is None or persistence.mode == "always":
                raise
            persistence.unwritable[name] = known.message
            return Done(0, note=known.message)
        persistence.written.append(server)
        return Done()

    undo = Undo("The file is written again when the settings in it are set back.")
    return Step(f"configuration file of {name}", f"Write the configuration file of {name}", act, undo)


def in_force(redis: Redis, wanted: Mapping[str, Any]) -> Verify:
    """That CONFIG GET shows the wanted settings on every server."""

    def check() -> str:
        return ", ".join(f"{change.subject} is {change.before!r}" for change in changes(redis, wanted))

    return Verify("the settings are in force", check, interval=0.1, timeout=2.0)


def outcome(redis: Redis, wanted: Sequence[Change], persistence: Persistence) -> Callable[[], Aftermath]:
    """Tells afterwards whether the settings survive a restart."""

    def look() -> Aftermath:
        return Aftermath({"persisted": persisted(wanted, persistence)}, not_persisted(redis, persistence))

    return look


def persisted(wanted: Sequence[Change], persistence: Persistence) -> bool:
    """Whether every file that should hold the changes does. True where there was nothing to write."""
    return not wanted or (persistence.wanted and not persistence.unwritable)


def not_persisted(redis: Redis, persistence: Persistence) -> tuple[Finding, ...]:
    if not persistence.unwritable:
        return ()
    advice = "Put the setting where the server is configured: a restart forgets it."
    evidence = dict(persistence.unwritable)
    return (Finding("redis.not_persisted", Severity.WARNING, redis.target.name, evidence, advice),)


def replicas_differ(redis: Redis, wanted: Sequence[Change]) -> tuple[Finding, ...]:
    """That replicas keep their own settings: after a failover the old ones are back."""
    replicas = _replicas(redis)
    if not wanted or not replicas:
        return ()
    evidence = {"replicas": replicas, "settings": sorted({change.name for change in wanted})}
    advice = "Set the same on each replica: a failover brings the old settings back."
    return (Finding("redis.replicas_differ", Severity.WARNING, redis.target.name, evidence, advice),)


def _replicas(redis: Redis) -> list[str]:
    if redis.clustered:
        nodes = parse_nodes(text(redis.entry.call("CLUSTER", "NODES")), redis.entry.address.host)
        return sorted(f"{node.host}:{node.port}" for node in nodes if "slave" in node.flags)
    lines = (dict(field.partition("=")[::2] for field in redis.info[name].split(",")) for name in _slaves(redis.info))
    return sorted(f"{line['ip']}:{line['port']}" for line in lines)


def _slaves(info: Mapping[str, str]) -> list[str]:
    return [name for name in info if name.startswith("slave") and name[5:].isdigit()]


def as_diff(wanted: Sequence[Change], clustered: bool, side: str) -> dict[str, Any]:
    """One side of the diff: by setting, and on a cluster by server first."""
    found: dict[str, Any] = {}
    for change in wanted:
        place = found.setdefault(change.server.address.name, {}) if clustered else found
        place[change.name] = getattr(change, side)
    return found
