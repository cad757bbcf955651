# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_reach_info against faults made for real: it names the stage, never fails, and writes nothing."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest

pytest.importorskip("psycopg2", reason="psycopg2 is not installed")

from tests.lab.postgres_faults import fill_connections
from tests.lab.postgres_servers import (
    PostgresPair,
    PostgresServer,
    pgbouncer_program,
    start_pgbouncer,
    start_postgres,
)
from tests.lab.postgres_witness import statements
from tests.lab.process import LabError, free_port
from tests.lab.world import Lab
from tests.support import call, play


def reach(options: dict[str, Any], **more: Any) -> dict[str, Any]:
    result = call("postgres_reach_info", **{"connect_timeout": 2.0, **options, **more})
    assert "failed" not in result, result
    return result


def ids(result: dict[str, Any]) -> list[str]:
    return [finding["id"] for finding in result["findings"]]


def ended_at(result: dict[str, Any]) -> str:
    """The stage that failed; those after it were not tried."""
    names = [stage["stage"] for stage in result["stages"]]
    bad = next(stage["stage"] for stage in result["stages"] if stage["ok"] is False)
    assert all(stage["ok"] is None for stage in result["stages"][names.index(bad) + 1 :])
    return str(bad)


@contextmanager
def listener(answer: bytes | None) -> Iterator[int]:
    """A port that takes connections and says the same to everybody; None says nothing, and holds the line."""
    held: list[socket.socket] = []
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()

        def serve() -> None:
            while True:
                try:
                    line, _peer = door.accept()
                except OSError:
                    return
                held.append(line)
                if answer is not None:
                    with contextlib.suppress(OSError):
                        line.recv(100)
                        line.sendall(answer)
                        line.close()

        Thread(target=serve, daemon=True).start()
        yield door.getsockname()[1]
    for line in held:
        line.close()


def test_a_healthy_server(postgres_single: PostgresServer) -> None:
    with statements(postgres_single) as seen:
        result = reach(postgres_single.connection("monitor"))
    assert seen.writes() == ()
    assert len(seen.by("sre.runbooks")) <= 5
    assert (result["changed"], result["reachable"], result["writable"], result["findings"]) == (False, True, True, [])
    assert [stage["stage"] for stage in result["stages"] if stage["ok"]] == [
        *("resolve", "tcp", "login", "serving", "rights", "writes"),
    ]
    assert (result["rights"]["pg_monitor"], result["rights"]["superuser"]) == (True, False)
    assert result["server"]["role"] == "primary"


class TestTheWay:
    def test_a_name_that_does_not_resolve(self) -> None:
        result = reach({"host": "no-such-host.invalid"})
        assert (ended_at(result), ids(result), result["reachable"]) == ("resolve", ["postgres.unreachable.dns"], False)

    def test_a_closed_port(self) -> None:
        result = reach({"host": "127.0.0.1", "port": free_port()})
        assert (ended_at(result), ids(result)) == ("tcp", ["postgres.unreachable.refused"])

    def test_a_socket_that_is_not_there(self, tmp_path: Any) -> None:
        result = reach({"host": str(tmp_path)})
        assert (ended_at(result), ids(result)) == ("tcp", ["postgres.unreachable.refused"])

    def test_silence_is_not_waited_for_long(self) -> None:
        with listener(None) as port:
            start = time.monotonic()
            for mode in ("disable", "prefer"):
                result = reach({"host": "127.0.0.1", "port": port, "sslmode": mode, "connect_timeout": 1})
                assert ids(result) == ["postgres.unreachable.timeout"]
        assert time.monotonic() - start < 6

    def test_something_else_listens(self) -> None:
        with listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
            result = reach({"host": "127.0.0.1", "port": port})
        assert (ended_at(result), ids(result)) == ("tls", ["postgres.unreachable.protocol"])

    def test_one_of_two_hosts_is_dead(self, postgres_single: PostgresServer) -> None:
        options = postgres_single.connection("monitor")
        del options["port"]
        login = f"user={options.pop('user')} dbname=app host=127.0.0.1,127.0.0.1 sslmode=disable"
        result = reach({"dsn": f"{login} port={free_port()},{postgres_single.port}", "password": options["password"]})
        assert (result["reachable"], ids(result)) == (True, ["postgres.address_down"])

    def test_a_server_without_tls(self, postgres_single: PostgresServer) -> None:
        result = reach(postgres_single.connection("monitor"), sslmode="verify-full")
        assert (ended_at(result), ids(result)) == ("tls", ["postgres.unreachable.tls"])

    def test_a_frozen_server(self, postgres_single: PostgresServer) -> None:
        postgres_single.freeze()
        start = time.monotonic()
        assert ids(reach(postgres_single.connection("monitor"))) == ["postgres.unreachable.timeout"]
        assert time.monotonic() - start < 5
        postgres_single.thaw()
        assert reach(postgres_single.connection("monitor"))["reachable"]


