# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings as values that can be compared: what people write, and what CONFIG GET answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.units import parse_moment, parse_size

#: Why a setting is never changed from here, by glob pattern.
PROTECTED: Mapping[str, str] = {
    "dir": "a new folder for snapshots is how a server is broken into, and how data gets lost",
    "dbfilename": "a new file name for snapshots is how a server is broken into, and how data gets lost",
    "append*name": "the server would start without its data",
    "replicaof": "it discards the data of the server that becomes a replica",
    "slaveof": "it discards the data of the server that becomes a replica",
    "protected-mode": "it opens the server to the network",
    "bind*": "it may open the server to the network, or close it to everybody",
    "*port": "it may close the server to everybody",
    "unixsocket*": "it may close the server to everybody",
    "requirepass": "a secret; it locks out every client that does not know it yet",
    "masterauth": "a secret; give it by configuration management",
    "masteruser": "replication breaks where it does not fit",
    "primary*": "replication breaks where it does not fit",
    "*-file-pass": "a secret; give it by configuration management",
    "user": "users are managed with ACL SETUSER",
    "aclfile": "users are managed with ACL SETUSER",
    "rename-command": "clients that use the command would fail",
    "enable-*": "it opens commands that can take over the server's machine",
    "loadmodule": "it runs code in the server",
    "cluster-*announce*": "the other nodes would look for this one in the wrong place",
    "replica-announce-*": "clients would look for this server in the wrong place",
    "slave-announce-*": "clients would look for this server in the wrong place",
}

_SIZES = frozenset(
    {
        *("maxmemory", "maxmemory-clients", "client-query-buffer-limit", "cluster-link-sendbuf-limit"),
        *("proto-max-bulk-len", "repl-backlog-size", "auto-aof-rewrite-min-size", "active-defrag-ignore-bytes"),
        *("stream-node-max-bytes", "hll-sparse-max-bytes"),
    }
)

#: Settings whose values the server knows in one case only, and answers in lower case.
_WORDS = frozenset({"maxmemory-policy", "appendfsync", "loglevel", "syslog-facility", "oom-score-adj"})

#: The buffer limits' classes; older names mean the same.
_CLASSES = {"normal": "normal", "replica": "replica", "slave": "replica", "pubsub": "pubsub"}

#: What C(A) stands for in notify-keyspace-events.
_ALL_EVENTS = "g$lshzxetd"


def canonical(name: str, value: Any) -> str:
    """The value in the form in which CONFIG GET answers, so that equal settings are equal text.

    Raises a bad-parameter error that names the setting.
    """
    if name == "save":
        return _save(value)
    if name == "client-output-buffer-limit":
        return _written(buffer_limits(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    words = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value).strip()
    if name == "notify-keyspace-events":
        return "".join(sorted(set(words.replace("A", _ALL_EVENTS))))
    return _plain(name, words)


def _plain(name: str, words: str) -> str:
    if name in _SIZES and not words.endswith("%"):
        return str(parse_size(words, name))
    return words.lower() if name in _WORDS or words.lower() in ("yes", "no") else words


def merged(name: str, wanted: Any, current: str) -> str:
    """The value to set: buffer limits that the caller does not name stay as they are."""
    if name != "client-output-buffer-limit":
        return canonical(name, wanted)
    return _written({**buffer_limits(current), **buffer_limits(wanted)})


def buffer_limits(value: Any) -> dict[str, tuple[int, int, int]]:
    """C({class: (hard, soft, seconds)}) of C("pubsub 32mb 8mb 60 ...") or of a mapping by class."""
    name = "client-output-buffer-limit"
    if isinstance(value, Mapping):
        value = " ".join(f"{kind} {limits}" for kind, limits in value.items())
    words = str(value).split()
    if len(words) % 4 or any(kind not in _CLASSES for kind in words[::4]):
        hint = "Write class, hard limit, soft limit and seconds: pubsub 32mb 8mb 60."
        raise bad_parameter(name, f"{value!r} is not a list of limits", hint)
    groups = (words[start : start + 4] for start in range(0, len(words), 4))
    return {
        _CLASSES[kind]: (parse_size(hard, name), parse_size(soft, name), parse_size(seconds, name))
        for kind, hard, soft, seconds in groups
    }


def _written(limits: Mapping[str, tuple[int, int, int]]) -> str:
    return " ".join(f"{kind} {hard} {soft} {seconds}" for kind, (hard, soft, seconds) in sorted(limits.items()))


def _save(value: Any) -> str:
    """Pairs of seconds and changes; none of them means no snapshots."""
    words = " ".join(str(item) for item in value) if isinstance(value, (list, tuple)) else str(value)
    numbers = words.replace('"', "").split()
    if len(numbers) % 2 or not all(number.isdigit() for number in numbers):
        raise bad_parameter("save", f"{value!r} is not a list of seconds and changes", 'Write "900 1 300 10", or "".')
    return " ".join(numbers)


def refuse_protected(names: Mapping[str, Any], protect: list[str]) -> None:
    """Raises guard_refused for a setting that can lock everybody out, leak or lose data."""
    for name in names:
        for pattern, reason in {**PROTECTED, **dict.fromkeys(protect, "protect names it")}.items():
            if fnmatchcase(name, pattern):
                hint = "Nothing was changed. Change it where the server's configuration is kept."
                raise OpsError(Kind.GUARD_REFUSED, f"{name} is protected: {reason}", hint, code="protected")


def settings_of_now(
    settings: Mapping[str, Any], until: str | None, otherwise: Mapping[str, Any] | None, now: datetime
) -> tuple[dict[str, Any], bool]:
    """The settings that hold at C(now), and whether they are temporary."""
    wanted = _named(settings, "settings")
    if not until:
        return wanted, False
    final = _named(otherwise or {}, "otherwise")
    if set(final) != set(wanted):
        left = ", ".join(sorted(set(final) ^ set(wanted)))
        raise bad_parameter("otherwise", f"it has to name the same settings; {left}", "Give each one in both.")
    return (wanted, True) if now < parse_moment(until, "until") else (final, False)


def _named(settings: Mapping[str, Any], option: str) -> dict[str, Any]:
    for name in settings:
        if any(char in name for char in "*?[]\\ "):
            raise bad_parameter(option, f"{name!r} is not the name of a setting", "Name each setting in full.")
    return {name.lower(): "" if value is None else value for name, value in settings.items()}
