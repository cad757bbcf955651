# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From task results to the lines of a journal, and the file that holds them.

Everything but L(Journal) is pure. What leaves here is redacted once more, and bounded: a journal is
read in a hurry, and one hostile key name must not fill a disk.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import unquote

from ..module_utils._core.redact import MASK, digest, redact_text

Event = dict[str, Any]

PHASES = ("Diagnose", "Guard", "Mitigate", "Verify", "Report")

#: Entries of one list, characters of one text, characters of one line (about).
MOST, LONGEST, WIDEST = 200, 2000, 128 * 1024
_DEEPEST = 8

#: A secret that begins within what is shown ends within this; longer ones are masked to the end.
_MARGIN = 512

#: Error kinds that mean "would not", not "could not".
_REFUSALS = frozenset({"guard_refused", "conflict", "precondition"})
_GATES = frozenset({"assert", "parameters", "validate_argument_spec"})

#: Phases whose changes are bookkeeping (a lock, a report), not treatment.
_SUPPORT = frozenset({"Diagnose", "Guard", "Report"})

_SECRET_ENDINGS = (
    *("password", "passwd", "pwd", "_pass", "requirepass", "secret", "token", "_auth", "masterauth"),
    *("secret_key", "access_key", "api_key", "apikey"),
)
#: Begins at what is rare: a scheme before it would make the search of a long text quadratic.
_URL_PASSWORD = re.compile(r"://[^\s/:@]*:([^\s/@]+)@")
_KEY_FIELDS = frozenset({"key", "keys", "pattern", "patterns", "prefix", "prefixes"})


class Ran(NamedTuple):
    """One task on one host (or one item of its loop), as far as the journal cares."""

    host: str
    name: str
    action: str
    status: str  # ok, failed, unreachable, skipped
    seconds: float = 0.0
    check: bool = False
    ignored: bool = False
    item: str = ""

    @property
    def phase(self) -> str:
        head, mark, _words = self.name.partition(" | ")
        # A role puts its own name before the task's.
        word = head.rpartition(" : ")[2].strip().capitalize()
        return word if mark and word in PHASES else ""

    @property
    def words(self) -> str:
        return self.name.partition(" | ")[2] or self.name

    @property
    def deed(self) -> str:
        """What a task did, where its module does not say."""
        return f"{self.words}: {self.item}" if self.item else self.words

    @property
    def module(self) -> str:
        return self.action.rpartition(".")[2]


def run_id(text: object) -> str:
    """The text where it can name a folder, else nothing."""
    usable = isinstance(text, (str, int)) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", str(text))
    return str(text) if usable else ""


def events(ran: Ran, result: Mapping[str, Any]) -> Iterator[Event]:
    """What one result means to the record. A result hidden by C(no_log) leaves its status only."""
    if ran.status == "skipped":
        yield {"event": "skipped", "reason": str(result.get("false_condition") or result.get("skip_reason") or "")}
    elif "censored" in result:
        yield _status(ran, result, "The result is hidden by no_log.")
    elif isinstance(result.get("plan"), Mapping) and "id" in result["plan"]:
        yield from _of_module(ran, result)
    elif ran.status in ("failed", "unreachable"):
        yield _failure(ran, result)
    else:
        yield _status(ran, result, "")


def _of_module(ran: Ran, result: Mapping[str, Any]) -> Iterator[Event]:
    """The shape that every module of this collection returns."""
    plan, check = result["plan"], ran.check
    if _looks(ran) or result.get("findings"):
        yield _diagnosis(result)
    if not _looks(ran):
        extra = {name: result[name] for name in ("actions", "undo") if check and result.get(name)}
        yield {"event": "planned", "check": check, "plan": plan, "forecast": result.get("forecast") or {}, **extra}
    if result.get("spared"):
        yield {"event": "spared", "spared": result["spared"]}
    if result.get("actions") and not check:
        yield {"event": "acted", "actions": result["actions"], "undo": result.get("undo") or []}
    if result.get("measured"):
        yield {"event": "measured", "measured": result["measured"]}
    if result.get("verify"):
        yield {"event": "verified", "verify": result["verify"]}
    if ran.status == "failed":
        yield _failure(ran, result)