class TestTheLogin:
    def test_is_refused(self, postgres_single: PostgresServer) -> None:
        options = postgres_single.connection("monitor")
        for change, code in (
            ({"password": "not-the-password"}, "password"),
            ({"user": "nobody_at_all"}, "password"),
            ({"dbname": "no_such_database"}, "no_such_database"),
        ):
            result = reach({**options, **change})
            assert (ended_at(result), ids(result)) == ("login", [f"postgres.unreachable.{code}"]), change
            assert options["password"] not in str(result)

    def test_is_not_for_this_role(self, postgres_single: PostgresServer) -> None:
        hba = postgres_single.data / "pg_hba.conf"
        hba.write_text("host all app all reject\n" + hba.read_text())
        postgres_single.query("SELECT pg_reload_conf()")
        time.sleep(0.3)
        result = reach(postgres_single.connection("app"))
        assert (ended_at(result), ids(result)) == ("login", ["postgres.unreachable.rejected"])

    def test_no_slot_is_free_but_for_superusers(self, postgres_lab: Lab) -> None:
        server = postgres_lab.start(start_postgres, config={"max_connections": "12"})
        with fill_connections(server):
            result = reach(server.connection("monitor"))
            assert (ended_at(result), ids(result)) == ("login", ["postgres.unreachable.too_many_clients"])
            assert "reserved" in result["findings"][0]["evidence"]["detail"]
            assert reach(server.connection("operator"))["reachable"]

    def test_a_role_has_used_up_its_own(self, postgres_single: PostgresServer) -> None:
        postgres_single.query("ALTER ROLE monitor CONNECTION LIMIT 0")
        (finding,) = reach(postgres_single.connection("monitor"))["findings"]
        assert (finding["id"], "CONNECTION LIMIT" in finding["suggest"]) == (
            "postgres.unreachable.too_many_clients",
            True,
        )

    def test_rights_that_are_needed(self, postgres_single: PostgresServer) -> None:
        result = reach(postgres_single.connection("app"), needs=["pg_monitor"])
        assert (ended_at(result), ids(result)) == ("rights", ["postgres.unreachable.rights"])
        assert reach(postgres_single.connection("signaller"), needs=["pg_signal_backend"])["reachable"]

    def test_the_wrong_target_is_no_patient(self, postgres_single: PostgresServer) -> None:
        for wrong in ({"expect_host": "prod-.*"}, {"expect_database": "prod"}):
            result = call("postgres_reach_info", **postgres_single.connection("monitor"), **wrong)
            assert result["error"]["code"] == "wrong_target"


class TestWrites:
    def test_a_role_that_only_reads(self, postgres_single: PostgresServer) -> None:
        postgres_single.query("ALTER ROLE app SET default_transaction_read_only = on")
        result = reach(postgres_single.connection("app"))
        assert (result["reachable"], result["writable"], ids(result)) == (
            *(True, False),
            ["postgres.unwritable.read_only"],
        )

    def test_commits_that_wait_for_nobody(self, postgres_single: PostgresServer) -> None:
        postgres_single.query("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
        postgres_single.query("SELECT pg_reload_conf()")
        time.sleep(0.3)
        assert ids(reach(postgres_single.connection("monitor"))) == ["postgres.unwritable.no_sync_standby"]

    def test_a_standby(self, postgres_pair: PostgresPair) -> None:
        result = reach(postgres_pair.standby.connection("monitor"))
        assert (result["reachable"], result["writable"], ids(result)) == (True, False, ["postgres.unwritable.standby"])
        assert result["server"]["role"] == "standby"


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_through_a_pooler(postgres_single: PostgresServer, postgres_lab: Lab, mode: str) -> None:
    try:
        pgbouncer_program()
    except LabError as error:
        pytest.skip(str(error))
    pooler = postgres_lab.start(start_pgbouncer, postgres_single, mode)
    result = reach(pooler.connection("monitor"))
    assert (result["reachable"], result["writable"], result["pooled"], ids(result)) == (True, True, True, [])


def test_shipped_and_in_process_alike(postgres_single: PostgresServer) -> None:
    task = {"sre.runbooks.postgres_reach_info": postgres_single.connection("monitor")}
    ran = play([{"name": "here", **task}, {"name": "shipped", "environment": {"X": "y"}, **task}])
    here, shipped = ran.result("here"), ran.result("shipped")
    assert ran.rc == 0, ran.stdout
    for name in ("changed", "reachable", "writable", "findings", "rights", "addresses", "server"):
        assert here[name] == shipped[name], name
