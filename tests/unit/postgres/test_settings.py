# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Values compare as the server understands them; what is stored, what wins, and what is never set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.configure import Change
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.setting_hazards import (
    refuse_hazards,
    refuse_protected,
)
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.setting_scopes import (
    Entry,
    Line,
    Scope,
    Situation,
    refuse_misplaced,
)
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.settings import (
    Known,
    canonical,
    is_secret,
    names_of,
    same,
    stored_form,
    written,
)

WORK_MEM = Known("work_mem", "integer", "user", "kB", (), "64", "2147483647", "4096", "4096", "default")
SLOW = Known("log_min_duration_statement", "integer", "superuser", "ms", (), "-1", "2147483647", "-1", "-1", "default")
BUFFERS = Known("shared_buffers", "integer", "postmaster", "8kB", (), "16", "1073741823", "16384", "2048", "default")
COST = Known("random_page_cost", "real", "user", "", (), "0", "1.79769e+308", "4", "4", "default")
DELAY = Known("vacuum_cost_delay", "real", "user", "ms", (), "0", "100", "0", "0", "default")
TIMEOUT = Known("checkpoint_timeout", "integer", "sighup", "s", (), "30", "86400", "300", "300", "default")
ROTATION = Known("log_rotation_age", "integer", "sighup", "min", (), "0", "35791394", "1440", "1440", "default")
FSYNC = Known("fsync", "bool", "sighup", boot_val="on", reset_val="on", source="default")
COMMIT = Known("synchronous_commit", "enum", "user", choices=("local", "remote_write", "on", "off"), reset_val="on")
LEVEL = Known("log_min_messages", "enum", "superuser", choices=("debug2", "info", "warning"), reset_val="warning")
PATH = Known("search_path", "string", "user", boot_val='"$user", public', reset_val='"$user", public')
STYLE = Known("DateStyle", "string", "user", boot_val="ISO, MDY", reset_val="ISO, MDY")
CONF, AUTO = "/data/postgresql.conf:3", "/data/postgresql.auto.conf:3"


def code(caught: pytest.ExceptionInfo[OpsError]) -> tuple[str, str]:
    return caught.value.kind.value, caught.value.code


@pytest.mark.parametrize(
    ("known", "texts"),
    [
        (WORK_MEM, ("65536", "64MB", " 64 MB ", "65536kB", "0.0625GB", "0x10000", "6.5536e4", "67108864B")),
        (SLOW, ("1000", "1s", "1000ms", "1000000us", "1000.2")),
        (SLOW, ("-1", "-1ms")),
        (SLOW, ("60000", "1min", "60s")),
        (BUFFERS, ("16384", "128MB", "131072kB")),
        (TIMEOUT, ("300", "5min", "300s", "300000ms", "0.0833333h")),
        (ROTATION, ("1440", "1d", "24h")),
        (COST, ("1.1", "1.10", "11e-1", ".11e1")),
        (DELAY, ("2", "2ms", "2000us", "0.002s")),
        (FSYNC, ("on", "ON", "true", "t", "yes", "y", "1")),
        (FSYNC, ("off", "of", "false", "f", "no", "0")),
        (COMMIT, ("on", "ON", "true", "1", "yes")),
        (COMMIT, ("remote_write", "Remote_Write")),
        (LEVEL, ("debug2", "debug")),
        (PATH, ('"$user", public', '"$user",public', '"$user" , PUBLIC')),
        (STYLE, ("ISO, MDY", "iso,mdy")),
    ],
)
def test_equal_values_are_equal_text(known: Known, texts: tuple[str, ...]) -> None:
    assert len({canonical(known, text) for text in texts}) == 1


def test_fractions_of_a_unit_are_rounded_as_the_server_does() -> None:
    assert canonical(WORK_MEM, "30.1GB") == str(30822 * 1024)
    assert canonical(DELAY, "0.5") == "0.5"


@pytest.mark.parametrize(
    ("known", "text"),
    [
        (WORK_MEM, "64mb"),
        (WORK_MEM, "64s"),
        (WORK_MEM, "a lot"),
        (WORK_MEM, ""),
        (WORK_MEM, "1kB"),
        (COST, "1ms"),
        (COST, "-1"),
        (FSYNC, "o"),
        (FSYNC, ""),
        (FSYNC, "perhaps"),
        (COMMIT, "maybe"),
    ],
)
def test_what_is_no_value(known: Known, text: str) -> None:
    with pytest.raises(OpsError) as caught:
        canonical(known, text)
    assert code(caught) == ("precondition", "bad_value")
    assert caught.value.hint
    assert same(known, text, text)
    assert not same(known, text, "0.7")


