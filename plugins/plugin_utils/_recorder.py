# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Between Ansible and the journal: whose run this is, where its record goes, what happened when."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable
from typing import Any

from ansible import constants, context
from ansible.release import __version__ as core_version
from ansible.utils.vars import load_extra_vars

from ._journal import Event, Journal, Ran, Stamp, conceal, events, known_secrets, make_line, outcome, run_id, write_file

RUN_ID = "SRE_RUNBOOKS_RUN_ID"
_JOB_VARS = ("awx_job_id", "tower_job_id")
_JOB_ENV = ("AWX_JOB_ID", "JOB_ID")
_USER_VARS = ("awx_user_name", "tower_user_name")
_COUNTS = ("ok", "changed", "skipped", "rescued", "ignored")

#: Ansible's own colors, by what they stand for there.
_COLORS = {"mended": "CHANGED", "nothing_to_do": "OK", "check_only": "SKIP", "failed": "ERROR", "refused": "ERROR"}


class Recorder:
    """The record of one ansible-playbook run. Nothing is written before the first task of a runbook."""

    def __init__(self, display: Any, option: Callable[[str], Any], playbook: Any) -> None:
        self._display = display
        self._option = option
        self._playbook = str(playbook._file_name)
        self._extra: dict[str, Any] = dict(load_extra_vars(playbook._loader))
        self._run = self._choose_run_id()
        # Workers are forked from here, so modules and lookups in them see it.
        os.environ[RUN_ID] = self._run
        self._runbook = ""
        self._secrets: frozenset[str] = frozenset()
        self._hash_names = self._chosen("key_names", "sre_runbooks_key_names") == "hash"
        self._journal: Journal | None = None
        self._warned = False
        self._started: dict[tuple[str, str], float] = {}
        self._hosts: list[tuple[str, str]] = []

    def enter(self, runbook: str, play: Any) -> None:
        """A play that is a runbook begins."""
        self._runbook = runbook
        self._secrets |= known_secrets(os.environ, self._extra, play.get_vars())

    def start(self, host: Any, task: Any) -> None:
        """A task begins on a host."""
        name = host.get_name()
        self._started[name, task._uuid] = time.monotonic()
        if (self._runbook, name) not in self._hosts:
            self._hosts.append((self._runbook, name))
            if self._journal is None:
                self._open()
            self._note({"event": "started"}, Ran(name, "", "", ""))

    def record(self, result: Any, status: str, ignored: bool, item: bool) -> None:
        """A task, or one item of its loop, ended on a host."""
        task, host, content = _of(result, "task"), _of(result, "host").get_name(), _of(result, "result")
        if not item and content.get("results") and task.loop is not None:
            return  # its items have told everything
        begun = self._started.get((host, task._uuid))
        ran = Ran(
            host=host,
            name=str(task.get_name()),
            action=str(task.action),
            status=status,
            seconds=0.0 if begun is None else time.monotonic() - begun,
            check=bool(task.check_mode),
            ignored=ignored or (item and bool(task.ignore_errors)),
            item=_label(content) if item else "",
        )
        for event in events(ran, conceal(content) if self._hash_names else content):
            self._note(event, ran)

    def finish(self, stats: Any) -> None:
        """The run is over: outcomes, reports, and where they are."""
        if self._journal is None:
            return
        for runbook, host in self._hosts:
            self._runbook = runbook
            lines = [entry for entry in self._journal.lines if (entry["runbook"], entry["host"]) == (runbook, host)]
            failures = stats.failures.get(host, 0) + stats.dark.get(host, 0)
            counts = {name: getattr(stats, name).get(host, 0) for name in _COUNTS}
            ended = {"event": "finished", "outcome": outcome(lines, bool(failures)), **counts, "failed": failures}
            self._note(ended, Ran(host, "", "", ""))
        self._note({"event": "finished"}, Ran("", "", "", ""))
        self._journal.close()
        self._publish(self._journal)

    def _choose_run_id(self) -> str:
        wanted = os.environ.get(RUN_ID)
        if wanted and run_id(wanted):
            return wanted
        if wanted:
            rule = "1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or a digit"
            self._display.warning(f"{RUN_ID} was ignored: a run id is {rule}.")
        given = [*(self._extra.get(name) for name in _JOB_VARS), *(os.environ.get(name) for name in _JOB_ENV)]
        job = next(filter(None, map(run_id, given)), "")
        return job or f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(3).hex()}"

    def _chosen(self, name: str, variable: str) -> str:
        """Callbacks take options from extra variables since ansible-core 2.21; this does on every core."""
        given = self._extra.get(variable)
        return str(given) if isinstance(given, str) and given and "{{" not in given else str(self._option(name))

    def _open(self) -> None:
        path = os.path.expanduser(self._chosen("path", "sre_runbooks_reports"))  # noqa: PTH111
        self._journal = Journal(os.path.join(os.path.abspath(path), self._run))  # noqa: PTH100, PTH118
        try:
            self._journal.open()
        except OSError as error:
            self._cannot_write(self._journal, error)
        self._note({"event": "started", **self._circumstances()}, Ran("", "", "", ""))

    def _circumstances(self) -> Event:
        given = (self._extra.get(name) for name in _USER_VARS)
        return {
            "playbook": self._playbook,
            "user": next((str(name) for name in given if name), "") or _local_user(),
            "core": core_version,
            "collection": _collection_version(),
            "check": bool(context.CLIARGS.get("check")),
            "job": any(self._extra.get(name) for name in _JOB_VARS),
            "command": self._command(),
        }

    def _command(self) -> list[str]:
        """How to start the same again. Extra variables are left out: they may be secrets."""
        sources = [str(source) for source in context.CLIARGS.get("inventory") or ()]
        usual = [str(source) for source in getattr(constants, "DEFAULT_HOST_LIST", [])]
        inventory = [word for source in sources if sources != usual for word in ("-i", source)]
        limit = context.CLIARGS.get("subset")
        return ["ansible-playbook", self._playbook, *inventory, *(["--limit", str(limit)] if limit else [])]

    def _note(self, event: Event, ran: Ran) -> None:
        if self._journal is None:
            return
        try:
            self._journal.add(make_line(Stamp(_now(), self._run, self._runbook), ran, event, self._secrets))
        except OSError as error:
            self._cannot_write(self._journal, error)

    def _cannot_write(self, journal: Journal, error: OSError) -> None:
        """Said once: it is one disk."""
        if not self._warned:
            self._warned = True
            self._display.warning(
                f"This run cannot be recorded in {journal.folder}: {error.strerror}. The run goes on, and its report "
                "is printed at the end. To keep records, set SRE_RUNBOOKS_REPORTS to a folder that can be written."
            )

    def _publish(self, journal: Journal) -> None:
        from ._report import read_report  # noqa: PLC0415
        from ._report_html import as_html  # noqa: PLC0415
        from ._report_markdown import as_markdown  # noqa: PLC0415

        report = read_report(journal.lines)
        markdown = as_markdown(report)
        try:
            write_file(f"{journal.folder}/report.md", markdown)
            write_file(f"{journal.folder}/report.html", as_html(report))
            self._display.display(f"Report: {journal.folder}/report.html (and report.md)")
        except OSError as error:
            self._cannot_write(journal, error)
            self._display.display(markdown)
        for host in report.hosts:
            self._display.display(
                f"  {host.line}", color=getattr(constants, f"COLOR_{_COLORS.get(host.outcome, 'WARN')}")
            )


def _of(result: Any, name: str) -> Any:
    """C(result.task) since ansible-core 2.19, C(result._task) before."""
    return getattr(result, name) if hasattr(result, name) else getattr(result, f"_{name}")


def _label(content: Any) -> str:
    """What tells the items of a loop apart; never an item's insides, which may be anything."""
    given = content.get("_ansible_item_label", content.get("item"))
    return str(given) if isinstance(given, (str, int)) else ""


def _now() -> str:
    """UTC, to the millisecond."""
    at = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at * 1000) % 1000:03d}Z"


def _local_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _collection_version() -> str:
    """From the manifest of an installed collection, else from the sources' galaxy.yml."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
    for name in ("MANIFEST.json", "galaxy.yml"):
        try:
            with open(f"{root}/{name}", encoding="utf-8") as source:  # noqa: PTH123
                words = (row.strip().strip(",").replace('"', "").partition(":") for row in source)
                return next(value.strip() for key, _colon, value in words if key == "version")
        except (OSError, StopIteration):
            continue
    return ""
