# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which tables, indexes and views need care, from what a survey says; when work waits or ends; how it is told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._core.plan import Target
from ansible_collections.sre.runbooks.plugins.module_utils._postgres import progress
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.bloat import Column, index_share, tuple_width
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.brakes import Brakes, Stop, Window
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.client import Postgres
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.horizon import Holder
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.indexes import (
    Definition,
    Index,
    advice,
    due_creation,
    due_leftovers,
    origin_of,
)
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.maintenance import (
    THRESHOLDS,
    Limits,
    Table,
    Wanted,
    due_tables,
    means,
    require_known,
)
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.matviews import (
    MatView,
    due_refreshes,
    in_order,
    marked,
)
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.upkeep import room_missing

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
LIMITS = Limits(200_000_000, 400_000_000, NOW)
TABLE = Table(
    *(1, "public", "orders", "r", 1 << 20, 20_000.0, 20_000, 0, 0, 100, 100, NOW, NOW, None, 0, 0, 0), may=True
)
INDEX = Index(
    *(10, "public", "orders_idx", 1, "public.orders", "i", "btree", False, True, "btree (a)", ("a",), (), "", False),
    *("", 1 << 25, 1000.0, 90, 0, True),
)
HOLDER = Holder("transaction", "7", "app", "report", "active", 50, NOW - timedelta(minutes=10), snapshot=True)


def wanted(*tasks: str, **options: Any) -> Wanted:
    lists = {"tables": ["*.*"], "matviews": ["*.*"], "protect": [], "tasks": list(tasks)}
    rest = {"freeze_age": None, "max_age": "1h", "lock_timeout": 3.0}
    return Wanted.of({**THRESHOLDS, **lists, **rest, **options})


def judged(table: Table, *holders: Holder, seen_all: bool = True, **options: Any) -> Any:
    return due_tables([table], wanted("vacuum", "analyze", **options), LIMITS, holders, seen_all)


class TestTables:
    def test_a_healthy_one_needs_nothing(self) -> None:
        found = judged(TABLE, HOLDER)
        assert (found.due, found.spared, found.findings) == ([], [], [])

    @pytest.mark.parametrize(
        ("fields", "task", "why"),
        [
            ({"dead": 6_000}, "vacuum", "6000 dead of 26000 rows (23%)"),
            ({"frozen_age": 150_000_001}, "vacuum", "not frozen for 150000001 transactions"),
            ({"multi_age": 300_000_001}, "vacuum", "not frozen for 300000001 multixacts"),
            ({"modified": 2_001}, "analyze", "2001 rows modified since it was analyzed"),
            ({"analyzed": None, "tuples": -1.0}, "analyze", "never analyzed"),
            ({"kind": "p", "leaf_analyzed": NOW, "analyzed": None}, "analyze", "its partitions have newer statistics"),
        ],
    )
    def test_over_a_threshold_it_is_due(self, fields: dict[str, Any], task: str, why: str) -> None:
        (due,) = judged(replace(TABLE, **fields)).due
        assert (due.task, due.why, due.subject) == (task, why, "public.orders oid=1")

    @pytest.mark.parametrize(
        "fields",
        [
            {"dead": 999, "live": 10},
            {"dead": 5_000},
            {"modified": 2_000},
            {"kind": "p", "dead": 9_999, "live": 1},
            {"live": 0, "modified": 50},
            {"analyzed": None, "tuples": -1.0, "bytes": 0},
        ],
    )
    def test_at_a_threshold_it_is_not(self, fields: dict[str, Any]) -> None:
        assert judged(replace(TABLE, **fields)).due == []

    def test_vacuum_and_analyze_are_one_step(self) -> None:
        (due,) = judged(replace(TABLE, dead=9_000, modified=9_000)).due
        assert (due.task, due.analyze) == ("vacuum", True)

    @pytest.mark.parametrize(
        ("fields", "options", "reason"),
        [
            ({"may": False}, {}, "only its owner may maintain it"),
            ({"worked_by": 5}, {}, "session 5 works on it right now"),
            ({}, {"protect": ["public.*"]}, "protected"),
        ],
    )
    def test_some_are_left_alone(self, fields: dict[str, Any], options: dict[str, Any], reason: str) -> None:
        found = judged(replace(TABLE, dead=9_000, **fields), **options)
        assert (found.due, [spared.reason for spared in found.spared]) == ([], [reason])

    def test_says_what_it_cannot_see(self) -> None:
        assert [finding.id for finding in judged(TABLE, seen_all=False).findings] == ["postgres.holders_unseen"]


