# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module results as the modules return them, and whole runs made of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible_collections.sre.runbooks.plugins.plugin_utils._journal import (
    Event,
    Ran,
    Stamp,
    events,
    make_line,
    outcome,
)

START = datetime(2026, 3, 14, 2, 41, 7, tzinfo=UTC)
HOSTILE = "cart:<script>alert(1)</script>|`x`\n**bold**\u202e"
TARGET = {"kind": "redis", "name": "cache-a:6379", "identity": "c0ffee"}
SERVER = {"name": "cache-a:6379", "version": "7.0.15", "role": "master", "managed": ""}
EMPTY: dict[str, Any] = {
    "changed": False,
    "actions": [],
    "diff": {},
    "spared": [],
    "findings": [],
    "forecast": {},
    "measured": {},
    "undo": [],
    "verify": {},
    "server": SERVER,
}
FULL = {
    "id": "redis.memory_full",
    "severity": "critical",
    "subject": "cache-a:6379",
    "evidence": {"ratio": 0.99, "counted": 66436300, "limit": 67108864, "policy": "noeviction"},
    "suggest": "Run redis_memory_full.",
}
SLOW = {
    "id": "redis.slow_commands",
    "severity": "warning",
    "subject": "cache-a:6379",
    "evidence": {"entries": 3, "worst_ms": 48.2, "commands": ["keys", "smembers"]},
    "suggest": "Every other client waits while one of these runs: page them, or move them to a replica.",
}


def plan(count: int, sample: list[str], size: int = 0) -> dict[str, Any]:
    return {
        "id": f"26a6a650246cb582.{count}",
        "count": count,
        "bytes": size,
        "sample": sample,
        "exact": False,
        "target": TARGET,
    }


def info(*findings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What redis_info returns."""
    memory = {"used": 66436300, "limit": 67108864, "ratio": 0.99, "policy": "noeviction"}
    return {
        **EMPTY,
        "plan": plan(0, []),
        "findings": list(findings),
        "memory": memory,
        "clients": {"connected": 12},
        **more,
    }


def removal(check: bool = False, subject: str = "cache:*") -> dict[str, Any]:
    """What redis_keyspace returns when it removed a class of keys."""
    forecast = {"name": "memory counted", "unit": "bytes", "before": 66436300, "after": 40265318}
    measured = {**forecast, "forecast": 40265318, "after": 41001300, "count": 48210, "bytes": 25435000, "seconds": 1.9}
    return {
        **EMPTY,
        "changed": True,
        "plan": plan(48210, [subject], 26170982),
        "actions": [f"remove 48,210 keys of {subject} in database 0"],
        "spared": [
            {"subject": "session:*", "reason": "protected by the inventory", "count": 9120},
            {"subject": "queue:orders", "reason": "used 4 seconds ago", "count": 1},
        ],
        "undo": [
            {
                "subject": subject,
                "words": "removed keys are gone; the application fills its cache again",
                "possible": False,
            }
        ],
        "forecast": forecast,
        "measured": {} if check else measured,
    }


VERIFIED = {
    "ok": True,
    "condition": "clear of redis.memory_full, redis.memory_high",
    "wrong": "",
    "consecutive": 3,
    "seconds": 1.02,
}
REFUSAL = {
    "kind": "guard_refused",
    "code": "max_count",
    "retryable": False,
    "message": "cache-a:6379: 48210 subjects, more than max_count 10000",
    "hint": "Nothing was changed. Narrow the selection; raise max_count only if the plan is right.",
}
DIAGNOSE = ("Diagnose | See what is wrong", "sre.runbooks.redis_info")
GUARD = ("Guard | Preconditions hold", "ansible.builtin.assert")
MITIGATE = ("Mitigate | Remove cached pages", "sre.runbooks.redis_keyspace")
VERIFY = ("Verify | Memory is fine three times in a row", "sre.runbooks.redis_info")

Call = tuple[tuple[str, str], str, dict[str, Any], float]


class Story:
    """A run told task by task, on a clock of its own."""

    def __init__(
        self, check: bool = False, run: str = "20260314T024107Z-5f2c1a", secrets: tuple[str, ...] = ()
    ) -> None:
        self.run, self.check, self.secrets = run, check, secrets
        self.now = START
        self.lines: list[Event] = []
        command = ["ansible-playbook", "playbooks/redis_memory_full.yml", "-i", "inventories/prod"]
        started = {"playbook": command[1], "user": "mira", "core": "2.19.14", "collection": "1.0.0"}
        self._add(
            Ran("", "", "", ""), {"event": "started", **started, "check": check, "job": False, "command": command}
        )

    def host(self, name: str, *calls: Call, failed: bool = False) -> Story:
        """Everything that happened on a host. A call is a task, its status, its result, its seconds."""
        self._add(Ran(name, "", "", ""), {"event": "started"})
        for (task, action), status, result, seconds in calls:
            self.now += timedelta(seconds=seconds + 0.02)
            ran = Ran(name, task, action, status, seconds, check=self.check)
            for event in events(ran, result):
                self._add(ran, event)
        mine = [line for line in self.lines if line["host"] == name]
        ended = {"event": "finished", "outcome": outcome(mine, failed), "ok": len(calls), "failed": int(failed)}
        self._add(Ran(name, "", "", ""), ended)
        return self

    def _add(self, ran: Ran, event: Event) -> None:
        stamp = Stamp(self.now.isoformat(timespec="milliseconds").replace("+00:00", "Z"), self.run, "redis_memory_full")
        self.lines.append(make_line(stamp, ran, event, self.secrets))


def mended() -> Story:
    """The incident, ended."""
    well = {"used": 41001300, "limit": 67108864, "ratio": 0.611, "policy": "noeviction"}
    return Story().host(
        "cache-a",
        (DIAGNOSE, "ok", info(FULL, SLOW), 0.034),
        (GUARD, "ok", {"msg": "All assertions passed"}, 0.018),
        (MITIGATE, "ok", removal(), 1.94),
        (VERIFY, "ok", info(SLOW, verify=VERIFIED, memory=well), 1.05),
    )


def checked() -> Story:
    """The same in check mode."""
    return Story(check=True).host(
        "cache-a", (DIAGNOSE, "ok", info(FULL, SLOW), 0.034), (MITIGATE, "ok", removal(check=True), 0.21)
    )


def refused() -> Story:
    """The guard said no; the rescue said it again."""
    result = {
        **removal(check=True),
        "changed": False,
        "actions": [],
        "failed": True,
        "error": REFUSAL,
        "msg": "refused",
    }
    return Story().host(
        "cache-a",
        (DIAGNOSE, "ok", info(FULL), 0.034),
        (MITIGATE, "failed", result, 0.11),
        (("Report | Say why", "ansible.builtin.fail"), "failed", {"msg": "It could not be mended."}, 0.01),
        failed=True,
    )


def fleet() -> Story:
    """Four targets, four outcomes."""
    failure = {"kind": "timeout", "message": "cache-c:6379: no answer within 5 s", "hint": "Look at the network."}
    story = Story()
    story.host(
        "cache-a",
        (DIAGNOSE, "ok", info(FULL), 0.03),
        (MITIGATE, "ok", removal(), 1.9),
        (VERIFY, "ok", info(verify=VERIFIED), 1.0),
    )
    story.host("cache-b", (DIAGNOSE, "ok", info(), 0.03))
    story.host("cache-c", (DIAGNOSE, "failed", {"failed": True, "msg": "x", "error": failure}, 5.0), failed=True)
    return story.host("cache-d", (DIAGNOSE, "ok", info(FULL), 0.03))
