# SPDX-License-Identifier: GPL-3.0-or-later
"""A Redis of our own fills up until it refuses writes, and a runbook mends it. Takes seconds, needs no root.

Every claim on the screen is checked; the demo ends with 1 at the first that does not hold.
"""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.faults import Writer, add_bystanders, fill_cache, writer
from tests.lab.process import LabError, wait_until
from tests.lab.redis_servers import RedisServer, start_single
from tests.lab.witness import Fingerprint, fingerprint
from tests.lab.world import lab
from tests.support import ROOT, PlayResult, prepare, results

LIMIT = "64mb"
DISPOSABLE = "cache:*"
#: What must not be touched: two queues, sessions, configuration.
BYSTANDERS = ("bull:*", "celery", "unacked*", "_kombu*", "sess:*", "cfg:*")
RUNBOOK = Path("playbooks/redis_memory_full.yml")
INVENTORY = Path(".lab/demo/inventory.yml")
DELETE = "Mitigate | Delete declared keys until memory is below the ratio"


class BrokenPromise(Exception):
    """Something on the screen would not be true."""


@dataclass
class Scene:
    """The server, the application that writes to it, and the numbers that are compared at the end."""

    server: RedisServer
    app: Writer
    step: int = 0
    bystanders: Mapping[str, Fingerprint] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    planned: dict[str, Any] = field(default_factory=dict)

    def tell(self, title: str) -> None:
        self.step += 1
        print(f"\n{self.step}. {title}", flush=True)

    def numbers(self) -> dict[str, float]:
        memory = self.server.info("memory")
        ratio = memory["used_memory"] / memory["maxmemory"]
        return {"used": memory["used_memory"], "ratio": ratio, "cache": fingerprint(self.server, DISPOSABLE).count}


def main() -> int:
    """0 when all was as promised, 1 when not, 130 when interrupted. The server is gone in any case."""
    try:
        with alone():
            return _tell()
    except KeyboardInterrupt:
        return 130


@contextmanager
def alone() -> Iterator[None]:
    """Two demos in one clone would take each other's inventory; the second waits."""
    place = ROOT / INVENTORY
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with place.with_name("lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another demo of this clone to end.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tell() -> int:
    begun = time.monotonic()
    try:
        with lab() as world:
            server = world.start(start_single, config={"maxmemory": LIMIT, "maxmemory-policy": "noeviction"})
            try:
                _play(server)
            except KeyboardInterrupt:
                say("interrupted; the server is gone")
                return 130
    except (BrokenPromise, LabError) as error:
        print(f"\nNOT AS PROMISED: {error}", file=sys.stderr)
        return 1
    finally:
        (ROOT / INVENTORY).unlink(missing_ok=True)
    print(f"\nAll of this took {time.monotonic() - begun:.0f} s. The server of the demo is gone; the reports stay.")
    print("Try it by hand:  .venv/bin/python -m tests.lab up redis --maxmemory 64mb")
    return 0


def _play(server: RedisServer) -> None:
    with writer(server) as app:
        scene = Scene(server, app)
        meet(scene)
        break_it(scene)
        declare(scene)
        look_at_the_plan(scene)
        mend(scene)
        prove_the_bystanders(scene)
        run_again(scene)


def meet(scene: Scene) -> None:
    scene.tell("A Redis of our own")
    add_bystanders(scene.server)
    scene.bystanders = fingerprints(scene.server)
    wait_until(lambda: scene.app.accepted > 50, 5, "the application's first writes")
    say(f"{scene.server.host}:{scene.server.port}, limit 64 MiB, noeviction: when it is full, it refuses writes.")
    count = sum(one.count for one in scene.bystanders.values())
    say(f"It holds {count} keys that nobody may lose: jobs of two queues, sessions, settings.")
    say(f"An application writes to it all the time: {scene.app.accepted} writes accepted, {scene.app.refused} refused.")


def break_it(scene: Scene) -> None:
    scene.tell("The incident: a cache without a limit fills it")
    pages = fill_cache(scene.server, "cache:page:")
    refused = scene.app.refused
    wait_until(lambda: scene.app.refused > refused + 20, 5, "writes of the application to be refused")
    scene.before = scene.numbers()
    say(f"{pages} pages of cache later memory is {scene.before['ratio']:.0%} full.")
    say(f"The application's writes are refused: OOM {scene.app.last_error}")


def declare(scene: Scene) -> None:
    scene.tell("What may be deleted is declared in the inventory, never guessed")
    host = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "redis_connection": scene.server.connection(),
        "redis_disposable": [DISPOSABLE],
    }
    (ROOT / INVENTORY).write_text(json.dumps({"redis": {"hosts": {"demo": host}}}, indent=2) + "\n")
    say(f'{INVENTORY}:  redis_disposable: ["{DISPOSABLE}"]')


