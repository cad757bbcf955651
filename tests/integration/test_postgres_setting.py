# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_setting on real servers: stored where it was meant, in force or said why not, taken back, refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import fixtures
from tests.lab.process import LabError
from tests.lab.world import Lab
from tests.support import call, play

pytest.importorskip("psycopg2", reason="psycopg2 is not installed")

from tests.lab.postgres_servers import (
    PgBouncer,
    PostgresPair,
    PostgresServer,
    start_pgbouncer,
    start_postgres,
)
from tests.lab.postgres_witness import statements

OURS = "sre.runbooks"
postgres_module_lab = pytest.fixture(scope="module")(fixtures.postgres_lab.__wrapped__)


@pytest.fixture(scope="module")
def shared(postgres_module_lab: Lab) -> PostgresServer:
    return postgres_module_lab.start(start_postgres)


@pytest.fixture
def server(shared: PostgresServer) -> Iterator[PostgresServer]:
    """One for the file, with nothing set when a test begins."""
    yield shared
    shared.query("ALTER SYSTEM RESET ALL")
    for statement in ("ALTER ROLE app RESET ALL", "ALTER DATABASE app RESET ALL", "ALTER ROLE operator RESET ALL"):
        shared.query(statement)
    shared.query("ALTER ROLE app IN DATABASE app RESET ALL")
    shared.query("SELECT pg_reload_conf()")


def have(server: PostgresServer | PgBouncer, login: str = "operator", /, **options: Any) -> dict[str, Any]:
    check = options.pop("check_mode", False)
    return call("postgres_setting", check, **{**server.connection(login), **options})


def shown(server: PostgresServer, name: str, role: str = "postgres") -> str:
    """What a new session of the role has."""
    return str(server.query("SELECT current_setting(%s)", name, role=role)[0][0])


def ids(result: dict[str, Any]) -> list[str]:
    return [finding["id"] for finding in result["findings"]]


def kind_and_code(result: dict[str, Any]) -> tuple[str, str]:
    return result["error"]["kind"], result["error"]["code"]