def _looks(ran: Ran) -> bool:
    return ran.module.endswith("_info") or ran.module == "probe"


def _diagnosis(result: Mapping[str, Any]) -> Event:
    sections = {n: value for n, value in result.items() if n not in _COMMON and not n.startswith("_ansible_")}
    numbers = {name: leaves for name, value in sections.items() if (leaves := _numbers(value))}
    return {
        "event": "diagnosed",
        "findings": result.get("findings") or [],
        "server": result.get("server") or {},
        "target": result["plan"].get("target") or {},
        "unseen": result.get("unseen") or {},
        "seen": sorted(name for name, value in sections.items() if value is not None),
        "numbers": numbers,
    }


_COMMON = frozenset(
    {"actions", "changed", "diff", "error", "failed", "findings", "forecast", "measured", "msg", "plan", "server"}
    | {"spared", "undo", "undone", "unseen", "verify", "warnings", "deprecations", "invocation", "exception"}
)


def _numbers(section: Any) -> dict[str, float]:
    """Numbers only: they tell how it was, and cannot hold a secret."""
    if not isinstance(section, Mapping):
        return {}
    return {
        str(name): value
        for name, value in section.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _status(ran: Ran, result: Mapping[str, Any], note: str) -> Event:
    """A result that is not in our modules' shape: what can be said of it is how it ended."""
    noted = {"note": note} if note else {}
    if ran.status != "ok":
        return {"event": "failed", "error": {"kind": "", "message": note, "hint": ""}, "ignored": ran.ignored}
    begun = result.get("ansible_job_id") and not result.get("finished")  # async: not done, only begun
    if not result.get("changed") or begun:
        return {"event": "passed", **noted}
    if ran.check:
        return {"event": "planned", "check": True, "plan": {}, "actions": [ran.deed], **noted}
    return {"event": "acted", "actions": [ran.deed], "undo": [], **noted}


def _failure(ran: Ran, result: Mapping[str, Any]) -> Event:
    known = result.get("error")
    error = dict(known) if isinstance(known, Mapping) else {"kind": "", "message": _message(result), "hint": ""}
    if ran.status == "unreachable":
        error = {"kind": "unreachable", "message": _message(result), "hint": "Look at the connection of this host."}
    if "message" not in error:
        error["message"] = _message(result)
    name = "refused" if _is_refusal(ran, error) else "failed"
    undone = {"undone": result["undone"]} if result.get("undone") else {}
    return {"event": name, "error": error, "ignored": ran.ignored, **undone}


def _message(result: Mapping[str, Any]) -> str:
    return str(result.get("msg") or result.get("reason") or "The task failed without a message.")


def _is_refusal(ran: Ran, error: Mapping[str, Any]) -> bool:
    if error.get("kind"):
        return error["kind"] in _REFUSALS and error.get("code") != "missing_library"
    return ran.module in _GATES or ran.phase == "Guard"


def outcome(lines: Sequence[Event], failed: bool) -> str:
    """How a runbook ended on a host: one of the words that L(OUTCOMES) explains."""
    acted = [place for place, line in enumerate(lines) if line["event"] == "acted" and _treats(line)]
    if failed:
        return "refused" if not acted and _only_refused(lines) else "failed"
    if acted:
        return "mended" if any(_proves(line) for line in lines[acted[-1] + 1 :]) else "unverified"
    if any(line["event"] == "planned" and line.get("check") and _has_work(line) for line in lines):
        return "check_only"
    last = {line["action"]: line["findings"] for line in lines if line["event"] == "diagnosed"}
    sick = any(found.get("severity") == "critical" for findings in last.values() for found in findings)
    return "not_treated" if sick else "nothing_to_do"


#: Stable words of the journal, and how people read them.
OUTCOMES = {
    "mended": "mended",
    "unverified": "changed, not verified",
    "nothing_to_do": "nothing to do",
    "not_treated": "not treated",
    "check_only": "check only",
    "refused": "refused",
    "failed": "failed",
    "interrupted": "interrupted",
}


def _treats(line: Event) -> bool:
    return line["phase"] not in _SUPPORT and not line["action"].endswith(".lease")


def _proves(line: Event) -> bool:
    if line["event"] == "verified":
        return bool(line["verify"].get("ok"))
    return line["phase"] == "Verify" and line["event"] in ("passed", "diagnosed")


def _has_work(line: Event) -> bool:
    return _treats(line) and bool(line.get("plan", {}).get("count") or line.get("actions"))


def _only_refused(lines: Sequence[Event]) -> bool:
    """A rescue ends in C(fail), which only repeats what went wrong before."""
    troubles = [line for line in lines if line["event"] in ("failed", "refused") and not line.get("ignored")]
    causes = [line for line in troubles if not line["action"].endswith("fail")] or troubles
    return bool(causes) and all(line["event"] == "refused" for line in causes)


# --- keeping secrets, key names and bulk out -------------------------------------------------------


def known_secrets(*sources: Mapping[str, Any]) -> frozenset[str]:
    """Values that their names call secret, and the passwords inside of URLs, in both spellings."""
    found: set[str] = set()
    for source in sources:
        for name, value in source.items():
            if not isinstance(value, str) or value.lower() in ("true", "false", "none", "null"):
                continue
            found.update(_URL_PASSWORD.findall(value))
            if _is_secret(str(name)):
                found.add(str(value))
    return frozenset(found | {unquote(secret) for secret in found})


def _is_secret(name: str) -> bool:
    lower = name.lower()
    return lower in ("pass", "auth") or lower.endswith(_SECRET_ENDINGS)


class Cleaner:
    """Makes plain JSON values of anything: redacted, and no more of them than one line may hold."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = tuple(secrets)
        self._left = WIDEST

    def clean(self, value: Any, depth: int = 0) -> Any:
        if value is None or isinstance(value, (bool, int, float)):
            self._left -= 8
            return value
        if isinstance(value, (Mapping, list, tuple, set, frozenset)) and depth >= _DEEPEST:
            return "…"
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._sequence(list(value), depth)
        return self._text(str(value))

    def _text(self, text: str) -> str:
        # What is cut off here stands beyond what is shown, so no secret can be halved into view.
        whole, text = len(text), redact_text(text[: LONGEST + _MARGIN], self._secrets)
        if whole > LONGEST + _MARGIN or len(text) > LONGEST:
            text = f"{text[:LONGEST]}… (of {whole} characters)"
        self._left -= len(text) if text.isascii() else 6 * len(text)
        return text

    def _sequence(self, values: list[Any], depth: int) -> list[Any]:
        kept: list[Any] = []
        while len(kept) < min(len(values), MOST) and self._left > 0:
            kept.append(self.clean(values[len(kept)], depth + 1))
        return kept

    def _mapping(self, values: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        tidy: dict[str, Any] = {}
        for key, value in islice(values.items(), MOST):
            if self._left <= 0:
                break
            name = self._text(str(key))
            hidden = isinstance(value, str) and value and _is_secret(name)
            tidy[name] = MASK if hidden else self.clean(value, depth + 1)
            if isinstance(value, (list, tuple)) and isinstance(tidy[name], list) and len(value) > len(tidy[name]):
                tidy[f"{name}_rest"] = len(value) - len(tidy[name])
        return tidy


def conceal(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with a digest in place of every key name, wherever the name stands."""
    names = {name for name in _subjects(result) if name}
    names |= {tail[1] for name in names if (tail := re.fullmatch(r"(?s)db\d+[:/ ](.+)", name))}
    ordered = sorted(names - _targets(result), key=len, reverse=True)
    if not ordered:
        return dict(result)
    # In one pass, so that a short name cannot hit a digest that has just been put in.
    pattern = re.compile("|".join(map(re.escape, ordered)))
    hidden: dict[str, Any] = _replaced(result, pattern)
    return hidden


def _subjects(result: Mapping[str, Any]) -> Iterator[str]:
    plan = result.get("plan")
    yield from map(str, plan.get("sample") or [] if isinstance(plan, Mapping) else [])
    for name in ("spared", "undo", "findings"):
        yield from (str(item.get("subject", "")) for item in result.get(name) or [] if isinstance(item, Mapping))
    yield from _key_names(result)


def _key_names(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name in _KEY_FIELDS and isinstance(item, (str, list, tuple)):
                yield from [str(item)] if isinstance(item, str) else (str(entry) for entry in item)
            else:
                yield from _key_names(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _key_names(item)


def _targets(result: Mapping[str, Any]) -> set[str]:
    """Names of servers: a finding's subject is often the target itself, which is no key."""
    server, plan = result.get("server") or {}, result.get("plan") or {}
    target = plan.get("target") or {}
    return {str(server.get("name", "")), str(target.get("name", "")), *map(str, result.get("nodes") or {})}


def _replaced(value: Any, pattern: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return pattern.sub(lambda found: digest(found[0].encode("utf-8", "surrogateescape")), value)
    if isinstance(value, Mapping):
        return {name: _replaced(item, pattern) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(item, pattern) for item in value]
    return value


# --- the file --------------------------------------------------------------------------------------


class Stamp(NamedTuple):
    """What stands on every line."""

    at: str
    run: str
    runbook: str


def make_line(stamp: Stamp, ran: Ran, event: Event, secrets: Iterable[str] = ()) -> Event:
    """One line of the journal, as a plain dictionary."""
    head = {"at": stamp.at, "run": stamp.run, "runbook": stamp.runbook, "host": ran.host, "event": event["event"]}
    place: Event = {"phase": ran.phase, "task": ran.words, "action": ran.action}
    if ran.action:
        place["seconds"] = round(ran.seconds, 3)
    if ran.item:
        place["item"] = ran.item
    whole = {**head, **place, **event}
    tidy: Event = Cleaner(secrets).clean(whole)
    return tidy


def encoded(entry: Event) -> bytes:
    """ASCII, so that no terminal or pager can be fooled by what stands in it."""
    return json.dumps(entry, separators=(",", ":"), default=str).encode() + b"\n"


class Journal:
    """An append-only file that is complete after every line, and its lines so far."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.lines: list[Event] = []
        self._file = -1

    def open(self) -> None:
        """Makes the folder and the file, both new and ours alone. Raises OSError."""
        os.makedirs(os.path.dirname(self.folder), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
        self.folder = _new_folder(self.folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(f"{self.folder}/journal.jsonl", flags, 0o600)

    def add(self, entry: Event) -> None:
        """Raises OSError once; from then on lines are only remembered."""
        self.lines.append(entry)
        if self._file < 0:
            return
        rest = encoded(entry)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _new_folder(wanted: str) -> str:
    """A run id that was used before gets a number: an earlier record is never touched."""
    for number in range(1, 1000):
        folder = wanted if number == 1 else f"{wanted}-{number}"
        try:
            os.mkdir(folder, 0o700)  # noqa: PTH102
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(17, "a thousand records of this run id", wanted)


def write_file(path: str, text: str) -> None:
    """The whole file or none, readable by its owner only. Raises OSError."""
    scratch = f"{path}.tmp"
    file = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(file, "w", encoding="utf-8", errors="backslashreplace") as out:
            out.write(text)
        os.replace(scratch, path)  # noqa: PTH105
    except OSError:
        os.unlink(scratch)  # noqa: PTH108
        raise


def read_lines(text: str) -> list[Event]:
    """The lines of a journal; a last one that was cut off by a kill is left out."""
    lines = []
    for raw in text.splitlines():
        try:
            lines.append(json.loads(raw))
        except ValueError:
            break
    return lines
