# SPDX-License-Identifier: GPL-3.0-or-later
"""What one task costs, and what a runbook costs on a healthy target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.bundle import community_general
from tests.bench.measure import ROOT, Contender, Stage, inventory, play, tasks
from tests.bench.stats import Reading, Results, Summary, Target, milliseconds, ratio, summarize, table, verdicts
from tests.lab.redis_servers import start_single
from tests.lab.world import lab

TASKS = 20
EMPTY = "an empty play"
RUNBOOK = "`redis_memory_full` on a healthy server"
IN_PROCESS = "`sre.runbooks.redis_info`, in-process"
SHIPPED = "`sre.runbooks.redis_info`, shipped as other modules are"
NOOP = "a module that does nothing"
PEER = "`community.general.redis_info`"


def measure(stage: Stage) -> dict[str, list[Reading]]:
    """Readings of whole plays: the empty one, the runbook, and N tasks of each kind."""
    with lab() as world:
        server = world.start(start_single, config={"maxmemory": "64mb"})
        hosts = inventory(stage, server)
        connection = server.connection()
        ours = {"sre.runbooks.redis_info": connection}
        login = {"login_host": connection["host"], "login_port": connection["port"]}
        kinds: dict[str, Mapping[str, Any]] = {
            IN_PROCESS: ours,
            SHIPPED: {**ours, "environment": {"BENCH": "shipped"}},
            NOOP: {"noop": None},
        }
        if community_general():
            kinds[PEER] = {"community.general.redis_info": login}
        plays = {EMPTY: tasks(stage, "empty", []), RUNBOOK: ROOT / "playbooks/redis_memory_full.yml"}
        for number, (name, task) in enumerate(kinds.items()):
            plays[name] = tasks(stage, f"kind-{number}", [task] * TASKS)

        def contender(name: str, playbook: Path) -> Contender:
            return Contender(name, lambda: play(stage, playbook, hosts))

        contenders = [contender(name, playbook) for name, playbook in plays.items()]
        for one in contenders:
            one.run()  # Python compiles once, not in each run
        return stage.in_turns(contenders)


def tell(results: Results) -> str:
    """The tables of this benchmark."""
    costs = {name: per_task(results, name) for name in (IN_PROCESS, SHIPPED, NOOP, PEER) if name in results}
    rows = [[name, *(cost[of].shown(milliseconds) for of in ("wall", "cpu"))] for name, cost in costs.items()]
    plays = {name: summarize(results[name]) for name in (EMPTY, RUNBOOK)}
    whole = [
        [name, *(told[of].shown(milliseconds) for of in ("wall", "cpu")), f"{ratio(told['wall'], _wall(results)):.2f}x"]
        for name, told in plays.items()
    ]
    return "\n\n".join(
        (
            table(["one task", "wall, ms", "CPU, ms"], rows),
            table(["one play", "wall, ms", "CPU, ms", "against the empty play"], whole),
            verdicts(targets(results)),
        )
    )


def targets(results: Results) -> list[Target]:
    ours, noop = (per_task(results, name)["wall"] for name in (IN_PROCESS, NOOP))
    share = ratio(summarize(results[RUNBOOK])["wall"], _wall(results))
    words = f"{milliseconds(ours.median)} ms, where a module that does nothing takes {milliseconds(noop.median)} ms"
    return [
        Target("a task in-process costs at most 30 ms", words, ours.median <= 0.030),
        Target("a runbook on a healthy server costs at most 1.5 empty plays", f"{share:.2f}", share <= 1.5),
    ]


def _wall(results: Results) -> Summary:
    return summarize(results[EMPTY])["wall"]


def per_task(results: Results, name: str) -> dict[str, Summary]:
    """(a play of N tasks - the empty play of the same round) / N."""
    return {
        of: Summary.of([(a[of] - b[of]) / TASKS for a, b in zip(results[name], results[EMPTY], strict=True)])
        for of in ("wall", "cpu")
    }