class TestHolders:
    dead = replace(TABLE, dead=9_000)

    def test_an_old_one_makes_a_vacuum_vain_but_not_an_analyze(self) -> None:
        found = judged(replace(self.dead, modified=9_000), HOLDER)
        assert [due.task for due in found.due] == ["analyze"]
        assert (found.findings[0].id, found.findings[0].evidence["holder"]["id"]) == ("postgres.xmin_held", "7")

    @pytest.mark.parametrize(
        ("holder", "vacuumed", "held"),
        [
            ({"since": NOW - timedelta(seconds=10)}, NOW - timedelta(seconds=20), False),
            ({"since": NOW - timedelta(seconds=10)}, NOW - timedelta(seconds=5), True),
            ({"since": NOW - timedelta(seconds=10)}, None, False),
            ({"xids": 0}, None, False),
            ({"kind": "unused slot", "since": None}, None, True),
            ({"kind": "standby", "since": None}, None, False),
            ({"kind": "standby", "since": None, "xids": 1_000_000}, None, True),
            ({"kind": "standby", "since": None}, NOW - timedelta(seconds=5), True),
        ],
    )
    def test_a_vacuum_since_it_began_is_not_repeated(
        self, holder: dict[str, Any], vacuumed: datetime | None, held: bool
    ) -> None:
        found = judged(replace(self.dead, vacuumed=vacuumed), replace(HOLDER, **holder))
        assert (not found.due) is held

    def test_a_build_waits_for_snapshots_a_drop_for_locks(self) -> None:
        assert (HOLDER.delays(1, build=True), HOLDER.delays(1, build=False)) == (True, False)
        assert replace(HOLDER, snapshot=False, relations=frozenset([1])).delays(1, build=False)


@pytest.mark.parametrize(
    ("pattern", "name", "meant"),
    [
        ("*.*", "a.b", True),
        ("orders", "shop.orders", True),
        ("public.ord*", "shop.orders", False),
        ("public.Orders", "public.orders", False),
        ("public.x[1]", "public.x[1]", True),
    ],
)
def test_patterns(pattern: str, name: str, meant: bool) -> None:
    assert means([pattern], name) is meant


def test_a_plain_name_has_to_exist() -> None:
    require_known(["public.a", "b*"], ["public.a"])
    with pytest.raises(OpsError, match=r"no table, index or view public\.b"):
        require_known(["public.b"], ["public.a"])


@pytest.mark.parametrize(
    "options",
    [
        {"dead_ratio": 0.0},
        {"bloat_ratio": 1.0},
        {"tasks": []},
        {"retries": 0},
        {"max_duration": "0"},
        {"replica_lag_max": "0"},
        {"disk_headroom": 0.5},
        {"tasks": ["refresh"], "max_age": None},
    ],
)
def test_refuses_what_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(OpsError) as refused:
        wanted(**{"tasks": ["vacuum"], **options})
    assert refused.value.code == "bad_parameter"


class TestLeftovers:
    def left(self, name: str, **fields: Any) -> Index:
        return replace(INDEX, oid=11, name=name, valid=False, **fields)

    @pytest.mark.parametrize("suffix", ["_ccnew", "_ccnew1", "_ccold", "_ccold12"])
    def test_is_dropped_where_its_origin_is_valid(self, suffix: str) -> None:
        found = due_leftovers([INDEX, self.left(f"orders_idx{suffix}")], wanted("drop_leftovers"))
        assert [due.name for due in found.due] == [f"orders_idx{suffix}"]

    @pytest.mark.parametrize(
        ("origin", "left", "reported"),
        [
            ({"valid": False}, {}, True),
            ({"shape": "btree (b)"}, {}, True),
            ({"table": 2}, {}, True),
            ({}, {"constraint": "constraint orders_pkey"}, True),
            ({}, {"builder": 9}, False),
            ({}, {"may": False}, True),
        ],
    )
    def test_others_stay(self, origin: dict[str, Any], left: dict[str, Any], reported: bool) -> None:
        leftover = self.left("orders_idx_ccnew", **left)
        found = due_leftovers([replace(INDEX, **origin), leftover], wanted("drop_leftovers"))
        assert found.due == []
        assert (leftover.qualified in [finding.subject for finding in found.findings]) is reported

    def test_a_long_name_was_cut(self) -> None:
        origin = replace(INDEX, name="x" * 63)
        assert origin_of(self.left("x" * 57 + "_ccnew"), [origin]) is origin
        assert origin_of(self.left("orders_ccnew"), [INDEX]) is None

    def test_without_the_task_it_is_a_finding(self) -> None:
        found = due_leftovers([INDEX, self.left("orders_idx_ccnew")], wanted("vacuum"))
        assert ([f.id for f in found.findings], found.due) == (["postgres.index_invalid"], [])


