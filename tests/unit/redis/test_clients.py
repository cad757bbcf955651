# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which connections a selection means, and why others stay, from the lines of CLIENT LIST alone."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._redis.sessions import (
    Place,
    Session,
    Wanted,
    by_name,
    parse_sessions,
    spared_classes,
)

LINE = (
    "id=12 addr=10.0.0.7:50112 laddr=10.0.0.1:6379 fd=8 name=web age=900 idle=700 flags=N db=0 sub=0 psub=0 ssub=0 "
    "multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=1024 rbp=0 obl=0 oll=0 omem=0 tot-mem=1800 events=r "
    "cmd=get user=app redir=-1 resp=2 lib-name=redis-py lib-ver=5.0"
)
OPTIONS: dict[str, Any] = {
    **dict.fromkeys(("name", "user", "addr", "lib", "cmd", "flags", "min_idle", "min_age")),
    "type": "normal",
    "protect_blocked": True,
    "protect": [],
}


def wanted(**options: Any) -> Wanted:
    return Wanted.of({**OPTIONS, "name": "web*", "min_idle": "10m", **options})


def session(**fields: Any) -> Session:
    line = LINE
    for name, value in fields.items():
        name_ = name.replace("_", "-")
        start = line.index(f" {name_}=") + 1 if name != "id" else 0
        end = line.find(" ", start)
        line = f"{line[:start]}{name_}={value}{line[end:] if end > 0 else ''}"
    return parse_sessions(line.encode(), "server")[0]


def test_a_line_becomes_a_session() -> None:
    found = session()
    assert (found.id, found.addr, found.name, found.user, found.lib) == (12, "10.0.0.7:50112", "web", "app", "redis-py")
    assert (found.age, found.idle, found.command, found.type) == (900, 700, "get", "normal")
    assert found.subject == "id=12 addr=10.0.0.7:50112 name=web"


@pytest.mark.parametrize(
    ("line", "name", "addr"),
    [
        (
            b"id=1 addr=/var/run/my redis/s.sock:0 name=a age=1 idle=1 flags=U cmd=ping",
            "a",
            "/var/run/my redis/s.sock:0",
        ),
        (b"id=1 addr=1.2.3.4:5 name=a=b=c age=1 idle=1 flags=N cmd=ping", "a=b=c", "1.2.3.4:5"),
        (b"id=1 addr=1.2.3.4:5 name=\xff\xfe age=1 idle=1 flags=N cmd=ping", "\\xff\\xfe", "1.2.3.4:5"),
        (b"id=1 addr=[2001:db8::7]:5 name= age=1 idle=1 flags=N cmd=NULL", "", "[2001:db8::7]:5"),
    ],
)
def test_values_that_break_naive_parsers(line: bytes, name: str, addr: str) -> None:
    (found,) = parse_sessions(line + b"\n", "server")
    assert (found.name, found.addr) == (name, addr)


def test_an_old_server_that_knows_no_user_and_no_library() -> None:
    (found,) = parse_sessions(b"id=3 addr=1.2.3.4:5 fd=8 name= age=1 idle=0 flags=N db=0 cmd=client\n", "server")
    assert (found.user, found.lib) == ("", "")