def look_at_the_plan(scene: Scene) -> None:
    scene.tell("Ask what the runbook would do: nothing is changed")
    played = run_runbook("--check", "--diff")
    found = played.result("Diagnose | Look at memory")["findings"]
    say(f"finding   {', '.join(one['id'] + ' (' + one['severity'] + ')' for one in found)}")
    planned = played.result(DELETE)
    scene.planned = planned
    say(f"would     {', '.join(planned['actions'])}: {planned['plan']['count']} keys")
    diff = {side: planned["diff"][side]["keys"][DISPOSABLE] for side in ("before", "after")}
    say(f"diff      {DISPOSABLE}: {diff['before']} keys -> {diff['after']}")
    forecast = planned["forecast"]
    say(f"forecast  {forecast['name']} {mib(forecast['before'])} -> {mib(forecast['after'])} MiB")
    say(f"plan id   {planned['plan']['id']}  (-e approved_plan=... makes the run refuse any other plan)")
    promise(scene.numbers()["cache"] == scene.before["cache"], "check mode deleted nothing")


def mend(scene: Scene) -> None:
    scene.tell("Run it")
    begun = time.monotonic()
    played = run_runbook()
    ended = time.monotonic()
    again = first_accepted(scene.app, begun, played)
    promise(again < ended, "the application writes again")
    deleted = played.result(DELETE)
    time.sleep(0.3)
    late = [accepted for at, _took, accepted in tuple(scene.app.history) if at > ended]
    promise(bool(late) and all(late), f"none of its {len(late)} writes since the end of the run was refused")
    now = scene.numbers()
    shares = f"{scene.before['ratio']:.0%} -> {now['ratio']:.0%}"
    say(f"memory    {mib(scene.before['used'])} -> {mib(now['used'])} MiB, {shares}")
    say(f"cache     {scene.before['cache']:.0f} keys -> {now['cache']:.0f}: as many deleted as needed, no more")
    say(f"planned   {scene.planned['plan']['count']} keys, deleted {deleted['measured']['count']}")
    say(f"time to mitigate {again - begun:.1f} s, with all checks {ended - begun:.1f} s")
    promise(now["ratio"] < 0.85, "there is room again")
    report_of(played)


def first_accepted(app: Writer, begun: float, played: PlayResult) -> float:
    """time.monotonic() of the first write that the application got through after `begun`."""
    again = app.accepted_again_after(begun)
    if again is None:
        raise BrokenPromise(f"no write was accepted; last refusal: {app.last_error}\n{played.stdout}\n{played.stderr}")
    return again


def prove_the_bystanders(scene: Scene) -> None:
    scene.tell("The neighbours")
    for match, now in fingerprints(scene.server).items():
        promise(now == scene.bystanders[match], f"{match}: {now.count} keys, same values and same TTLs as before")


def run_again(scene: Scene) -> None:
    scene.tell("Run it again: it looks, and has nothing to do")
    cache = scene.numbers()["cache"]
    played = run_runbook()
    promise(not played.changed, "the second run reports no change")
    promise(scene.numbers()["cache"] == cache, "and no key was deleted")


def run_runbook(*options: str) -> PlayResult:
    """Shows the command as one would type it, and runs it."""
    command = ["ansible-playbook", "-i", str(INVENTORY), str(RUNBOOK), *options]
    say(f"$ .venv/bin/{' '.join(command)}")
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        scratch = Path(folder)
        given, environment = prepare(scratch, RUNBOOK, *options, inventory=INVENTORY)
        # A test's records go with its scratch folder; a demo's are there to be read.
        environment["SRE_RUNBOOKS_REPORTS"] = str(ROOT / "reports")
        ended = subprocess.run(given, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        played = PlayResult(ended.returncode, ended.stdout, ended.stderr, results(scratch))
    if played.rc:
        raise BrokenPromise(f"the runbook ended with {played.rc}\n{played.stdout}\n{played.stderr}")
    return played


def report_of(played: PlayResult) -> None:
    found = re.search(r"Report: (\S+report\.html)", played.stdout)
    if found is None or not Path(found[1]).is_file():
        raise BrokenPromise("the run left no report")
    path = Path(found[1])
    say(f"report    {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")


def fingerprints(server: RedisServer) -> dict[str, Fingerprint]:
    return {match: fingerprint(server, match) for match in BYSTANDERS}


def promise(kept: bool, words: str) -> None:
    if not kept:
        raise BrokenPromise(f"not true: {words}")
    say(f"ok        {words}")


def say(line: str) -> None:
    print(f"   {line}", flush=True)


def mib(size: float) -> str:
    return f"{size / 2**20:.1f}"
