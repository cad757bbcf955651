# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Units, redaction, waiting and specs: the small parts."""

from __future__ import annotations

import time

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._core.plan import Verify
from ansible_collections.sre.runbooks.plugins.module_utils._core.redact import digest, printable, redact
from ansible_collections.sre.runbooks.plugins.module_utils._core.spec import Spec
from ansible_collections.sre.runbooks.plugins.module_utils._core.units import human, parse_seconds, parse_size
from ansible_collections.sre.runbooks.plugins.module_utils._core.wait import hold


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512), ("1k", 1000), ("1kb", 1024), ("64MB", 64 << 20), ("1.5GiB", 3 << 29), (" 2 gb ", 2 << 30), (7, 7)],
)
def test_sizes_are_read_as_redis_reads_them(text: str, size: int) -> None:
    assert parse_size(text, "x") == size


@pytest.mark.parametrize("text", ["", "mb", "-1", "1,5gb", "1 zb", "64mbb", "0x10", "1e3", "٣mb"])
def test_a_malformed_size_names_the_option(text: str) -> None:
    with pytest.raises(OpsError, match=r"^max_bytes: "):
        parse_size(text, "max_bytes")


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), (5, 5)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_seconds(text, "x") == seconds


@pytest.mark.parametrize("text", ["", "h", "-1m", "1.5h", "2w"])
def test_a_malformed_duration_names_the_option(text: str) -> None:
    with pytest.raises(OpsError, match=r"^min_idle: "):
        parse_seconds(text, "min_idle")


def test_sizes_are_shown_in_binary_units() -> None:
    assert [human(size) for size in (0, 1023, 1024, 1572864, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "5.0 TiB",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "redis://app:canary-1234@host:6379/0",
        "Error connecting to rediss://:canary-1234@h",
        "redis://app:un@quoted/canary-1234@h",
        "Authorization: Bearer canary-1234.abc",
        "requirepass=canary-1234",
        "masterauth: canary-1234",
        "-----BEGIN RSA PRIVATE KEY-----\ncanary-1234\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_secrets_in_texts_are_masked(text: str) -> None:
    assert "canary-1234" not in str(redact({"a": [text, (text,)], text: 1}))


@pytest.mark.parametrize("text", ["a" * 200_000, "redis://x:" * 20_000, "x@" * 100_000, "bearer " * 30_000])
def test_no_text_takes_long(text: str) -> None:
    """A key's name may be hostile. Twice the text must not be four times the work."""
    begun = time.process_time()
    redact(text)
    assert time.process_time() - begun < 5


def test_the_user_of_a_url_stays() -> None:
    assert redact("redis://app:pw@host/0") == "redis://app:***@host/0"


def test_a_known_secret_is_masked_wherever_it_stands() -> None:
    assert redact(["x-s3cret-y", b"s3cret", {"s3cret": 5}], ["s3cret"]) == ["x-***-y", "***", {"***": 5}]


def test_numbers_and_booleans_pass() -> None:
    assert redact({"a": 1, "b": True, "c": None, "d": 0.5}) == {"a": 1, "b": True, "c": None, "d": 0.5}


def test_any_bytes_can_be_printed() -> None:
    assert printable(b"a\n\x00\xffb\xc3\xa9") == "a\\n\\x00\\xffbé"


def test_a_digest_tells_keys_apart_without_showing_them() -> None:
    assert digest(b"user:1") != digest(b"user:2")
    assert "user" not in digest(b"user:1")


class Clock:
    """Time that passes only by sleeping."""

    now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_condition_must_hold_in_a_row() -> None:
    answers, clock = iter(["", "no", "", "", ""]), Clock()
    verdict = hold(Verify("it", lambda: next(answers), 3, 1.0, 60.0), clock=lambda: clock.now, sleep=clock.sleep)
    assert (verdict.ok, verdict.held, verdict.seconds) == (True, 3, 4.0)


def test_waiting_ends_in_time_and_says_what_is_wrong() -> None:
    clock = Clock()
    verdict = hold(Verify("it", lambda: "not yet", 1, 2.0, 5.0), clock=lambda: clock.now, sleep=clock.sleep)
    assert (verdict.ok, verdict.wrong, verdict.seconds) == (False, "not yet", 5.0)


def test_specs_join_and_refuse_a_name_twice() -> None:
    one = Spec({"a": {"type": "str"}}, mutually_exclusive=(("a", "b"),))
    two = Spec({"b": {"type": "str"}}, required_together=(("a", "b"),))
    joined = one | two
    assert sorted(joined.options) == ["a", "b"]
    assert joined.rules() == {"mutually_exclusive": [("a", "b")], "required_together": [("a", "b")]}
    with pytest.raises(ValueError, match="twice"):
        one | one


def test_secrets_within_options_are_found() -> None:
    spec = Spec({"headers": {"type": "dict", "no_log": True}, "url": {"type": "str"}})
    params = {"headers": {"X-Token": "t0ken", "X-More": ["m0re", 5, ""], "X-None": None}, "url": "http://h"}
    assert list(spec.secrets(params)) == ["t0ken", "m0re"]
