# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting a million keys: how long it takes, what a bystander feels of it, how much memory the client needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tests.bench.measure import (
    REGIMES,
    Contender,
    Failed,
    Stage,
    inventory,
    ours,
    place,
    play,
    populate,
    server_cpu,
    tasks,
)
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
from tests.lab.redis_servers import RedisServer, start_single
from tests.lab.world import lab

MODULE = "`redis_keyspace`, a process of its own"
PLAYBOOK = "`redis_keyspace`, a whole `ansible-playbook`"
DEL = r"`redis-cli --scan` \| `xargs redis-cli DEL`"
UNLINK = r"`redis-cli --scan` \| `xargs redis-cli UNLINK`"
PIPE = r"`redis-cli --scan` \| `redis-cli --pipe`"
CAREFUL = r"count, `xargs DEL`, count again"
NOBODY = "nobody deletes (three seconds)"
PEERS = (DEL, UNLINK, PIPE, CAREFUL)

#: Peak memory of our two modules by number of keys.
GROWTH = "growth"

# What a seed types, and its two better ways. A key of ours holds nothing that xargs would take for a quote.
_SCAN = "{cli} --scan --pattern 'x:*'"
_PROTOCOL = r"""awk '{{ printf "*2\r\n$6\r\nUNLINK\r\n$%d\r\n%s\r\n", length($0), $0 }}'"""
COMMANDS = {
    DEL: f"{_SCAN} | xargs {{cli}} DEL",
    UNLINK: f"{_SCAN} | xargs {{cli}} UNLINK",
    PIPE: f"{_SCAN} | {_PROTOCOL} | {{cli}} --pipe",
    # What ours does in any case: know the number before, and prove it after.
    CAREFUL: f"{_SCAN} | wc -l; {_SCAN} | xargs {{cli}} DEL; {_SCAN} | wc -l",
}