class TestSystem:
    @pytest.mark.parametrize(
        ("name", "value", "others", "seen"),
        [
            ("log_min_duration_statement", "1s", [1000, "1000ms", "1000"], "1s"),
            ("work_mem", "64MB", [65536, "0.0625GB"], "64MB"),
            ("log_checkpoints", False, ["off", "no", 0], "off"),
            ("log_connections", True, ["on", 1], "on"),
            ("random_page_cost", 1.1, ["1.10"], "1.1"),
            ("log_statement", "NONE", ["none"], "none"),
            ("search_path", ["a", "B c", "$user"], ['a, "B c", "$user"'], 'a, "B c", "$user"'),
            ("DateStyle", "dmy", ["DMY"], "ISO, DMY"),
            ("timezone", "Europe/Berlin", ["europe/berlin"], "Europe/Berlin"),
            ("cluster_name", 'it\'s 100% \\ "ours" %s', [], ""),
        ],
    )
    def test_is_in_force_once(
        self, server: PostgresServer, name: str, value: Any, others: list[Any], seen: str
    ) -> None:
        done = have(server, name=name, value=value)
        assert (done["changed"], done["verify"]["ok"]) == (True, True)
        if seen:
            assert shown(server, name) == seen
        for same in (value, *others):
            again = have(server, name=name, value=same)
            assert (again["changed"], again["diff"]) == (False, {"before": {}, "after": {}}), same

    def test_check_mode_writes_nothing_and_predicts_the_run(self, server: PostgresServer) -> None:
        for options in ({"name": "work_mem", "value": "64MB"}, {"name": "wal_buffers", "value": "1MB"}):
            with statements(server) as seen:
                checked = have(server, check_mode=True, **options)
                assert not seen.writes(OURS)
            done = have(server, **options)
            for part in ("changed", "actions", "plan", "diff", "findings", "undo", "temporary"):
                assert checked[part] == done[part], part
            assert checked["setting"]["takes_effect"] == done["setting"]["takes_effect"]

    def test_one_that_the_server_has_anyhow_is_not_written(self, server: PostgresServer) -> None:
        assert have(server, name="work_mem", value="4096kB")["changed"] is False
        assert have(server, name="wal_retrieve_retry_interval", value="0.2s")["changed"] is False

    def test_the_undo_takes_it_back(self, server: PostgresServer) -> None:
        first = have(server, name="work_mem", value="64MB")
        second = have(server, name="work_mem", value="65MB")
        for done, value in ((second, "64MB"), (first, "4MB")):
            undo = next(undo for undo in done["undo"] if undo["possible"])
            assert undo["module"] == "sre.runbooks.postgres_setting"
            assert have(server, **undo["args"])["changed"] is True
            assert shown(server, "work_mem") == value
        assert have(server, name="work_mem", value=None)["changed"] is False

    def test_a_restart_is_said_and_not_made(self, server: PostgresServer) -> None:
        done = have(server, name="max_connections", value=60, confirm="max_connections")
        assert (ids(done), done["setting"]["takes_effect"]) == (["postgres.pending_restart"], "after_restart")
        assert (done["setting"]["pending_restart"], done["setting"]["in_force"]) == (True, "50")
        again = have(server, name="max_connections", value=60, confirm="max_connections")
        assert (again["changed"], ids(again)) == (False, ["postgres.pending_restart"])
        back = have(server, name="max_connections", value=None)
        assert (back["changed"], ids(back), back["setting"]["pending_restart"]) == (True, [], False)

    def test_what_the_server_computes_is_no_endless_change(self, server: PostgresServer) -> None:
        done = have(server, name="wal_buffers", value=-1)
        assert done["verify"].get("ok", True)
        assert have(server, name="wal_buffers", value=-1)["changed"] is False

    def test_a_run_cut_short_before_the_reload_is_finished_by_the_next(self, server: PostgresServer) -> None:
        server.query("ALTER SYSTEM SET work_mem = '70MB'")
        done = have(server, name="work_mem", value="70MB")
        assert (done["actions"], shown(server, "work_mem")) == (["Reload the configuration"], "70MB")
        assert have(server, name="work_mem", value="70MB")["changed"] is False

    def test_without_a_reload_it_says_so(self, server: PostgresServer) -> None:
        done = have(server, name="work_mem", value="71MB", reload=False)
        assert (done["changed"], ids(done)) == (True, ["postgres.setting_not_loaded"])
        assert shown(server, "work_mem") == "4MB"
        again = have(server, name="work_mem", value="71MB", reload=False)
        assert (again["changed"], ids(again)) == (False, ["postgres.setting_not_loaded"])
        assert have(server, name="work_mem", value="71MB")["changed"] is True
        assert shown(server, "work_mem") == "71MB"

    def test_names_who_wins_over_it(self, server: PostgresServer) -> None:
        server.query("ALTER ROLE app SET work_mem = '1MB'")
        server.query("ALTER ROLE operator SET work_mem = '64MB'")
        done = have(server, name="work_mem", value="65536")
        found = done["findings"][0]
        assert found["id"] == "postgres.setting_overridden"
        assert found["evidence"]["by"] == [{"role": "app", "database": "", "value": "1MB"}]
        # The session's own value hides the server's; another role sees it.
        assert (done["setting"]["in_force"], shown(server, "work_mem")) == (None, "64MB")

    def test_a_file_that_cannot_be_loaded_is_refused_first(self, server: PostgresServer) -> None:
        file = server.data / "postgresql.conf"
        kept = file.read_text()
        file.write_text(kept + "this is = 'no\n")
        try:
            for check in (True, False):
                refused = have(server, name="work_mem", value="64MB", check_mode=check)
                assert kind_and_code(refused) == ("precondition", "broken_file")
                assert "postgresql.conf" in refused["msg"]
        finally:
            file.write_text(kept)
        assert have(server, name="work_mem", value="64MB")["changed"] is True

    def test_notices_that_somebody_else_changed_it(
        self, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ansible_collections.sre.runbooks.plugins.module_utils._postgres import configure

        judged = configure._refuse_broken

        def meddle(now: Any) -> None:
            judged(now)
            server.query("ALTER SYSTEM SET work_mem = '9MB'")

        monkeypatch.setattr(configure, "_refuse_broken", meddle)
        refused = have(server, name="work_mem", value="64MB")
        assert kind_and_code(refused) == ("conflict", "changed_meanwhile")
        assert (refused["changed"], shown(server, "work_mem")) == (False, "4MB")

    def test_an_approved_plan_is_of_its_value_and_scope(self, server: PostgresServer) -> None:
        approved = have(server, name="work_mem", value="64MB", check_mode=True)["plan"]["id"]
        refused = have(server, name="work_mem", value="65MB", approved_plan=approved)
        assert kind_and_code(refused) == ("conflict", "stale_plan")
        elsewhere = have(server, name="work_mem", value="64MB", scope="role", role="app", approved_plan=approved)
        assert kind_and_code(elsewhere) == ("conflict", "stale_plan")
        assert have(server, name="work_mem", value="64MB", approved_plan=approved)["changed"] is True


class TestTime:
    def test_holds_until_a_moment_and_otherwise_after_it(self, server: PostgresServer) -> None:
        task = {"name": "log_min_duration_statement", "value": "1s"}
        soon = have(server, **task, until="2999-01-01T00:00:00Z")
        assert (soon["temporary"], shown(server, "log_min_duration_statement")) == (True, "1s")
        assert have(server, **task, until="2999-01-01T00:00:00Z")["changed"] is False
        over = have(server, **task, until="2001-01-01T00:00:00+02:00")
        assert (over["temporary"], over["changed"]) == (False, True)
        assert shown(server, "log_min_duration_statement") == "-1"
        other = have(server, **task, until="2001-01-01T00:00:00Z", otherwise="1min")
        assert (other["changed"], shown(server, "log_min_duration_statement")) == (True, "1min")

    @pytest.mark.parametrize("until", ["tomorrow", "2030-01-01T00:00:00"])
    def test_wants_a_moment_with_its_zone(self, server: PostgresServer, until: str) -> None:
        refused = have(server, name="work_mem", value="5MB", until=until)
        assert kind_and_code(refused) == ("precondition", "bad_parameter")

    def test_otherwise_needs_a_moment(self, server: PostgresServer) -> None:
        with pytest.raises(ValueError, match="until"):
            have(server, name="work_mem", value="5MB", otherwise="6MB")


class TestRolesAndDatabases:
    @pytest.mark.parametrize(
        "scope",
        [
            {"scope": "role", "role": "app"},
            {"scope": "database", "database": "app"},
            {"scope": "role_in_database", "role": "app", "database": "app"},
        ],
    )
    def test_new_sessions_have_it_and_the_undo_takes_it_back(
        self, server: PostgresServer, scope: dict[str, str]
    ) -> None:
        with contextlib.closing(server.connect("app")):
            done = have(server, name="statement_timeout", value="90s", **scope)
        found = done["findings"][0]
        assert (found["id"], found["evidence"]) == ("postgres.setting_new_sessions", {"sessions": 1})
        assert shown(server, "statement_timeout", "app") == "90s"
        again = have(server, name="statement_timeout", value="1.5min", **scope)
        assert (again["changed"], again["findings"]) == (False, [])
        assert have(server, **done["undo"][0]["args"])["changed"] is True
        assert server.query("SELECT count(*) FROM pg_db_role_setting") == [(0,)]

    def test_hostile_names_and_values(self, server: PostgresServer) -> None:
        role, value = "o'ne \"ä%s", "it's 100% \\ $1 %s"
        server.query('CREATE ROLE "o\'ne ""ä%s"')
        try:
            done = have(server, name="app.greeting", value=value, scope="role", role=role)
            assert (done["changed"], done["verify"]["ok"]) == (True, True)
            assert server.query("SELECT setconfig FROM pg_db_role_setting") == [([f"app.greeting={value}"],)]
            assert have(server, name="app.greeting", value=value, scope="role", role=role)["changed"] is False
            for names in (["A b", 'c"d'], ["A b"], "public", ""):
                options = {"name": "search_path", "value": names, "scope": "role", "role": role}
                assert [have(server, **options)["changed"] for _time in range(2)] == [True, False], names
        finally:
            server.query('DROP ROLE "o\'ne ""ä%s"')

    def test_names_who_wins_over_it(self, server: PostgresServer) -> None:
        server.query("ALTER ROLE app IN DATABASE app SET work_mem = '1MB'")
        for scope in ({"scope": "role", "role": "app"}, {"scope": "database", "database": "app"}):
            done = have(server, name="work_mem", value="5MB", **scope)
            found = next(one for one in done["findings"] if one["id"] == "postgres.setting_overridden")
            assert found["evidence"]["by"] == [{"role": "app", "database": "app", "value": "1MB"}]

    def test_a_secret_is_never_shown(self, server: PostgresServer) -> None:
        scope = {"scope": "role", "role": "app", "name": "app.jwt_secret"}
        first = have(server, value="hunter2secret", **scope)
        second = have(server, value="hunter3secret", **scope)
        assert (first["changed"], second["changed"]) == (True, True)
        assert "hunter" not in f"{first}{second}"
        assert "args" not in second["undo"][0]
        assert server.query("SELECT setconfig FROM pg_db_role_setting") == [(["app.jwt_secret=hunter3secret"],)]

    def test_a_role_may_change_itself_and_nobody_else(self, server: PostgresServer) -> None:
        own = {"scope": "role", "role": "app"}
        assert have(server, "app", name="work_mem", value="5MB", **own)["changed"] is True
        assert have(server, "app", name="work_mem", value="5MB", scope="database", database="app")["changed"] is True
        for login, options in (
            ("app", {"scope": "role", "role": "operator", "name": "work_mem"}),
            ("monitor", {"scope": "role", "role": "app", "name": "work_mem"}),
            ("monitor", {"scope": "database", "database": "app", "name": "work_mem"}),
            ("app", {"scope": "role", "role": "app", "name": "log_duration"}),
        ):
            checked = have(server, login, value="1" if options["name"] == "log_duration" else "6MB", **options)
            assert kind_and_code(checked) == ("forbidden", "privilege"), options
        assert have(server, "monitor", name="work_mem", value="5MB", **own)["changed"] is False


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "wanted"),
        [
            ({"name": "listen_addresses", "value": "*"}, ("guard_refused", "protected")),
            ({"name": "Primary_Conninfo", "value": "password=hunter2"}, ("guard_refused", "protected")),
            ({"name": "shared_preload_libraries", "value": ["x"]}, ("guard_refused", "protected")),
            ({"name": "full_page_writes", "value": False}, ("guard_refused", "protected")),
            ({"name": "zero_damaged_pages", "value": "on"}, ("guard_refused", "protected")),
            ({"name": "autovacuum", "value": "off"}, ("guard_refused", "confirm")),
            ({"name": "autovacuum", "value": "off", "confirm": "yes"}, ("guard_refused", "confirm")),
            ({"name": "statement_timeout", "value": "1min"}, ("guard_refused", "confirm")),
            ({"name": "work_mem", "value": "5MB", "protect": ["work_*"]}, ("guard_refused", "protected")),
            ({"name": "work_memm", "value": "5MB"}, ("not_found", "unknown_setting")),
            ({"name": "app.tenant", "value": "5"}, ("not_found", "unknown_setting")),
            ({"name": "server_version", "value": "5"}, ("unsupported", "immutable")),
            ({"name": "work_mem", "value": "5mb"}, ("precondition", "bad_value")),
            ({"name": "work_mem", "value": "1kB"}, ("precondition", "bad_value")),
            ({"name": "log_statement", "value": "some"}, ("precondition", "bad_value")),
            ({"name": "timezone", "value": "Mars/Olympus"}, ("precondition", "bad_value")),
            ({"name": "work_mem", "value": {"a": 1}}, ("precondition", "bad_parameter")),
            ({"name": "work_mem", "value": "5MB", "scope": "role"}, ("precondition", "bad_parameter")),
            ({"name": "work_mem", "value": "5MB", "scope": "role", "role": "x"}, ("not_found", "no_such_role")),
            (
                {"name": "work_mem", "value": "5MB", "scope": "database", "database": "x"},
                ("not_found", "no_such_database"),
            ),
            (
                {"name": "log_checkpoints", "value": "on", "scope": "role", "role": "app"},
                ("precondition", "wrong_scope"),
            ),
        ],
    )
    def test_in_check_mode_too(self, server: PostgresServer, options: dict[str, Any], wanted: tuple[str, str]) -> None:
        with statements(server) as seen:
            refused = [have(server, check_mode=check, **options) for check in (True, False)]
            assert not seen.writes(OURS)
        assert [kind_and_code(one) for one in refused] == [wanted, wanted]
        assert "hunter2" not in str(refused)

    def test_a_value_that_only_the_server_can_judge(self, server: PostgresServer) -> None:
        refused = have(server, name="log_destination", value="nonsense")
        assert kind_and_code(refused) == ("precondition", "bad_value")
        assert refused["changed"] is False

    def test_what_the_role_lacks(self, server: PostgresServer) -> None:
        assert kind_and_code(have(server, "monitor", name="work_mem", value="5MB")) == ("forbidden", "privilege")
        for grant in (
            "GRANT SELECT ON pg_file_settings TO monitor",
            "GRANT EXECUTE ON FUNCTION pg_show_all_file_settings() TO monitor",
        ):
            server.query(grant)
        refused = have(server, "monitor", name="work_mem", value="5MB")
        assert (kind_and_code(refused), "ALTER SYSTEM" in refused["msg"]) == (("forbidden", "privilege"), True)
        if server.installation.major < 15:
            return
        server.query("GRANT ALTER SYSTEM ON PARAMETER work_mem TO monitor")
        refused = have(server, "monitor", name="work_mem", value="5MB")
        assert (kind_and_code(refused), "reload" in refused["msg"]) == (("forbidden", "privilege"), True)
        server.query("GRANT EXECUTE ON FUNCTION pg_reload_conf() TO monitor")
        assert have(server, "monitor", name="work_mem", value="5MB")["verify"]["ok"] is True

    def test_a_managed_service_has_a_way_out(self, postgres_lab: Lab) -> None:
        """RDS is known by a role of its own, whatever the name under which it is reached."""
        server = postgres_lab.start(start_postgres)
        server.query("CREATE ROLE rds_superuser")
        for grant in (
            "GRANT SELECT ON pg_file_settings TO app",
            "GRANT EXECUTE ON FUNCTION pg_show_all_file_settings() TO app",
        ):
            server.query(grant)
        for check in (True, False):
            refused = have(server, "app", name="work_mem", value="5MB", check_mode=check)
            assert kind_and_code(refused) == ("unsupported", "managed")
            assert "parameter group" in refused["error"]["hint"]
        assert have(server, "app", name="work_mem", value="5MB", scope="role", role="app")["changed"] is True