class TestDefinition:
    def of(self, **fields: Any) -> Definition:
        bare = {"table": "public.orders", "name": "orders_idx", "columns": ["a"], "expressions": None, "where": None}
        index = {**bare, "unique": False, "method": "btree", **fields}
        made = Definition.of({"tasks": ["create_index"], "index": index})
        assert made
        return made

    def test_statement_has_places_for_names_and_keeps_percent_signs(self) -> None:
        text, names = self.of(expressions=["a % 2"], where="b LIKE '%x'", unique=True).statement(TABLE)
        assert text == ("CREATE UNIQUE INDEX CONCURRENTLY %I ON %I.%I USING %I (%I, (a %% 2)) WHERE (b LIKE '%%x')")
        assert names == ("orders_idx", "public", "orders", "btree", "a")

    def test_the_same_is_no_step_another_is_a_conflict(self) -> None:
        assert due_creation(self.of(), [TABLE], [INDEX]).due == []
        for fields in ({"unique": True}, {"method": "hash"}, {"columns": ["b"]}, {"where": "a > 1"}):
            with pytest.raises(OpsError, match="another index"):
                due_creation(self.of(**fields), [TABLE], [INDEX])
        with pytest.raises(OpsError, match="belongs to"):
            due_creation(self.of(), [TABLE], [replace(INDEX, table=2)])

    def test_an_invalid_one_makes_way_unless_it_is_somebodys(self) -> None:
        invalid = replace(INDEX, valid=False)
        assert due_creation(self.of(), [TABLE], [invalid]).due[0].oid == INDEX.oid
        assert due_creation(self.of(), [TABLE], [replace(invalid, builder=9)]).due == []
        assert due_creation(self.of(), [TABLE], [replace(invalid, constraint="constraint c")]).due == []

    def test_alike_under_another_name_is_enough(self) -> None:
        found = due_creation(self.of(name="other"), [TABLE], [INDEX])
        assert ([s.subject for s in found.spared], found.due) == ([INDEX.subject], [])

    def test_sql_that_reads_otherwise_is_told(self) -> None:
        index = replace(INDEX, columns=(None,), expressions=("lower((a)::text)",))
        assert due_creation(self.of(columns=[], expressions=["LOWER(a)"]), [TABLE], [index]).findings == []
        found = due_creation(self.of(columns=[], expressions=["upper(a)"]), [TABLE], [index])
        assert ([f.id for f in found.findings], found.due) == (["postgres.index_unproved"], [])

    @pytest.mark.parametrize("text", ["a)", "(a", "a; b", "a -- b", "a /* b", "'a", 'a"', "$$a$$", "E'\\''", " "])
    def test_more_than_an_expression_is_refused(self, text: str) -> None:
        with pytest.raises(OpsError, match="not one expression"):
            self.of(expressions=[text])

    def test_a_partitioned_parent_is_refused(self) -> None:
        with pytest.raises(OpsError, match="has partitions"):
            due_creation(self.of(), [replace(TABLE, kind="p")], [])


def test_advice_has_evidence() -> None:
    busy = replace(TABLE, scans=10, rows_scanned=200_000)
    twin = replace(INDEX, oid=12, name="twin")
    found = advice([busy, replace(TABLE, scans=1, rows_scanned=10**9)], [INDEX, twin], {1: ["q"]}, "")
    assert [(entry["rows_per_scan"], entry["statements"]) for entry in found["missing"]] == [(20_000, ["q"])]
    assert [entry["index"] for entry in found["unused"]] == ["public.orders_idx", "public.twin"]
    assert found["duplicates"][0]["indexes"] == ["public.orders_idx", "public.twin"]


