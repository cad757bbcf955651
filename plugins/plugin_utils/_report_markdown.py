# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A report as Markdown, for an incident's page or a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ._report import Finding, Host, Number, Report
from ._report_words import count, duration, visible

_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_{}[]<>|#~&"})


def as_markdown(report: Report) -> str:
    """The whole report; one host is told at once, several under a table."""
    parts = [f"# {text(report.title)}", "", *_facts(report)]
    if len(report.hosts) > 1:
        parts += ["", *_table(report)]
    for host in report.hosts:
        parts += ["", f"## {text(host.name)}: {host.label}", "", *_host(host, report)]
    return "\n".join(parts) + "\n"


def text(value: str) -> str:
    """Text that stays text: no markup, no HTML, no line breaks, nothing that cannot be seen."""
    return visible(value).translate(_SPECIAL)


def code(value: str) -> str:
    """A code span that its content cannot leave."""
    plain = visible(value)
    fence = "`"
    while fence in plain:
        fence += "`"
    pad = " " if len(fence) > 1 else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def _facts(report: Report) -> Iterator[str]:
    yield f"- Run: {code(report.run)}"
    yield f"- Started: {report.started} UTC, took {duration(report.seconds)}"
    yield f"- By: {text(report.user)}{' (check mode)' if report.check else ''}"
    yield f"- With: sre.runbooks {text(report.collection)}, ansible-core {text(report.core)}"


def _table(report: Report) -> Iterator[str]:
    yield "| Target | Runbook | Outcome | Took | |"
    yield "| --- | --- | --- | --- | --- |"
    for host in report.hosts:
        cells = (text(host.name), text(host.runbook), host.label, duration(host.seconds), text(host.headline))
        yield f"| {' | '.join(cells)} |"


def _host(host: Host, report: Report) -> Iterator[str]:
    yield text(host.headline)
    if host.server:
        yield f"\nTarget: {text(host.server)}"
    yield from _troubles(host)
    yield from _section("What was found", map(_finding, host.findings), host.nothing_found)
    yield from _section("What was done", _done(host), "Nothing was changed.")
    yield from _section("What was spared, and why", _spared(host), "")
    yield from _section("Before and after", map(_number, host.numbers), "")
    yield from _section("Verification", _proofs(host), "")
    yield from _section("Timeline", (f"- {p.name}: {duration(p.seconds)}" for p in host.phases), "")
    yield from _section("What to do next", _next(host, report), "")


def _section(title: str, rows: Iterable[str], nothing: str) -> Iterator[str]:
    found = list(rows)
    if found or nothing:
        yield f"\n### {title}\n"
        yield from found or [nothing]


def _troubles(host: Host) -> Iterator[str]:
    for trouble in host.troubles:
        word = "Refused" if trouble.refused else "Failed"
        over = "" if trouble.final else " (the run went on)"
        yield f"\n> **{word}**{over} at {text(trouble.task)}: {text(trouble.message)}"
        if trouble.hint:
            yield f">\n> {text(trouble.hint)}"
        for words in trouble.undone:
            yield f">\n> Undone: {text(words)}"


def _finding(finding: Finding) -> str:
    facts = ", ".join(f"{text(label)} {text(value)}" for label, value in finding.evidence)
    state = {"cleared": " (cleared)", "unseen": " (not looked at again)"}.get(finding.state, "")
    return (
        f"- **{finding.severity}** {code(finding.id)} on {code(finding.subject)}{state}{': ' if facts else ''}{facts}"
    )


def _done(host: Host) -> Iterator[str]:
    for act in host.acts:
        yield from (f"- {text(words)}" for words in act.actions)
        if act.rest:
            yield f"- and {act.rest:,} more"
        yield from (f"  - {text(words)}" for words in act.undo)
    yield from (f"- Not needed: {text(rung)}" for rung in host.skipped)
    for approval in host.approvals:
        yield from (f"- Would: {text(words)}" for words in approval.actions)


def _spared(host: Host) -> Iterator[str]:
    yield from (f"- {code(item.subject)}: {text(item.reason)}" for item in host.spared)
    if host.spared_rest:
        yield f"- and {host.spared_rest:,} more"


def _number(number: Number) -> str:
    measured = "" if number.measured is None else f", measured {number.text(number.measured)}"
    deviation = f" ({number.deviation})" if number.deviation else ""
    promise = f"{number.text(number.before)} before, forecast {number.text(number.forecast)}"
    return f"- {text(number.name)}: {text(promise)}{text(measured)}{deviation}"


def _proofs(host: Host) -> Iterator[str]:
    for proof in host.proofs:
        yield f"- {'Holds' if proof.ok else 'Does not hold'}: {text(proof.words)}"
    if host.mitigated is not None:
        yield f"- Time to mitigate: {duration(host.mitigated)}"


def _next(host: Host, report: Report) -> Iterator[str]:
    for approval in host.approvals:
        if approval.command:
            yield f"- To run exactly this plan ({count(approval.subjects, 'subject')}):\n\n  {code(approval.command)}\n"
        elif approval.id and report.job:
            extra = code(f"approved_plan: {approval.id}")
            yield f"- To run exactly this plan, launch the job with the extra variable {extra}"
    yield from (f"- {text(words)}{f' ({code(source)})' if source else ''}" for words, source in host.advice)
