# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses the memory: a report by prefix over a million keys."""

from __future__ import annotations

from collections.abc import Callable

from tests.bench.measure import REGIMES, Contender, Stage, ours, place, populate, server_cpu
from tests.bench.pauses import bystander
from tests.bench.stats import (
    Reading,
    Results,
    Summary,
    Target,
    mebibytes,
    milliseconds,
    ratio,
    seconds,
    summarize,
    table,
    verdicts,
)
from tests.lab.faults import add_bystanders, giant_key
from tests.lab.redis_servers import RedisServer, start_single
from tests.lab.world import lab

OURS = "`redis_keyspace_info`, a process of its own"
BIGKEYS = "`redis-cli --bigkeys`"
MEMKEYS = "`redis-cli --memkeys`"
CONTENDERS = (OURS, BIGKEYS, MEMKEYS)


def measure(stage: Stage) -> dict[str, list[Reading]]:
    """Readings by `<regime> <contender>`; all read the same keys."""
    keys = 52_000 if stage.quick else 520_000
    results: dict[str, list[Reading]] = {}
    with lab() as world:
        server = world.start(start_single)
        for regime in REGIMES:
            _fill(server, keys // 10 if regime == "distant" else keys)
            with place(regime, server) as port:
                readings = stage.in_turns(_contenders(stage, server, port), regime)
            results |= {f"{regime} {name}": readings[name] for name in readings}
    return results


def _fill(server: RedisServer, keys: int) -> None:
    populate(server, {"cache:page": keys // 2, "cache:fragment": keys // 4, "user": keys // 8, "sess": keys // 8})
    add_bystanders(server)
    giant_key(server, "cart:big", 10_000)


def _contenders(stage: Stage, server: RedisServer, port: int) -> list[Contender]:
    def ready(run: Callable[[], Reading]) -> Callable[[], Reading]:
        def watched() -> Reading:
            with server_cpu(server) as cpu, bystander(server.port) as pauses:
                reading = run()
            return {**reading, **cpu, **pauses}

        return watched

    def peer(option: str) -> Callable[[], Reading]:
        return lambda: stage.metered(["redis-cli", "-p", str(port), option])[0]

    runs = {
        OURS: lambda: ours(stage, "redis_keyspace_info", port)[0],
        BIGKEYS: peer("--bigkeys"),
        MEMKEYS: peer("--memkeys"),
    }
    return [Contender(name, ready(run)) for name, run in runs.items()]


def tell(results: Results) -> str:
    """The tables of this benchmark."""
    head = ["wall, s", "CPU of client, s", "of server, s", "peak memory, MiB", "PING p99, ms", "PING worst, ms"]
    tables = []
    for regime in REGIMES:
        told = {name: summarize(results[f"{regime} {name}"]) for name in CONTENDERS}
        tables.append(table([regime, *head], [_row(name, one) for name, one in told.items()]))
    return "\n\n".join((*tables, verdicts(targets(results))))


def _row(name: str, told: dict[str, Summary]) -> list[str]:
    timed = [told[of].shown(seconds) for of in ("wall", "cpu", "server_cpu")]
    return [name, *timed, told["peak"].shown(mebibytes), *(told[of].shown(milliseconds) for of in ("p99", "worst"))]


def targets(results: Results) -> list[Target]:
    found = []
    for regime, least in (("idle", 8.0), ("loaded", 1.7), ("distant", 8.0)):
        us, peer = (summarize(results[f"{regime} {name}"])["wall"] for name in (OURS, MEMKEYS))
        faster = ratio(peer, us)
        words = f"{regime}: at least {least:g}x as fast as `--memkeys`, with totals by prefix and TTLs"
        found.append(Target(words, f"{faster:.1f}x", faster >= least))
    return found