class TestPlaces:
    def test_through_a_pooler(self, server: PostgresServer, postgres_lab: Lab) -> None:
        try:
            pool = postgres_lab.start(start_pgbouncer, server, "transaction")
        except LabError as error:
            pytest.skip(str(error))
        for check in (True, False):
            refused = have(pool, name="work_mem", value="5MB", check_mode=check)
            assert kind_and_code(refused) == ("unsupported", "pooled")
        assert have(pool, name="work_mem", value="4MB")["changed"] is False
        assert have(pool, name="work_mem", value="5MB", scope="role", role="app")["changed"] is True
        assert have(pool, name="work_mem", value="5MB", scope="role", role="app")["changed"] is False

    def test_a_standby_has_settings_of_its_own(self, postgres_pair: PostgresPair) -> None:
        primary, standby = postgres_pair.primary, postgres_pair.standby
        done = have(standby, name="work_mem", value="5MB")
        assert (done["changed"], done["findings"]) == (True, [])
        assert (shown(standby, "work_mem"), shown(primary, "work_mem")) == ("5MB", "4MB")
        refused = have(standby, name="work_mem", value="5MB", scope="role", role="app")
        assert kind_and_code(refused) == ("precondition", "read_only")
        told = have(primary, name="work_mem", value="6MB")
        assert ids(told) == ["postgres.standbys_differ"]

    def test_shipped_and_in_process_alike(self, server: PostgresServer) -> None:
        options = {"name": "work_mem", "value": "64MB", **server.connection()}
        task = {"sre.runbooks.postgres_setting": options, "check_mode": True}
        ran = play([{"name": "here", **task}, {"name": "shipped", "environment": {"X": "y"}, **task}])
        here, shipped = ran.result("here"), ran.result("shipped")
        assert "invocation" in shipped
        for name in ("changed", "actions", "diff", "plan", "setting", "findings", "undo"):
            assert here[name] == shipped[name], name