@pytest.mark.parametrize(
    ("known", "value", "texts"),
    [
        (FSYNC, True, ("on",)),
        (FSYNC, False, ("off",)),
        (WORK_MEM, 65536, ("65536",)),
        (WORK_MEM, " 64MB ", ("64MB",)),
        (COST, 1.1, ("1.1",)),
        (PATH, ["app", "B c", "$user"], ("app", "B c", "$user")),
        (PATH, 'app, "B c"', ("app", "B c")),
        (PATH, [], ("",)),
        (PATH, "", ("",)),
        (STYLE, ["ISO", "DMY"], ("ISO, DMY",)),
    ],
)
def test_what_stands_behind_set(known: Known, value: Any, texts: tuple[str, ...]) -> None:
    assert written(known, value) == texts


@pytest.mark.parametrize("value", [{"a": 1}, "a\nb", "a\0b"])
def test_what_no_setting_holds(value: Any) -> None:
    with pytest.raises(OpsError) as caught:
        written(STYLE, value)
    assert code(caught) == ("precondition", "bad_parameter")


def test_names_keep_their_quotes_meaning() -> None:
    assert names_of('A, "B""c" ,d') == ("a", 'B"c', "d")
    for names in (("a",), ("B c",), ("a", 'B"c', "$user"), ("",)):
        assert names_of(stored_form(PATH, names)) == names


@pytest.mark.parametrize("name", ["primary_conninfo", "ssl_passphrase_command", "app.jwt_secret", "x.Password"])
def test_secrets_are_known_by_their_names(name: str) -> None:
    assert is_secret(name)
    assert not is_secret("password_encryption")
    assert not is_secret("work_mem")


class TestScopes:
    @pytest.mark.parametrize(
        ("kind", "role", "database", "words"),
        [
            ("system", None, None, "system"),
            ("role", "a", None, "role a"),
            ("database", None, "b", "database b"),
            ("role_in_database", "a", "b", "role a in database b"),
        ],
    )
    def test_say_whose_setting_it_is(self, kind: str, role: str | None, database: str | None, words: str) -> None:
        scope = Scope.of({"scope": kind, "role": role, "database": database})
        assert str(scope) == words
        template, names = scope.template("RESET %I")
        assert template.count("%I") == len(names) + 1

    @pytest.mark.parametrize(
        ("kind", "role", "database"),
        [("system", "a", None), ("role", None, None), ("role", "a", "b"), ("role_in_database", "a", None)],
    )
    def test_refuse_what_does_not_belong_to_them(self, kind: str, role: str | None, database: str | None) -> None:
        with pytest.raises(OpsError) as caught:
            Scope.of({"scope": kind, "role": role, "database": database})
        assert code(caught) == ("precondition", "bad_parameter")

    @pytest.mark.parametrize(
        ("context", "scope", "wanted"),
        [
            ("internal", Scope("system"), ("unsupported", "immutable")),
            ("sighup", Scope("role", "a"), ("precondition", "wrong_scope")),
            ("superuser-backend", Scope("database", "", "b"), ("precondition", "wrong_scope")),
        ],
    )
    def test_refuse_settings_of_others(self, context: str, scope: Scope, wanted: tuple[str, str]) -> None:
        with pytest.raises(OpsError) as caught:
            refuse_misplaced(replace(FSYNC, context=context), scope)
        assert code(caught) == wanted

    @pytest.mark.parametrize(
        ("entry", "scope", "wins"),
        [
            (("", ""), Scope("system"), True),
            (("a", ""), Scope("system"), True),
            (("a", ""), Scope("role", "a"), False),
            (("a", "b"), Scope("role", "a"), True),
            (("c", "b"), Scope("role", "a"), False),
            (("a", ""), Scope("database", "", "b"), True),
            (("", "b"), Scope("role", "a"), False),
            (("a", "d"), Scope("database", "", "b"), False),
            (("a", "b"), Scope("role_in_database", "a", "b"), False),
        ],
    )
    def test_the_narrower_wins(self, entry: tuple[str, str], scope: Scope, wins: bool) -> None:
        assert Entry(*entry, "1", False).beats(scope) is wins


def line(value: str, *, own: bool = True, error: str = "") -> Line:
    return Line(AUTO if own else CONF, "work_mem", value, error, own)


