# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What becomes a line, what never does, and a file that survives its end."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.plugin_utils import _journal as journal
from tests.unit.record import samples

STAMP = journal.Stamp("2026-03-14T02:41:07.000Z", "r1", "demo")
LOOK = journal.Ran("h", "Diagnose | Look", "sre.runbooks.redis_info", "ok", 0.1)
WORK = journal.Ran("h", "Mitigate | Remove", "sre.runbooks.redis_keyspace", "ok", 0.1)


def names(ran: journal.Ran, result: dict[str, Any]) -> list[str]:
    return [event["event"] for event in journal.events(ran, result)]


def only(ran: journal.Ran, result: dict[str, Any]) -> journal.Event:
    (event,) = journal.events(ran, result)
    return event


def ran(**changes: Any) -> journal.Ran:
    known = {"host": "h", "name": "Guard | Check", "action": "ansible.builtin.assert", "status": "ok"}
    return journal.Ran(**{**known, **changes})


def test_a_look_is_one_diagnosis() -> None:
    event = only(LOOK, samples.info(samples.FULL))
    assert event["event"] == "diagnosed"
    assert event["numbers"]["memory"]["limit"] == 67108864
    assert event["seen"] == ["clients", "memory"]


def test_work_is_told_in_order() -> None:
    assert names(WORK, samples.removal()) == ["planned", "spared", "acted", "measured"]


def test_check_mode_plans_and_never_acts() -> None:
    looked = list(journal.events(ran(name=WORK.name, action=WORK.action, check=True), samples.removal(check=True)))
    assert [event["event"] for event in looked] == ["planned", "spared"]
    assert looked[0]["actions"] == ["remove 48,210 keys of cache:* in database 0"]


def test_nothing_to_do_is_a_plan_of_none() -> None:
    assert only(WORK, {**samples.EMPTY, "plan": samples.plan(0, [])})["plan"]["count"] == 0


def test_failure_keeps_what_was_done_before_it() -> None:
    result = {
        **samples.removal(),
        "failed": True,
        "msg": "late",
        "error": {"kind": "timeout", "message": "late"},
        "undone": ["put back"],
    }
    found = list(journal.events(ran(name=WORK.name, action=WORK.action, status="failed"), result))
    assert [event["event"] for event in found] == ["planned", "spared", "acted", "measured", "failed"]
    assert found[-1]["undone"] == ["put back"]


@pytest.mark.parametrize(
    ("changes", "result", "expected"),
    [
        ({}, {"error": samples.REFUSAL}, "refused"),
        ({}, {"error": {"kind": "conflict", "code": "stale_plan"}}, "refused"),
        ({}, {"error": {"kind": "precondition", "code": "missing_library"}}, "failed"),
        ({}, {"error": {"kind": "timeout"}}, "failed"),
        ({}, {"msg": "Assertion failed"}, "refused"),
        ({"name": "Mitigate | x", "action": "command"}, {"msg": "non-zero return code"}, "failed"),
        ({"status": "unreachable"}, {"msg": "no route"}, "failed"),
    ],
)
def test_would_not_differs_from_could_not(changes: dict[str, Any], result: dict[str, Any], expected: str) -> None:
    assert only(ran(**{"status": "failed", **changes}), result)["event"] == expected


def test_no_log_leaves_only_the_status() -> None:
    event = only(WORK, {"censored": "hidden", "changed": True, "plan": samples.plan(1, ["x"])})
    assert event == {"event": "acted", "actions": ["Remove"], "undo": [], "note": "The result is hidden by no_log."}


def test_an_async_start_is_not_yet_a_change() -> None:
    assert only(WORK, {"ansible_job_id": "j1", "started": 1, "finished": 0, "changed": True})["event"] == "passed"


@pytest.mark.parametrize(
    "name", ["Diagnose | Look", "role_name : Diagnose | Look", "DIAGNOSE | Look", "sre.runbooks.x : diagnose | Look"]
)
def test_the_phase_is_the_head_of_the_name(name: str) -> None:
    assert ran(name=name).phase == "Diagnose"


@pytest.mark.parametrize("name", ["Look", "Diagnose", "a | b", ""])
def test_other_names_have_no_phase(name: str) -> None:
    assert ran(name=name).phase == ""


@pytest.mark.parametrize("text", ["42", 42, "a", "A.b-c_9", "x" * 64])
def test_a_run_id_names_a_folder(text: object) -> None:
    assert journal.run_id(text) == str(text)


@pytest.mark.parametrize("text", ["", ".", "..", "../x", "a/b", "a b", "x" * 65, "-rf", None, "a\n"])
def test_what_does_not_is_no_run_id(text: object) -> None:
    assert journal.run_id(text) == ""


CANARY = "s3cr3t-canary"


@pytest.mark.parametrize(
    "value",
    [
        f"redis://app:{CANARY}@10.0.0.1/0",
        f"AUTH failed: password={CANARY}",
        f"Authorization: Bearer {CANARY}",
        {"password": CANARY},
        {"deep": [{"undo": {"requirepass": CANARY}}]},
        {f"token={CANARY}": 1},
        f"{'x' * 1990} redis://:{CANARY}@h",
        f"plain {CANARY}",
    ],
)
def test_no_secret_in_a_line(value: object) -> None:
    line = journal.make_line(STAMP, WORK, {"event": "failed", "error": value}, {CANARY})
    assert CANARY[:6] not in json.dumps(line)
    if value != f"plain {CANARY}":  # known by its value alone
        assert CANARY[:6] not in json.dumps(journal.make_line(STAMP, WORK, {"event": "failed", "error": value}))


