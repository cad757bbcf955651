# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A report as one HTML page that needs nothing else: light and dark, on a screen and on paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ._report import Act, Approval, Finding, Host, Number, Proof, Report, Trouble
from ._report_charts import before_after, timeline
from ._report_style import STYLE
from ._report_words import count, duration, markup

_TONES = {
    "mended": "good",
    "nothing_to_do": "good",
    "check_only": "calm",
    "unverified": "warn",
    "not_treated": "warn",
    "refused": "warn",
    "failed": "bad",
    "interrupted": "bad",
    "critical": "bad",
    "warning": "warn",
    "info": "calm",
}
#: Spared subjects that are shown unfolded.
_AT_ONCE = 10

_STATES = {"cleared": "cleared", "remains": "remains", "unseen": "not looked at again"}


class Html(str):
    """Markup that was built here. Everything else is text."""

    __slots__ = ()


def tag(name: str, *children: str, cls: str = "") -> Html:
    """An element. A child that is not Html is escaped: there is no way to forget it."""
    inner = "".join(child if isinstance(child, Html) else markup(child) for child in children)
    kind = f' class="{markup(cls)}"' if cls else ""
    return Html(f"<{name}{kind}>{inner}</{name}>")


def as_html(report: Report) -> str:
    """The whole page."""
    title = f"{report.title}: {', '.join(dict.fromkeys(host.label for host in report.hosts))}"
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"{tag('title', title)}<style>{STYLE}</style>"
    )
    body = tag("main", _header(report), *(_host(host, report) for host in report.hosts), _footer(report))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _header(report: Report) -> Html:
    single = report.hosts[0] if len(report.hosts) == 1 else None
    title = [tag("h1", report.title)] + ([_badge(single)] if single else [])
    told = [tag("p", single.headline, cls="lead")] if single else []
    where = [tag("p", single.server, cls="server")] if single and single.server else []
    eyebrow = f"Runbook report, {single.name if single else count(len(report.hosts), 'target')}"
    summary = [] if single else [_summary(report.hosts)]
    return tag(
        "header",
        tag("p", eyebrow, cls="eyebrow"),
        tag("div", *title, cls="title"),
        *told,
        *where,
        _facts(report),
        *summary,
    )


def _facts(report: Report) -> Html:
    mode = ", check mode" if report.check else ""
    facts = (
        ("Run", report.run),
        ("Started", f"{report.started} UTC"),
        ("Took", duration(report.seconds)),
        ("By", f"{report.user}{mode}"),
    )
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), cls="facts")


def _summary(hosts: Sequence[Host]) -> Html:
    several = len({host.runbook for host in hosts}) > 1
    names = ("Target", *(["Runbook"] if several else []), "Outcome", "Took", "In short")
    rows = (
        tag(
            "tr",
            tag("td", host.name),
            *([tag("td", host.runbook)] if several else []),
            tag("td", _badge(host)),
            tag("td", duration(host.seconds), cls="short"),
            tag("td", host.headline, cls="long"),
        )
        for host in hosts
    )
    table = tag("table", tag("tr", *(tag("th", name) for name in names)), *rows)
    return tag("section", tag("div", table, cls="scroll"), cls="summary")


def _footer(report: Report) -> Html:
    return tag(
        "footer",
        f"sre.runbooks {report.collection}, ansible-core {report.core}. Every line of this report is in journal.jsonl.",
    )


def _badge(host: Host) -> Html:
    return tag("span", host.label, cls=f"badge {_TONES.get(host.outcome, 'calm')}")


def _host(host: Host, report: Report) -> Html:
    several = len(report.hosts) > 1
    parts = [
        *(_host_head(host) if several else ()),
        _tiles(host),
        *(_trouble(trouble) for trouble in host.troubles),
        *_section("Before and after", [_number(number) for number in host.numbers]),
        *_list(
            "What was found",
            [_finding(finding) for finding in host.findings] or [tag("li", host.nothing_found)],
        ),
        *_list("What was done", [*map(_act, host.acts), *map(_not_needed, host.skipped)]),
        *_list("What would be done", [*map(_planned, host.approvals)]),
        *_section("What was spared, and why", list(_spared(host))),
        *_list("Verification", [*map(_proof, host.proofs)]),
        *_section("Timeline", [Html(timeline(host.phases)), *_shifts(host)] if host.phases else []),
        *_list("What to do next", list(_next(host, report))),
    ]
    return tag("article", *parts, cls="host" if several else "")


def _host_head(host: Host) -> Iterator[Html]:
    yield tag("div", tag("h2", host.name), _badge(host), cls="title")
    yield tag("p", host.headline, cls="lead")
    if host.server:
        yield tag("p", host.server, cls="server")


