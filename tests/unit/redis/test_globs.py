# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Patterns mean here what they mean to the server; the last test asks a real one."""

from __future__ import annotations

import random

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._redis import globs
from tests.lab.redis_servers import start_single
from tests.lab.world import lab


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (b"cache:*", [b"cache:", b"cache:a*b\n\x00"], [b"cache", b"xcache:", b"Cache:a", b""]),
        (b"a?c", [b"abc", b"a\xffc"], [b"ac", b"abbc"]),
        (rb"a\*", [b"a*"], [b"ab", b"a"]),
        (b"[a-c]x", [b"ax", b"cx"], [b"dx", b"-x"]),
        (b"[^a]x", [b"bx", b"\x00x"], [b"ax", b"x"]),
        (b"[c-a]", [b"b"], [b"d", b"-"]),
        (rb"[\]]", [b"]"], [b"\\"]),
        (b"[ab", [b"a", b"b"], [b"["]),
        (b"a\\", [b"a\\"], [b"a"]),
        (b"[]x", [], [b"x", b"]x"]),
        (b"*", [b"x", b""], []),
        (b"**", [b"x"], [b""]),
    ],
)
def test_matches(pattern: bytes, yes: list[bytes], no: list[bytes]) -> None:
    assert all(globs.matches(pattern, key) for key in yes)
    assert not any(globs.matches(pattern, key) for key in no)


def test_escapes_stand_for_one_literal_byte() -> None:
    assert globs.matches(globs.pattern_of(r"k\x00\xff\x2a", "match"), b"k\x00\xff*")
    assert not globs.matches(globs.pattern_of(r"k\x2a", "match"), b"kx")
    assert globs.matches(globs.pattern_of("schlüssel:*", "match"), "schlüssel:1".encode())
    assert globs.matches(globs.pattern_of(r"\\x41", "match"), rb"\x41")


def test_ranges_on_which_servers_disagree_are_refused() -> None:
    with pytest.raises(OpsError, match="0x7f"):
        globs.pattern_of(r"[a-é]", "match")


@pytest.mark.parametrize("pattern", [b"", b"*", b"***", b"?", b"?*", b"[^a]*", b"*?*"])
def test_patterns_without_a_literal_are_too_wide(pattern: bytes) -> None:
    assert globs.too_wide(pattern)


@pytest.mark.parametrize("pattern", [b"a*", b"*a", b"?x", b"[ab]*"])
def test_patterns_that_name_something_are_not(pattern: bytes) -> None:
    assert not globs.too_wide(pattern)


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (b"cache:*", b"sess:*", True),
        (b"cache:*", b"cache:page:*", False),
        (b"cache:*", b"*:lock", False),
        (b"a*b", b"a*c", True),
        (b"[ab]*", b"[cd]*", True),
        (b"a?", b"a", True),
        (b"*", b"x", False),
        (b"a*", b"b", True),
    ],
)
def test_disjoint(one: bytes, other: bytes, apart: bool) -> None:
    assert [globs.disjoint(*pair) for pair in ((one, other), (other, one))] == [apart, apart]


@pytest.mark.parametrize(
    ("pattern", "wider", "is_inside"),
    [
        (b"bull:*", b"bull:*", True),
        (b"bull:email:*", b"bull:*", True),
        (b"celery", b"celery*", True),
        (b"bu*", b"bull:*", False),
        (b"*", b"bull:*", False),
        (b"ab", b"a?", True),
    ],
)
def test_inside(pattern: bytes, wider: bytes, is_inside: bool) -> None:
    assert globs.inside(pattern, wider) == is_inside


def test_cheapest_test() -> None:
    kinds = [globs.test_of(pattern).kind for pattern in (b"celery", b"bull:*", b"*:lock", rb"a\*b*")]
    assert kinds == ["exact", "prefix", "pattern", "prefix"]


def test_built_in_patterns_begin_with_a_literal() -> None:
    assert all(globs.literal_prefix(kept.pattern) for kept in (*globs.WORK, *globs.SESSIONS))


_ALPHABET = [b"a", b"b", b"*", b"?", b"[", b"]", b"^", b"-", b"\\", b"%", b"\x00", b"\xff", b".", b"\n"]


@pytest.mark.redis
def test_a_real_server_agrees_on_random_patterns() -> None:
    chance = random.Random(7)
    with lab() as world, world.start(start_single).client() as client:
        for _round in range(400):
            pattern = b"".join(chance.choices(_ALPHABET, k=chance.randint(1, 7)))
            keys = {b"".join(chance.choices(_ALPHABET, k=chance.randint(0, 5))) for _key in range(40)}
            try:
                globs.places(pattern)
            except ValueError:
                continue
            client.flushall()
            client.mset(dict.fromkeys(keys, b"1"))
            mine = {key for key in keys if globs.matches(pattern, key)}
            assert set(client.scan_iter(match=pattern, count=1000)) == mine, pattern
            test = globs.test_of(pattern)
            loop = f"for _, key in ipairs(KEYS) do if {test.expression(1)} then found[#found + 1] = key end end"
            lua = f"local found = {{}} {loop} return found"
            some = sorted(keys - {b""})
            assert set(client.eval(lua, len(some), *some, test.text)) == mine - {b""}, pattern
            _agree_about(pattern, b"".join(chance.choices(_ALPHABET, k=5)), keys - {b""})


def _agree_about(one: bytes, other: bytes, keys: set[bytes]) -> None:
    try:
        globs.places(other)
    except ValueError:
        return
    if any(globs.matches(one, key) and globs.matches(other, key) for key in keys):
        assert not globs.disjoint(one, other), (one, other)
    if any(globs.matches(one, key) and not globs.matches(other, key) for key in keys):
        assert not globs.inside(one, other), (one, other)