class TestSituation:
    def test_the_last_line_counts(self) -> None:
        now = Situation(WORK_MEM, Scope("system"), (), (line("1MB", own=False), line("2MB"), line("3MB")))
        assert (now.stored, now.filed, now.beneath) == ("3MB", "3MB", "1MB")

    def test_a_command_line_wins_and_is_named(self) -> None:
        now = Situation(replace(WORK_MEM, source="command line"), Scope("system"), (), (line("8MB"),))
        assert now.is_loaded
        assert now.overridden_by("8MB") == [{"source": "command line"}]
        assert now.overridden_by("4MB") == []
        assert Change(now, ("8MB",), reload=True).takes_effect == "overridden"

    def test_a_later_file_wins_and_is_named(self) -> None:
        now = Situation(WORK_MEM, Scope("system"), (), (line("8MB"), line("9MB", own=False)))
        assert now.overridden_by("8MB") == [{"file": CONF, "value": "9MB"}]

    def test_only_who_differs_is_named(self) -> None:
        entries = (Entry("a", "", "8192kB", False), Entry("b", "", "1MB", False))
        now = Situation(WORK_MEM, Scope("system"), entries)
        assert now.overridden_by("8MB") == [{"role": "b", "database": "", "value": "1MB"}]

    def test_a_value_of_this_session_hides_the_servers(self) -> None:
        now = Situation(WORK_MEM, Scope("system"), (Entry("me", "", "1MB", True),), (line("8MB"),))
        assert (now.in_force, now.is_loaded, replace(now, stale=True).is_loaded) == (None, True, False)

    def test_a_file_that_cannot_be_read_is_told_and_a_restart_to_come_is_none(self) -> None:
        broken = (Line(CONF, "", "", "syntax error", False), line("8MB"))
        assert "syntax error" in Situation(WORK_MEM, Scope("system"), (), broken).broken
        waiting = (line("8MB", error="setting could not be applied"),)
        assert Situation(replace(BUFFERS, pending_restart=True), Scope("system"), (), waiting).broken == ""

    def test_the_servers_own_words_for_a_value_count_as_loaded(self) -> None:
        known = replace(STYLE, reset_val="ISO, DMY", place=AUTO)
        found = Situation(known, Scope("system"), (), (Line(AUTO, "datestyle", "dmy", "", True),))
        assert found.is_loaded
        buffers = Known("wal_buffers", "integer", "postmaster", "8kB", (), "-1", "262143", "-1", "64", "default")
        assert Situation(buffers, Scope("system"), (), (Line(AUTO, "wal_buffers", "-1", "", True),)).is_loaded


class TestChange:
    def test_is_not_needed_where_the_server_has_it_anyhow(self) -> None:
        now = Situation(WORK_MEM, Scope("system"), (), (line("4MB", own=False),))
        assert not Change(now, ("4096",), reload=True).is_needed
        assert Change(now, ("5MB",), reload=True).is_needed
        assert not Change(now, None, reload=True).is_needed

    def test_is_needed_for_a_role_though_the_server_has_it(self) -> None:
        assert Change(Situation(WORK_MEM, Scope("role", "a")), ("4MB",), reload=True).is_needed

    def test_a_line_that_was_never_loaded_is_loaded(self) -> None:
        change = Change(Situation(WORK_MEM, Scope("system"), (), (line("8MB"),)), ("8MB",), reload=True)
        assert (change.is_needed, change.is_to_load, change.takes_effect) == (False, True, "now")
        later = replace(change, reload=False)
        assert (later.is_to_load, later.takes_effect) == (False, "after_reload")

    @pytest.mark.parametrize(
        ("known", "texts", "when"),
        [
            (WORK_MEM, ("5MB",), "now"),
            (BUFFERS, ("1GB",), "after_restart"),
            (replace(FSYNC, name="log_connections", context="superuser-backend"), ("off",), "new_sessions"),
        ],
    )
    def test_says_when_it_holds(self, known: Known, texts: tuple[str, ...], when: str) -> None:
        assert Change(Situation(known, Scope("system")), texts, reload=True).takes_effect == when

    def test_a_secret_is_masked(self) -> None:
        change = Change(Situation(Known.custom("app.jwt_secret"), Scope("role", "a")), ("s",), reload=True)
        assert (change.shown("s"), change.shown(None)) == ("***", None)


class TestHazards:
    @pytest.mark.parametrize(
        "name",
        [
            *("data_directory", "hba_file", "archive_command", "primary_conninfo", "ssl_key_file", "listen_addresses"),
            *("port", "shared_preload_libraries", "SSL_Passphrase_Command", "recovery_target_time", "my.own"),
        ],
    )
    def test_some_are_never_changed(self, name: str) -> None:
        with pytest.raises(OpsError) as caught:
            refuse_protected(name, ["my.*"])
        assert code(caught) == ("guard_refused", "protected")

    def test_some_values_are_never_set_and_the_way_back_is_open(self) -> None:
        with pytest.raises(OpsError) as caught:
            refuse_hazards(FSYNC, "no", everybody=True, confirm="fsync")
        assert code(caught) == ("guard_refused", "protected")
        refuse_hazards(FSYNC, "yes", everybody=True, confirm="")

    def test_some_have_to_be_confirmed(self) -> None:
        with pytest.raises(OpsError) as caught:
            refuse_hazards(COMMIT, "false", everybody=False, confirm="yes")
        assert code(caught) == ("guard_refused", "confirm")
        assert "confirm=synchronous_commit" in caught.value.hint
        refuse_hazards(COMMIT, "false", everybody=False, confirm="synchronous_commit")
        refuse_hazards(COMMIT, "local", everybody=False, confirm="")

    def test_a_timeout_for_everybody_is_not_one_for_a_role(self) -> None:
        known = replace(SLOW, name="statement_timeout")
        with pytest.raises(OpsError):
            refuse_hazards(known, "1min", everybody=True, confirm="")
        refuse_hazards(known, "1min", everybody=False, confirm="")
        refuse_hazards(known, "0", everybody=True, confirm="")