def measure(stage: Stage) -> dict[str, list[Reading]]:
    """Readings by `<regime> <contender>`, and those of the growth."""
    doomed, others = (100_000, 20_000) if stage.quick else (1_000_000, 200_000)
    results: dict[str, list[Reading]] = {}
    with lab() as world:
        server = world.start(start_single)
        for regime in REGIMES:
            # Far away the peers are ten times as slow: a tenth of the keys tells as much.
            part = 10 if regime == "distant" else 1
            with place(regime, server) as port:
                race = _Race(stage, server, port, doomed // part, others // part)
                readings = stage.in_turns(race.contenders(), regime)
            results |= {f"{regime} {name}": readings[name] for name in readings}
        results[GROWTH] = [
            _growth(stage, server, keys)
            for keys in ((10_000, 100_000) if stage.quick else (100_000, 1_000_000, 10_000_000))
        ]
    return results


def _growth(stage: Stage, server: RedisServer, keys: int) -> Reading:
    """Peak memory of a report over so many keys, and of their deletion."""
    populate(server, {"x": keys})
    report, _result = ours(stage, "redis_keyspace_info", server.port)
    deletion, _result = ours(stage, "redis_keyspace", server.port, **_OPTIONS)
    stage.say(f"{keys} keys: report {report['wall']:.1f} s, deletion {deletion['wall']:.1f} s")
    return {
        "keys": keys,
        **{f"report_{of}": report[of] for of in ("wall", "peak")},
        **{f"deletion_{of}": deletion[of] for of in ("wall", "peak")},
    }


_OPTIONS: dict[str, Any] = {"match": ["x:*"], "max_count": 20_000_000, "timeout": 600}


class _Race:
    """The contenders, each on the same freshly filled server, which they find at `port`."""

    def __init__(self, stage: Stage, server: RedisServer, port: int, doomed: int, others: int) -> None:
        self.stage, self.server, self.port, self.doomed, self.others = stage, server, port, doomed, others
        self.hosts = inventory(stage, server)
        task = {"sre.runbooks.redis_keyspace": {"host": server.host, "port": port, **_OPTIONS}}
        self.playbook = tasks(stage, "purge", [task])

    def contenders(self) -> list[Contender]:
        runs: dict[str, Callable[[], Reading]] = {
            MODULE: lambda: ours(self.stage, "redis_keyspace", self.port, **_OPTIONS)[0],
            PLAYBOOK: lambda: play(self.stage, self.playbook, self.hosts),
            **{name: self._shell(line) for name, line in COMMANDS.items()},
        }
        races = [Contender(name, self._watched(run), self._fill) for name, run in runs.items()]
        return [*races, Contender(NOBODY, self._nobody, self._fill)]

    def _fill(self) -> None:
        populate(self.server, {"keep": self.others, "x": self.doomed})

    def _shell(self, line: str) -> Callable[[], Reading]:
        command = line.format(cli=f"redis-cli -p {self.port}")
        return lambda: self.stage.metered(["sh", "-c", command])[0]

    def _watched(self, run: Callable[[], Reading]) -> Callable[[], Reading]:
        def watched() -> Reading:
            with server_cpu(self.server) as cpu, bystander(self.server.port) as pauses:
                reading = run()
            left = int(self.server.command("DBSIZE"))
            if left != self.others:
                raise Failed(f"{left} keys are left, not {self.others}")
            return {**reading, **cpu, **pauses}

        return watched

    def _nobody(self) -> Reading:
        with server_cpu(self.server) as cpu, bystander(self.server.port) as pauses:
            reading, _said = self.stage.metered([sys.executable, "-c", "import time; time.sleep(3)"])
        return {**reading, **cpu, **pauses}


def tell(results: Results) -> str:
    """The tables of this benchmark."""
    head = ["", "wall, s", "CPU of client, s", "of server, s", "peak memory, MiB", "PING p99, ms", "PING worst, ms"]
    tables = []
    for regime in REGIMES:
        rows = [_row(name, summarize(results[f"{regime} {name}"])) for name in (MODULE, PLAYBOOK, *PEERS, NOBODY)]
        tables.append(table([regime, *head[1:]], rows))
    grown = [[f"{int(one['keys']):,}", *(form(one[of]) for of, form in _GROWN.items())] for one in results[GROWTH]]
    tables.append(table(["keys", "report, s", "report, MiB", "deletion, s", "deletion, MiB"], grown))
    return "\n\n".join((*tables, verdicts(targets(results))))


_GROWN = {"report_wall": seconds, "report_peak": mebibytes, "deletion_wall": seconds, "deletion_peak": mebibytes}


def _row(name: str, told: dict[str, Summary]) -> list[str]:
    if name == NOBODY:
        return [name, "", "", "", "", told["p99"].shown(milliseconds), told["worst"].shown(milliseconds)]
    timed = [told[of].shown(seconds) for of in ("wall", "cpu", "server_cpu")]
    return [name, *timed, told["peak"].shown(mebibytes), *(told[of].shown(milliseconds) for of in ("p99", "worst"))]


def targets(results: Results) -> list[Target]:
    def of(regime: str, name: str, quantity: str) -> Summary:
        return summarize(results[f"{regime} {name}"])[quantity]

    found = []
    for regime, least in (("idle", 4.0), ("loaded", 1.6), ("distant", 4.0)):
        faster, careful = (ratio(of(regime, peer, "wall"), of(regime, MODULE, "wall")) for peer in (DEL, CAREFUL))
        words = f"{faster:.1f}x ({careful:.1f}x, where the peer counts before and after)"
        found.append(Target(f"{regime}: at least {least:g}x as fast as `xargs DEL`", words, faster >= least))
    worst = of("idle", MODULE, "worst").median
    found.append(Target("idle: a bystander waits at most 10 ms", f"{milliseconds(worst)} ms", worst <= 0.010))
    for regime in ("idle", "loaded"):
        us, peer = of(regime, MODULE, "worst").median, of(regime, DEL, "worst").median
        words = f"{milliseconds(us)} ms against {milliseconds(peer)} ms"
        found.append(Target(f"{regime}: a bystander waits no longer than with `xargs DEL`", words, us <= peer))
    peaks = [max(one["report_peak"], one["deletion_peak"]) for one in results[GROWTH]]
    words = f"{mebibytes(min(peaks))} to {mebibytes(max(peaks))} MiB"
    flat = max(peaks) <= 150 * 2**20 and max(peaks) <= 1.2 * min(peaks)
    return [*found, Target("client memory is flat, and at most 150 MiB", words, flat)]
