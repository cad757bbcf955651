# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings compared as the server means them, and those that are never touched."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._redis.settings import (
    canonical,
    merged,
    refuse_protected,
    settings_of_now,
)

NOW = datetime(2030, 1, 31, 12, 0, tzinfo=UTC)
BUFFERS = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"


@pytest.mark.parametrize(
    ("name", "written", "answered"),
    [
        ("maxmemory", "64mb", "67108864"),
        ("maxmemory", "1.5GB", "1610612736"),
        ("maxmemory", 67108864, "67108864"),
        ("maxmemory-clients", "5%", "5%"),
        ("repl-backlog-size", "1k", "1000"),
        ("appendonly", True, "yes"),
        ("appendonly", "NO", "no"),
        ("maxmemory-policy", "AllKeys-LRU", "allkeys-lru"),
        ("save", "900 1  300 10", "900 1 300 10"),
        ("save", ["900 1", "300 10"], "900 1 300 10"),
        ("save", '""', ""),
        ("save", [], ""),
        ("notify-keyspace-events", "KEA", "AKE"),
        ("notify-keyspace-events", "Ex", "xE"),
        ("client-output-buffer-limit", BUFFERS.replace("slave", "replica"), BUFFERS),
        ("client-output-buffer-limit", {"pubsub": "32mb 8mb 60"}, "pubsub 33554432 8388608 60"),
        ("timeout", 300, "300"),
        ("proc-title-template", "{title} {listen-addr}", "{title} {listen-addr}"),
    ],
)
def test_equal_settings_are_equal_text(name: str, written: Any, answered: str) -> None:
    assert canonical(name, written) == canonical(name, answered)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("maxmemory", "64mb", "64m"),
        ("save", "900 1", "900 2"),
        ("notify-keyspace-events", "KEA", "KEg"),
        ("logfile", "/var/log/Redis.log", "/var/log/redis.log"),
    ],
)
def test_different_settings_differ(name: str, one: Any, other: str) -> None:
    assert canonical(name, one) != canonical(name, other)


@pytest.mark.parametrize(
    ("name", "value"),
    [("maxmemory", "much"), ("save", "900"), ("save", "often"), ("client-output-buffer-limit", "pubsub 1mb")],
)
def test_a_value_that_makes_no_sense_names_its_setting(name: str, value: Any) -> None:
    with pytest.raises(OpsError, match=name):
        canonical(name, value)


def test_buffer_limits_that_are_not_named_stay() -> None:
    after = merged("client-output-buffer-limit", {"replica": "512mb 128mb 60"}, BUFFERS)
    assert after == "normal 0 0 0 pubsub 33554432 8388608 60 replica 536870912 134217728 60"
    assert merged("timeout", 5, "0") == "5"


@pytest.mark.parametrize("name", ["dir", "slaveof", "enable-debug-command", "tls-port", "tls-key-file-pass", "user"])
def test_protected_settings_are_refused_without_their_value(name: str) -> None:
    with pytest.raises(OpsError) as refused:
        refuse_protected({"timeout": 5, name: "hunter2"}, [])
    assert (refused.value.kind, refused.value.code) == ("guard_refused", "protected")
    assert "hunter2" not in str(refused.value.as_dict())


def test_more_can_be_protected() -> None:
    refuse_protected({"maxmemory": "1gb", "save": ""}, [])
    with pytest.raises(OpsError, match="protect names it"):
        refuse_protected({"maxmemory": "1gb"}, ["maxmemory*"])


class TestUntil:
    TASK = ({"Timeout": 7}, {"timeout": 8})

    def test_for_good(self) -> None:
        assert settings_of_now({"Timeout": 7}, None, None, NOW) == ({"timeout": 7}, False)

    @pytest.mark.parametrize(
        "moment", ["2030-01-31T12:00:01Z", "2030-01-31T14:00:00+01:00", "2030-01-31 12:00:01+00:00"]
    )
    def test_before_the_moment(self, moment: str) -> None:
        settings, otherwise = self.TASK
        assert settings_of_now(settings, moment, otherwise, NOW) == ({"timeout": 7}, True)

    @pytest.mark.parametrize("moment", ["2030-01-31T12:00:00Z", "2030-01-31T12:59:00+01:00"])
    def test_from_the_moment_on(self, moment: str) -> None:
        settings, otherwise = self.TASK
        assert settings_of_now(settings, moment, otherwise, NOW) == ({"timeout": 8}, False)

    @pytest.mark.parametrize(
        ("moment", "otherwise"),
        [("later", {"timeout": 8}), ("2030-01-31T12:00:00", {"timeout": 8}), ("2031-01-01T00:00:00Z", {"hz": 1})],
    )
    def test_what_could_not_be_undone_is_refused(self, moment: str, otherwise: dict[str, Any]) -> None:
        with pytest.raises(OpsError) as refused:
            settings_of_now({"timeout": 7}, moment, otherwise, NOW)
        assert refused.value.code == "bad_parameter"

    def test_a_pattern_is_no_name(self) -> None:
        with pytest.raises(OpsError):
            settings_of_now({"max*": 1}, None, None, NOW)
