# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a report says, and that no content can break out of the page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.plugin_utils._report import Host, Report, read_report
from ansible_collections.sre.runbooks.plugins.plugin_utils._report_html import as_html
from ansible_collections.sre.runbooks.plugins.plugin_utils._report_markdown import as_markdown, code
from ansible_collections.sre.runbooks.plugins.plugin_utils._report_words import amount, duration, evidence
from tests.unit.record import samples
from tests.unit.record.samples import HOSTILE, Story


def host(story: Story) -> Host:
    (found,) = read_report(story.lines).hosts
    return found


class Page(HTMLParser):
    """The tags and the text of a page; fails where a tag is not closed."""

    _VOID = frozenset({"meta", "rect", "link", "img", "input", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data + " "


def test_a_mended_incident() -> None:
    found = host(samples.mended())
    assert found.label == "mended"
    assert [(f.id, f.state) for f in found.findings] == [
        ("redis.memory_full", "cleared"),
        ("redis.slow_commands", "remains"),
    ]
    assert found.mitigated == pytest.approx(3.1, abs=0.1)
    assert found.numbers[0].deviation == "2.8% off the forecast"
    assert found.headline == "Memory counted from 63.4 MiB to 39.1 MiB, 1 action in 3.1 s."
    assert [phase.name for phase in found.phases] == ["Diagnose", "Guard", "Mitigate", "Verify"]
    assert found.phases[0].start == 0
    assert ("memory ratio", "99%", "61%") in found.shifts
    assert [source for _words, source in found.advice] == ["redis.slow_commands"]


def test_check_mode_names_the_plan_to_approve() -> None:
    found = host(samples.checked())
    assert found.label == "check only"
    assert found.approvals[0].command.endswith("-i inventories/prod -e approved_plan=26a6a650246cb582.48210")
    assert found.headline == "1 action planned on 48,210 subjects. Nothing was changed."
    for text in (as_markdown(read_report(samples.checked().lines)), as_html(read_report(samples.checked().lines))):
        assert "-e approved_plan=26a6a650246cb582.48210" in text


def test_a_refusal_says_its_reason_not_the_echo() -> None:
    found = host(samples.refused())
    assert found.label == "refused"
    assert found.headline == "cache-a:6379: 48210 subjects, more than max_count 10000"
    assert [trouble.refused for trouble in found.troubles] == [True, False]
    assert found.advice[0][0].startswith("Nothing was changed. Narrow the selection")


def test_a_failed_rung_that_was_rescued_is_not_the_outcome() -> None:
    broken = {
        "failed": True,
        "msg": "x",
        "error": {"kind": "timeout", "message": "too slow", "hint": ""},
        "undone": ["put back"],
    }
    story = Story().host(
        "cache-a",
        (samples.DIAGNOSE, "ok", samples.info(samples.FULL), 0.03),
        (("Mitigate | First rung", "sre.runbooks.redis_setting"), "failed", broken, 0.1),
        (samples.MITIGATE, "ok", samples.removal(), 1.9),
        (samples.VERIFY, "ok", samples.info(verify=samples.VERIFIED), 1.0),
    )
    found = host(story)
    assert found.outcome == "mended"
    assert (found.troubles[0].final, found.troubles[0].undone) == (False, ("put back",))


def test_a_narrow_last_look_does_not_clear_what_it_did_not_see() -> None:
    narrow = samples.info(verify=samples.VERIFIED)
    del narrow["clients"]
    story = Story().host(
        "cache-a",
        (samples.DIAGNOSE, "ok", samples.info(samples.FULL, samples.SLOW), 0.03),
        (samples.MITIGATE, "ok", samples.removal(), 1.9),
        (samples.VERIFY, "ok", narrow, 1.0),
    )
    states = {finding.id: finding.state for finding in host(story).findings}
    assert states == {"redis.memory_full": "cleared", "redis.slow_commands": "unseen"}


def test_a_fleet_has_a_table_first() -> None:
    report = read_report(samples.fleet().lines)
    assert [h.outcome for h in report.hosts] == ["mended", "nothing_to_do", "failed", "not_treated"]
    assert report.hosts[1].seconds < 1
    page = Page(as_html(report))
    assert "Nothing could be looked at." in page.text
    tags = [name for name, _attributes in page.tags]
    assert tags.index("table") < tags.index("article")
    assert "| cache-c | redis\\_memory\\_full | failed |" in as_markdown(report)


def test_a_killed_run_has_no_outcome() -> None:
    lines = samples.mended().lines[:6]
    assert read_report(lines).hosts[0].outcome == "interrupted"
    Page(as_html(read_report(lines)))


def test_rungs_that_were_not_needed_are_told() -> None:
    skip = (("Mitigate | Raise the limit", "sre.runbooks.redis_setting"), "skipped", {"false_condition": "full"}, 0.0)
    report = read_report(Story().host("cache-a", (samples.DIAGNOSE, "ok", samples.info(), 0.03), skip).lines)
    assert "Not needed: Raise the limit" in Page(as_html(report)).text
    assert "Not needed: Raise the limit" in as_markdown(report)


def hostile() -> Report:
    """Everything that others can name has a hostile name."""
    finding = {
        **samples.FULL,
        "subject": HOSTILE,
        "evidence": {"key": HOSTILE, HOSTILE: 1},
        "suggest": HOSTILE,
        "id": "redis.x",
    }
    result: dict[str, Any] = samples.removal(subject=HOSTILE)
    result["actions"] = [f"remove {HOSTILE}"]
    result["measured"]["name"] = HOSTILE
    result["spared"] = [{"subject": HOSTILE, "reason": HOSTILE, "count": 1}] * 30
    result["verify"] = {"ok": False, "condition": HOSTILE, "wrong": HOSTILE}
    error = {
        "failed": True,
        "msg": HOSTILE,
        "error": {"kind": "timeout", "message": HOSTILE, "hint": HOSTILE},
        "undone": [HOSTILE],
    }
    story = Story(run=HOSTILE)
    story.host(
        HOSTILE,
        ((f"Diagnose | {HOSTILE}", "sre.runbooks.redis_info"), "ok", samples.info(finding), 0.03),
        ((f"Mitigate | {HOSTILE}", "sre.runbooks.redis_keyspace"), "ok", result, 1.9),
        (samples.VERIFY, "failed", error, 0.1),
        failed=True,
    )
    story.host("other", (samples.DIAGNOSE, "ok", samples.info(), 0.03))
    return read_report(story.lines)


def test_hostile_names_stay_text_in_html() -> None:
    html = as_html(hostile())
    page = Page(html)
    assert "script" not in {name for name, _attributes in page.tags}
    assert "cart:<script>alert(1)</script>" in page.text
    assert "\u202e" not in html
    assert not [attrs for _name, attrs in page.tags if any(name.startswith("on") for name in attrs)]


def test_hostile_names_stay_text_in_markdown() -> None:
    markdown = as_markdown(hostile())
    outside = re.sub(r"(`+).*?\1", "", markdown)
    assert not re.search(r"(?<!\\)<", outside)
    assert "\u202e" not in markdown
    assert "\n**bold**" not in markdown


def test_a_code_span_cannot_be_left() -> None:
    assert code("a`b``c") == "``` a`b``c ```"


def test_the_page_needs_nothing_else() -> None:
    html = as_html(read_report(samples.mended().lines))
    names = {name for name, _attributes in Page(html).tags}
    assert not names & {"script", "link", "img", "iframe", "form", "a"}
    assert "url(" not in html
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 ms"), (0.0042, "4.2 ms"), (0.34, "340 ms"), (3.2, "3.2 s"), (245, "4 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_amounts_and_evidence_in_words() -> None:
    assert amount(66436300, "bytes") == "63.4 MiB"
    assert amount(12000, "connections") == "12,000 connections"
    facts = {
        "connected": 9800,
        "limit": 10000,
        "worst_ms": 48.2,
        "ratio": 7.137,
        "share": 0.055,
        "ok": True,
        "none": None,
    }
    assert dict(evidence(facts)) == {
        "connected": "9,800", "limit": "10,000", "worst": "48 ms", "ratio": "7.14", "share": "5.5%", "ok": "yes"
    }  # fmt: skip
    assert dict(evidence({"counted": 1024, "limit": 2048}))["limit"] == "2.0 KiB"
