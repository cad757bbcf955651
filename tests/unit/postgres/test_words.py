# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""No literal leaves a statement, whole or cut, and no statement takes long."""

from __future__ import annotations

import time

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._postgres.words import LONGEST, normalized, shown


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT * FROM t WHERE a = 'secret' AND b=42", "SELECT * FROM t WHERE a = $1 AND b=$2"),
        ("SELECT 'it''s secret', E'it\\'s secret', $$secret$$, $x$se'cret$x$", "SELECT $1, $2, $3, $4"),
        ("SELECT 1.5e-3, .5, 0x1F, B'01', X'ff', N'secret', U&'secret'", "SELECT $1, $2, $3, $4, $5, $6, $7"),
        # What was normalised by the server stays, and is counted on from.
        ("SELECT $1, $2, 'secret'", "SELECT $1, $2, $3"),
        ('SELECT a1, t2.b3 FROM "t\'4" -- secret 5\n/* secret */ WHERE c', 'SELECT a1, t2.b3 FROM "t\'4" WHERE c'),
        # Cut in the middle by track_activity_query_size.
        ("INSERT INTO t VALUES ('a', 'secr", "INSERT INTO t VALUES ($1, $2"),
        ("DO $$ secret", "DO $1"),
        ("SELECT E'secret\\", "SELECT $1"),
        ("ALTER ROLE a PASSWORD 'secret'", "ALTER ROLE a PASSWORD $1"),
        ("SELECT a[1:2], -3, b::numeric(10,2)", "SELECT a[$1:$2], -$3, b::numeric($4,$5)"),
    ],
)
def test_normalized(query: str, expected: str) -> None:
    assert normalized(query) == expected


@pytest.mark.parametrize("part", ["'", "$a$", "E'\\", "/*", "1.", "''", '"', "$", "--"])
def test_it_takes_linear_time(part: str) -> None:
    start = time.monotonic()
    assert len(normalized(part * 100_000)) <= LONGEST
    assert time.monotonic() - start < 2


def test_how_it_is_shown() -> None:
    assert shown("SELECT  'x'", "none") == ""
    assert shown("SELECT  'x'", "normalized") == "SELECT $1"
    assert shown("SELECT  'x'", "raw") == "SELECT 'x'"
    assert shown(None, "raw") == ""
