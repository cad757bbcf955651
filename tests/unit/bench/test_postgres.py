# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bench says of PostgreSQL: nothing is measured here."""

from __future__ import annotations

import pytest

from tests.bench import cli
from tests.bench.stats import Reading, Target
from tests.lab.process import LabError

postgres = pytest.importorskip("tests.bench.postgres", exc_type=ModuleNotFoundError)


def readings(wrong: float = 0.0, call: float = 0.05, looking: float = 12.0) -> dict[str, list[Reading]]:
    """Of three runs in which a task of the peer takes ten times as long as one of ours."""

    def thrice(wall: float = 1.0, **quantities: float) -> list[Reading]:
        return [{"wall": wall, "cpu": wall, **quantities}] * 3

    return {
        **{name: thrice(gone=0.1, wrong=wrong) for name in postgres.ENDERS},
        postgres.CALL: thrice(call=call),
        postgres.CROWDED: thrice(call=call),
        postgres.PEER_CALL: thrice(call=0.1),
        postgres.EMPTY: thrice(1.0),
        postgres.IN_PROCESS: thrice(2.0),
        postgres.SHIPPED: thrice(8.0),
        postgres.PEER: thrice(11.0),
        postgres.CALM: thrice(p50=0.001, p99=0.002, worst=0.003),
        postgres.LOOKED_AT: thrice(p50=0.001, p99=0.004, worst=0.009),
        postgres.QUERIES: [{"all": looking + 2, "looking": looking}],
    }


def missed(results: dict[str, list[Reading]]) -> list[str]:
    found: list[Target] = postgres.targets(results)
    return [target.words for target in found if not target.met]


def test_promises_are_held_to_the_figures() -> None:
    assert missed(readings()) == []
    assert "wrong" in missed(readings(wrong=1.0))[0]
    assert "150 ms" in missed(readings(call=0.2))[0]
    assert "12 queries" in missed(readings(looking=13.0))[0]


def test_every_contender_has_its_row() -> None:
    told = postgres.tell(readings())
    assert told.count("| `psql`") == 2
    assert "| 10.0x | met |" in told
    alone = {name: found for name, found in readings().items() if "community" not in name}
    assert "| not measured |" in postgres.tell(alone)


def test_without_a_server_it_is_skipped_loudly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> None:
        raise LabError("no PostgreSQL server")

    monkeypatch.setattr(postgres, "installation", none)
    assert cli.main(["postgres"]) == 0
    assert capsys.readouterr().err == "SKIPPED postgres: no PostgreSQL server\n"