class TestBloat:
    def test_widths_are_aligned_as_the_server_does(self) -> None:
        assert tuple_width([Column(4, "i", 4), Column(8, "d", 8)]) == 16 + 12
        assert tuple_width([Column(4, "i", 4), Column(-1, "i", 33)]) == 40 + 12
        assert tuple_width([Column(-1, "i", None)]) is None

    def test_a_fresh_index_is_not_bloated_and_a_fourfold_one_is(self) -> None:
        columns = [Column(4, "i", 4), Column(-1, "i", 33)]  # measured on a server: 20,000 rows take 1,228,800 bytes
        fresh = replace(INDEX, bytes=1_228_800)
        assert index_share(fresh, 20_000, columns) == pytest.approx(0.05, abs=0.1)
        assert index_share(replace(fresh, bytes=4_915_200), 20_000, columns) == pytest.approx(0.75, abs=0.05)

    @pytest.mark.parametrize("fields", [{"predicate": "a > 1"}, {"method": "gin"}, {"bytes": 0}])
    def test_some_cannot_be_estimated(self, fields: dict[str, Any]) -> None:
        assert index_share(replace(INDEX, **fields), 20_000, [Column(4, "i", 4)]) is None


class TestMatviews:
    view = MatView(1, "public", "a", populated=True, concurrent=True, comment="", bytes=0, may=True)

    def test_sources_come_first_through_plain_views_too(self) -> None:
        views = [self.view, replace(self.view, oid=2, name="b"), replace(self.view, oid=3, name="c")]
        assert [view.oid for view in in_order(views, [(1, 99), (99, 3), (3, 2)])] == [2, 3, 1]

    def test_the_mark_keeps_the_rest_of_the_comment(self) -> None:
        once = marked("sales per day", NOW)
        assert once == "sales per day [refreshed 2030-01-01T12:00:00Z]"
        twice = replace(self.view, comment=marked(once, NOW + timedelta(hours=1)))
        assert (twice.comment.count("refreshed"), twice.refreshed) == (1, NOW + timedelta(hours=1))

    @pytest.mark.parametrize(
        ("fields", "task"),
        [
            ({"comment": "[refreshed 2030-01-01T11:00:00Z]"}, ""),
            ({"comment": "[refreshed 2030-01-01T10:59:59Z]"}, "refresh"),
            ({"concurrent": False}, ""),
            ({"populated": False, "concurrent": False}, "fill"),
            ({"may": False}, ""),
        ],
    )
    def test_is_due(self, fields: dict[str, Any], task: str) -> None:
        found = due_refreshes([replace(self.view, **fields)], [], wanted("refresh"), NOW)
        assert [due.task for due in found.due] == [task] * bool(task)


class TestWindow:
    @pytest.mark.parametrize(
        ("text", "hour", "left"),
        [
            ("22:00-05:00", 23, 6 * 3600),
            ("22:00-05:00 UTC", 4, 3600),
            ("22:00-05:00", 12, 0),
            ("09:00-17:00", 17, 0),
            ("09:00-17:00", 9, 8 * 3600),
            ("22:00-05:00 Asia/Tokyo", 14, 6 * 3600),
        ],
    )
    def test_is_open(self, text: str, hour: int, left: float) -> None:
        window = Window.parse(text)
        assert window
        assert window.seconds_left(NOW.replace(hour=hour)) == left

    def test_a_night_with_a_clock_change_has_its_real_length(self) -> None:
        window = Window.parse("22:00-05:00 Europe/Berlin")
        assert window
        assert window.seconds_left(datetime(2030, 3, 30, 21, tzinfo=UTC)) == 6 * 3600

    @pytest.mark.parametrize("text", ["22-05", "25:00-05:00", "22:00-22:00", "22:00-05:00 Nowhere/Land"])
    def test_nonsense_is_refused(self, text: str) -> None:
        with pytest.raises(OpsError):
            Window.parse(text)

    def test_none(self) -> None:
        assert (Window.parse(""), Window.parse(None)) == (None, None)