def _tiles(host: Host) -> Html:
    mitigated = host.mitigated
    remaining = sum(finding.severity != "info" for finding in host.remaining)
    tiles = (
        ("Took", duration(host.seconds)) if mitigated is None else ("Time to mitigate", duration(mitigated)),
        ("Actions planned", f"{host.planned:,}") if host.approvals else ("Actions", f"{host.done:,}"),
        ("Spared", f"{len(host.spared) + host.spared_rest:,}"),
        ("Findings that remain", f"{remaining:,}"),
    )
    boxes = (tag("div", tag("b", value), tag("span", name), cls="tile") for name, value in tiles)
    return tag("div", *boxes, cls="tiles")


def _section(title: str, content: list[Html]) -> Iterator[Html]:
    if content:
        yield tag("section", tag("h3", title), *content)


def _list(title: str, items: list[Html]) -> Iterator[Html]:
    if items:
        yield tag("section", tag("h3", title), tag("ul", *items))


def _trouble(trouble: Trouble) -> Html:
    word = "Refused" if trouble.refused else "Failed"
    over = "" if trouble.final else ". The run went on"
    hint = [tag("p", trouble.hint, cls="note")] if trouble.hint else []
    undone = [tag("p", f"Undone: {words}", cls="note") for words in trouble.undone]
    tone = "warn" if trouble.refused or not trouble.final else "bad"
    kind = f" ({trouble.kind})" if trouble.kind else ""
    title = tag("h3", f"{word} at \u201c{trouble.task}\u201d{kind}{over}")
    return tag("section", title, tag("p", trouble.message), *hint, *undone, cls=f"trouble {tone}")


def _finding(finding: Finding) -> Html:
    row = (
        tag("span", finding.severity, cls=f"tag {_TONES.get(finding.severity, 'calm')}"),
        tag("code", finding.id),
        tag("span", finding.subject, cls="note"),
        tag("span", _STATES[finding.state], cls="state"),
    )
    pairs = (tag("span", f"{label} ", tag("b", value)) for label, value in finding.evidence)
    return tag("li", tag("div", *row, cls="row"), tag("div", *pairs, cls="pairs"), cls=finding.state)


def _act(act: Act) -> Html:
    more = [tag("p", f"and {act.rest:,} more", cls="note")] if act.rest else []
    undo = [tag("p", words, cls="note") for words in act.undo]
    return tag("li", *(tag("p", words) for words in act.actions), *more, *undo)


def _not_needed(rung: str) -> Html:
    return tag("li", f"Not needed: {rung}", cls="note")


def _planned(approval: Approval) -> Html:
    return tag("li", *(tag("p", words) for words in approval.actions))


def _spared(host: Host) -> Iterator[Html]:
    """The first few at once; the rest folds away."""
    rows = [tag("li", tag("code", item.subject), tag("span", item.reason, cls="note")) for item in host.spared]
    if host.spared_rest:
        rows.append(tag("li", f"and {host.spared_rest:,} more"))
    if rows:
        yield tag("ul", *rows[:_AT_ONCE], cls="plain")
    if rows[_AT_ONCE:]:
        shown = tag("summary", f"{len(rows) - _AT_ONCE} more")
        yield tag("details", shown, tag("ul", *rows[_AT_ONCE:], cls="plain"))


def _number(number: Number) -> Html:
    words = tag("span", number.deviation) if number.deviation else Html("")
    return tag("figure", tag("figcaption", tag("b", number.name), words), Html(before_after(number)))


def _proof(proof: Proof) -> Html:
    word = ("holds", "good") if proof.ok else ("does not hold", "bad")
    return tag("li", tag("div", tag("span", word[0], cls=f"tag {word[1]}"), tag("span", proof.words), cls="row"))


def _shifts(host: Host) -> Iterator[Html]:
    if host.shifts:
        head = tag("tr", *(tag("th", name) for name in ("Number", "First look", "Last look")))
        rows = (tag("tr", *(tag("td", cell) for cell in row)) for row in host.shifts)
        yield tag("details", tag("summary", "Numbers that moved"), tag("table", head, *rows))


def _next(host: Host, report: Report) -> Iterator[Html]:
    for approval in host.approvals:
        subjects = count(approval.subjects, "subject")
        if approval.command:
            yield tag("li", f"Run exactly this plan ({subjects}):", tag("pre", approval.command))
        elif approval.id and report.job:
            yield tag(
                "li",
                f"Run exactly this plan ({subjects}): launch the job with this extra variable.",
                tag("pre", f"approved_plan: {approval.id}"),
            )
    for words, source in host.advice:
        yield tag("li", words, " ", tag("code", source, cls="note"))
