# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the options of a census to its findings: what to count, what was declared, what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .._core.errors import bad_parameter
from .._core.redact import digest, printable
from .._core.spec import Params
from .._core.units import parse_seconds, parse_size
from .causes import Declared, Held, View, remedies, together
from .census import (
    Census,
    Chain,
    Counter,
    Group,
    KeyClass,
    Piped,
    Question,
    Scripted,
    Tour,
    as_facts,
    class_sums,
    queues,
    readers,
)
from .client import Redis, Server
from .facts import fresh_memory
from .globs import pattern_of
from .model import Memory
from .slices import scriptable
from .walk import Deadline, Pace, trip

#: Keys from which only some are asked for their type.
_MANY = 100_000


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a deployment: C(memories) has each primary's own, C(replicas) the names of those read from."""

    view: View
    memories: tuple[Memory, ...]
    replicas: tuple[str, ...]


def looked_at(redis: Redis, params: Params) -> Seen:
    """Walks over the keyspace and reads memory."""
    question = _question(params)
    name = digest if params["key_names"] == "hash" else printable
    with readers(redis, params["prefer_replica"]) as (servers, replicas):
        counter = _counter(redis, servers[0], params["method"])
        pace = Pace(params["batch"], params["slice_ms"] / 1000, trip=trip(servers[0]))
        if sum(server.call("DBSIZE") for server in servers) > _MANY:
            question = replace(question, every=8)
        census = Tour(question, counter, pace, Deadline(params["budget"]), params["fraction"]).take(servers)
        found = queues(servers, census, name)
    host = (params["remedies"] or {}).get("host_memory")
    size = parse_size(host, "host_memory") if host else 0
    memories = tuple(fresh_memory(server, size) for server in redis.servers)
    declared = _declared(params, question, census)
    view = View(together(memories), census, declared, found, redis.target.name, name)
    return Seen(view, memories, replicas)


def described(seen: Seen, params: Params) -> dict[str, Any]:
    """What the module returns, but for the findings."""
    view = seen.view
    facts: dict[str, Any] = {
        **as_facts(view.census, params["top"], view.name),
        "classes": {held.name: class_sums(held.group, view.whole) for held in view.declared.classes},
        "queues": [{"kind": queue.kind, "name": queue.name, "version": queue.version} for queue in view.queues],
        "memory": view.memory.as_dict(),
    }
    facts["coverage"]["replicas"] = list(seen.replicas)
    if params["remedies"]:
        facts["remedies"] = remedies(seen.memories, view.declared, _holder(view)).as_dict()
    return facts


def _holder(view: View) -> str:
    """Who holds most of the data, in words."""
    prefix, group = max(view.census.prefixes.items(), key=lambda item: item[1].bytes, default=(b"", Group()))
    return f"Keys {view.name(prefix)}* hold most of it ({view.share(group.scaled(view.census.factor).bytes):.0%})."


def _counter(redis: Redis, server: Server, method: str) -> Counter:
    if method == "pipeline" or (method == "auto" and not scriptable(server)):
        return Piped(redis.clustered)
    return Scripted(redis.clustered)


def _question(params: Params) -> Question:
    for name, least in (
        ("samples", 1),
        ("prefix_depth", 1),
        ("top", 1),
        ("batch", 1),
        ("slice_ms", 0.1),
        ("budget", 0.001),
    ):
        if params[name] < least:
            hint = "0 would measure every member of every key." if name == "samples" else ""
            raise bad_parameter(name, f"{params[name]} is too small, give at least {least}", hint)
    if not 0 < params["fraction"] <= 1:
        raise bad_parameter("fraction", f"{params['fraction']} is not a share", "Give a number above 0, at most 1.")
    if not params["separator"] or not params["match"]:
        raise bad_parameter("separator" if params["match"] else "match", "it is empty")
    return Question(
        pattern_of(params["match"], "match"),
        params["separator"].encode(),
        params["prefix_depth"],
        params["samples"],
        params["top"],
        _chains(params),
    )


def _chains(params: Params) -> tuple[Chain, ...]:
    """Three lists of classes, in which a key counts once each: the declared ones, the disposable, the capped."""
    given: Mapping[str, Any] = params["remedies"] or {}
    declared = tuple(
        KeyClass(one["name"], _patterns(one["match"], "classes"), _milliseconds(one.get("max_ttl")))
        for one in params["classes"]
    )
    # First, so that a key that must not be touched counts for no remedy.
    protected = KeyClass("", _patterns(given.get("protect") or (), "protect"))
    drops = tuple(KeyClass(one, _patterns([one], "disposable")) for one in given.get("disposable") or ())
    caps = tuple(
        KeyClass(one["match"], _patterns([one["match"]], "ttl_caps"), _milliseconds(one["max_ttl"]))
        for one in given.get("ttl_caps") or ()
    )
    return (
        Chain(declared),
        Chain((protected, *drops), spares=True),
        Chain((protected, *caps), spares=True, sessions=False),
    )


def _patterns(names: Any, option: str) -> tuple[bytes, ...]:
    if not all(names):
        raise bad_parameter(option, "there is an empty pattern", "Name the class of keys that is meant: cache:*.")
    return tuple(pattern_of(name, option) for name in names)


def _milliseconds(text: str | None) -> int | None:
    return parse_seconds(text, "max_ttl") * 1000 if text else None


def _declared(params: Params, question: Question, census: Census) -> Declared:
    classes, drops, caps = (
        tuple(
            Held(one.name, group.scaled(census.factor), (one.cap or 0) // 1000)
            for one, group in zip(chain.classes, groups, strict=True)
            if one.name
        )
        for chain, groups in zip(question.chains, census.chains, strict=True)
    )
    given: Mapping[str, Any] = params["remedies"] or {}
    ceiling = given.get("limit_ceiling")
    return Declared(
        classes,
        drops,
        caps,
        given.get("fragmentation_max"),
        parse_size(ceiling, "limit_ceiling") if ceiling else 0,
        given.get("target_ratio") or 0.8,
        given.get("settle") or 0,
    )