class FakeSession:
    """Answers by the first pattern that is found in a statement; remembers what was run."""

    pooled = False
    notices: Sequence[str] = ()

    def __init__(self, answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def rows(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Mapping[str, Any]]:
        self.asked.append(sql)
        return next((list(rows) for pattern, rows in self.answers.items() if re.search(pattern, sql)), [])

    def command(self, template: str, *names: str, values: Mapping[str, Any] | None = None) -> list[Mapping[str, Any]]:
        return self.rows(template, values)

    def isolated(self, template: str, *names: str, settings: Mapping[str, str] | None = None) -> None:
        self.rows(template)

    def close(self) -> None:
        """Nothing to let go of."""


class TestBrakes:
    def brakes(self, lag: int, *, window: float | None = None) -> Brakes:
        self.time = 0.0
        session = FakeSession({"pg_stat_replication": [{"name": "standby1", "bytes": lag}]})

        def sleep(seconds: float) -> None:
            self.time += seconds

        return Brakes(session, 10.0, 1000, window, clock=lambda: self.time, sleep=sleep)

    def test_goes_on(self) -> None:
        self.brakes(1000).wait(lambda _line: None)
        assert self.time == 0

    def test_waits_for_a_standby_and_gives_up_in_time(self) -> None:
        told: list[str] = []
        with pytest.raises(Stop, match="standby1"):
            self.brakes(1001).wait(told.append)
        assert 8 <= self.time <= 10
        assert told[0] == "waits for standby standby1, 1001 B behind"

    def test_says_which_end_came(self) -> None:
        for window, words in ((None, "max_duration has passed"), (5.0, "the window has closed")):
            brakes = self.brakes(0, window=window)
            self.time = 11.0
            with pytest.raises(Stop, match=words):
                brakes.check()


@pytest.mark.parametrize(
    ("local", "size", "word", "enough"),
    [
        (False, 1 << 20, False, True),
        (False, 2 << 30, False, False),
        (False, 2 << 30, True, True),
        (True, 1, False, True),
        (True, 1 << 60, True, False),
    ],
)
def test_a_build_needs_room(local: bool, size: int, word: bool, enough: bool, tmp_path: Path) -> None:
    session = FakeSession({"data_directory": [{"data": str(tmp_path), "tablespace": None, "local": local}]})
    postgres = Postgres(Target("postgres", "x", "1"), session, 150000, False, "u", True, frozenset(), "app")
    missing = room_missing(postgres, wanted("reindex", disk_headroom_ok=word), 1, size)
    assert (not missing) is enough


class TestProgress:
    def test_a_look_in_words(self) -> None:
        row = {"phase": "building index: scanning table", "done": 43, "total": 100, "lockers_done": 1}
        rest: dict[str, Any] = {"lockers_total": 0, "wait_event_type": None, "blockers": []}
        assert progress.line_of({**row, **rest}) == "building index: scanning table, 43 %"
        waits = {"phase": None, "done": None, "total": None, "lockers_total": 2, "wait_event_type": "Lock"}
        words = progress.line_of({**row, **rest, **waits, "blockers": [7]})
        assert words == "at work, 1 of 2 older transactions are through, waits for session 7"

    def test_looks_on_through_a_second_session_and_passes_errors_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress, "EVERY", 0.01)
        row = {"phase": "vacuuming indexes", "done": None, "total": None, "lockers_done": 0, "lockers_total": 0}
        second = FakeSession({"pg_stat_activity": [{**row, "wait_event_type": None, "blockers": []}]})

        @contextmanager
        def again() -> Iterator[FakeSession]:
            yield second

        first = FakeSession({"pg_backend_pid": [{"pid": 1}]})
        target = Target("postgres", "x", "1")
        postgres = Postgres(target, first, 150000, False, "u", True, frozenset(), "app", (), again)
        told: list[str] = []

        def statement() -> None:
            while len(told) < 2:
                pass
            raise OSError("broken")

        with pytest.raises(OSError, match="broken"):
            progress.watched(postgres, "vacuum a.b", told.append, statement)
        assert told[0] == "vacuum a.b: vacuuming indexes, 0 s"