def test_secrets_are_known_by_name_and_inside_urls() -> None:
    found = journal.known_secrets(
        {"REDIS_PASSWORD": "p1", "DATABASE_URL": "postgres://u:p%402@h/db", "HOME": "/root", "SSH_AUTH_SOCK": "/tmp/s"},
        {"redis_connection": {"password": "p3"}, "password": True},
    )
    assert {"p1", "p%402", "p@2"} <= found
    assert not {"/root", "/tmp/s"} & found


def test_long_lists_are_cut_and_counted() -> None:
    line = journal.make_line(STAMP, WORK, {"event": "spared", "spared": [{"subject": str(n)} for n in range(1000)]})
    assert len(line["spared"]) == 200
    assert line["spared_rest"] == 800


def test_a_line_is_bounded_whatever_comes() -> None:
    nested: Any = ["x" * 5000] * 500
    line = journal.make_line(STAMP, WORK, {"event": "acted", "actions": nested, "undo": [{"words": nested}] * 500})
    assert len(journal.encoded(line)) < 2 * journal.WIDEST
    deep: Any = {}
    for _level in range(100):
        deep = {"x": deep}
    json.dumps(journal.make_line(STAMP, WORK, {"event": "acted", "deep": deep}))


def test_hash_hides_key_names_everywhere_but_not_the_target() -> None:
    finding = {
        "id": "redis.big_key",
        "severity": "info",
        "subject": "db0:user:4711",
        "evidence": {"largest": [{"key": "user:4712"}]},
    }
    result = {**samples.removal(subject="user:4711"), "findings": [finding, samples.FULL]}
    hidden = json.dumps(journal.conceal(result))
    assert "user:471" not in hidden
    assert "sha256:" in hidden
    assert "cache-a:6379" in hidden
    assert "session:*" not in hidden
    assert journal.conceal(result) == journal.conceal(result)


def outcome_of(*lines: tuple[journal.Ran, dict[str, Any]], failed: bool = False) -> str:
    made = [journal.make_line(STAMP, r, event) for r, result in lines for event in journal.events(r, result)]
    return journal.outcome(made, failed)


def test_outcomes() -> None:
    fail = ran(name="Report | Say why", action="ansible.builtin.fail", status="failed")
    lease = ran(name="Guard | Take the lock", action="sre.runbooks.lease")
    verify = ran(name="Verify | Look", action="sre.runbooks.redis_info")
    bad = ran(name=WORK.name, action=WORK.action, status="failed")
    refusal = {"failed": True, "error": samples.REFUSAL}
    sick, well = samples.info(samples.FULL), samples.info()
    taken = {**samples.removal(), "actions": ["take the lock"]}
    assert outcome_of((LOOK, well)) == "nothing_to_do"
    assert outcome_of((LOOK, well), (lease, taken)) == "nothing_to_do"
    assert outcome_of((LOOK, sick)) == "not_treated"
    assert outcome_of((LOOK, sick), (WORK, samples.removal())) == "unverified"
    assert (
        outcome_of((LOOK, sick), (WORK, samples.removal()), (verify, samples.info(verify=samples.VERIFIED))) == "mended"
    )
    assert outcome_of((LOOK, sick), (bad, refusal), (fail, {"msg": "no"}), failed=True) == "refused"
    assert outcome_of((WORK, samples.removal()), (bad, refusal), failed=True) == "failed"
    assert outcome_of((bad, {"failed": True, "error": {"kind": "timeout"}}), failed=True) == "failed"


def test_the_file_is_ours_alone_and_complete_after_every_line(tmp_path: Path) -> None:
    book = journal.Journal(str(tmp_path / "new" / "reports" / "r1"))
    book.open()
    book.add({"event": "started", "odd": "\u202e\ud800"})
    file = Path(book.folder) / "journal.jsonl"
    assert journal.read_lines(file.read_text()) == [{"event": "started", "odd": "\u202e\ud800"}]
    assert file.read_bytes().isascii()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(book.folder).stat().st_mode) == 0o700
    book.close()


def test_a_run_id_used_again_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    first, second = journal.Journal(str(tmp_path / "r1")), journal.Journal(str(tmp_path / "r1"))
    for book in (first, second):
        book.open()
        book.close()
    assert (first.folder, second.folder) == (str(tmp_path / "r1"), str(tmp_path / "r1-2"))


def test_a_cut_last_line_is_left_out() -> None:
    assert journal.read_lines('{"a":1}\n{"a":2}\n{"a":') == [{"a": 1}, {"a": 2}]


def test_a_full_disk_is_told_once_and_lines_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = journal.Journal(str(tmp_path / "r1"))
    book.open()

    def full(_file: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            book.add({"n": 1})
    book.add({"n": 2})
    assert book.lines == [{"n": 1}, {"n": 2}]
    assert (tmp_path / "r1" / "journal.jsonl").read_text() == ""


def test_a_report_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.md"
    journal.write_file(str(target), "one")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600

    def broken(_old: str, _new: str) -> None:
        raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="bad disk"):
        journal.write_file(str(target), "two")
    assert target.read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