@pytest.mark.parametrize(
    ("options", "fields", "meant"),
    [
        ({}, {}, True),
        ({}, {"idle": 599}, False),
        ({}, {"name": "worker"}, False),
        ({"name": None, "user": "app"}, {}, True),
        ({"name": None, "user": "app"}, {"user": "other"}, False),
        ({"name": None, "lib": "redis-*"}, {}, True),
        ({"name": None, "cmd": "GET"}, {}, True),
        ({"name": None, "cmd": "config|*"}, {"cmd": "config|get"}, True),
        ({"name": "", "user": "app"}, {}, False),
        ({"name": "", "user": "app"}, {"name": ""}, True),
        ({"min_idle": None, "min_age": "15m"}, {"idle": 0}, True),
        ({"min_idle": None, "min_age": "16m"}, {}, False),
        ({"flags": "t"}, {"flags": "tN"}, True),
        ({"flags": "t"}, {}, False),
        ({"name": None, "addr": "10.0.0.0/8"}, {}, True),
        ({"name": None, "addr": "10.0.0.8"}, {}, False),
        ({"name": None, "addr": "10.0.0.7:50112"}, {}, True),
        ({"name": None, "addr": "10.0.0.7:50113"}, {}, False),
        ({"name": None, "addr": "10.0.0.0/8"}, {"addr": "[::ffff:10.1.2.3]:5"}, True),
        ({"name": None, "addr": "2001:db8::/32"}, {"addr": "[2001:db8::7]:5"}, True),
        ({"name": None, "addr": "10.0.0.0/8"}, {"addr": "/run/redis.sock:0"}, False),
    ],
)
def test_what_a_selection_means(options: dict[str, Any], fields: dict[str, Any], meant: bool) -> None:
    assert wanted(**options).matches(session(**fields)) is meant


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, ""),
        ({"name": "sre.runbooks"}, "a connection of this collection"),
        ({"flags": "S", "cmd": "replconf"}, "the link of a replica"),
        ({"flags": "M"}, "the link to the primary"),
        ({"name": "sentinel-1f2e3d4c-cmd"}, "a Sentinel watches through it"),
        ({"flags": "O"}, "runs MONITOR; ask for it with flags O"),
        ({"flags": "P"}, "a subscriber is idle by nature"),
        ({"flags": "x"}, "is inside MULTI"),
        ({"flags": "b", "cmd": "brpop"}, "waits in brpop"),
        ({"cmd": "bzpopmin"}, "a worker: its latest command is bzpopmin"),
        ({"cmd": "xreadgroup"}, "a worker: its latest command is xreadgroup"),
        ({"flags": "A"}, "is being closed already"),
        ({"name": "web-cron"}, "protected by *-cron"),
        ({"user": "ops"}, "protected by ops"),
        ({"addr": "192.0.2.9:1"}, "protected by 192.0.2.0/24"),
    ],
)
def test_why_a_client_stays(fields: dict[str, Any], reason: str) -> None:
    selection = wanted(protect=["*-cron", "ops", "192.0.2.0/24"])
    assert selection.reason_to_spare(session(**fields)) == reason


def test_its_own_connection_stays_whatever_its_name() -> None:
    assert wanted().reason_to_spare(session(), own=[12]) == "a connection of this collection"


def test_what_is_asked_for_may_go() -> None:
    assert wanted(flags="O").reason_to_spare(session(flags="O")) == ""
    assert wanted(protect_blocked=False).reason_to_spare(session(flags="b", cmd="brpop")) == ""
    subscribers = wanted(type="pubsub", min_idle=None, min_age="1h")
    assert subscribers.reason_to_spare(session(flags="P")) == ""
    assert subscribers.reason_to_spare(session()) == "its type is normal"


@pytest.mark.parametrize(
    "options",
    [
        {"name": "*"},
        {"name": "?*"},
        {"name": ""},
        {"min_idle": "0"},
        {"min_idle": "soon"},
        {"addr": "somewhere"},
        {"type": "pubsub"},
    ],
)
def test_a_selection_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OpsError) as refused:
        wanted(**options)
    assert refused.value.code == "bad_parameter"


def test_a_place_is_a_network_or_one_connection() -> None:
    assert Place.parse("[::1]:50112", "addr").holds(session(addr="[::1]:50112"))
    assert Place.parse("::1", "addr").holds(session(addr="[::1]:50112"))


def test_many_that_are_spared_alike_are_one_class() -> None:
    few = [(session(id=number), "waits in brpop") for number in range(50)]
    assert len(spared_classes(few)) == 50
    many = spared_classes([*few, (session(id=99), "waits in brpop"), (session(name="web2"), "is inside MULTI")])
    assert [(spared.subject, spared.count) for spared in many] == [("name=web", 51), (session(name="web2").subject, 1)]


def test_who_they_are_by_name() -> None:
    crowd = [session(id=number, name="web" if number % 3 else "cron") for number in range(9)]
    assert by_name(crowd) == [
        {"name": "web", "user": "app", "count": 6},
        {"name": "cron", "user": "app", "count": 3},
    ]
