# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: record
type: aggregate
short_description: Keep a journal of each runbook, and write its report
version_added: 1.0.0
author: sre.runbooks contributors (@sre-runbooks)
description:
  - A play is a runbook when its variables hold C(runbook), the runbook's name. Other plays are ignored.
  - While a runbook runs, C(journal.jsonl) in C(<path>/<run id>) gets one line of JSON for everything that matters.
    A run that is killed leaves a readable journal.
  - At the end, C(report.html) (one page that needs nothing else) and C(report.md) tell what was found, done, spared
    and proved.
  - The run id is the job id of AWX where there is one, else time and chance. Tasks find it in the environment variable
    E(SRE_RUNBOOKS_RUN_ID); set it yourself to choose the id.
  - Passwords, tokens and keys are masked, and results hidden by C(no_log) are never recorded.
  - A folder that cannot be written costs a warning, never the run. The report is then printed.
requirements:
  - C(callbacks_enabled = sre.runbooks.record) in C(ansible.cfg), or E(ANSIBLE_CALLBACKS_ENABLED)
options:
  path:
    description:
      - Folder of the records. Each run makes a folder of its own in it.
      - As a variable it has to be an extra variable.
    type: path
    default: ./reports
    env:
      - name: SRE_RUNBOOKS_REPORTS
    ini:
      - section: sre_runbooks
        key: reports
    vars:
      - name: sre_runbooks_reports
  key_names:
    description:
      - V(hash) puts a digest in place of the names of keys, clients and other subjects, for data whose names are
        personal. The same name always has the same digest.
    type: str
    choices: [show, hash]
    default: show
    env:
      - name: SRE_RUNBOOKS_KEY_NAMES
    ini:
      - section: sre_runbooks
        key: key_names
    vars:
      - name: sre_runbooks_key_names
"""

from typing import TYPE_CHECKING, Any  # noqa: E402

from ansible.plugins.callback import CallbackBase  # noqa: E402

if TYPE_CHECKING:
    from ansible_collections.sre.runbooks.plugins.plugin_utils._recorder import Recorder


class CallbackModule(CallbackBase):
    """Passes on what Ansible says of runbooks. A playbook without one costs a look at its variables."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "sre.runbooks.record"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._recorder: Recorder | None = None
        self._runbook = ""

    def v2_playbook_on_start(self, playbook: Any) -> None:
        if any(_runbook(play) for play in playbook.get_plays()):
            from ansible_collections.sre.runbooks.plugins.plugin_utils._recorder import Recorder  # noqa: PLC0415

            self._recorder = Recorder(self._display, self.get_option, playbook)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._runbook = _runbook(play)
        if self._recorder and self._runbook:
            self._recorder.enter(self._runbook, play)

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        if self._recorder and self._runbook:
            self._recorder.start(host, task)

    def v2_runner_on_ok(self, result: Any) -> None:
        self._record(result, "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._record(result, "failed", ignored=ignore_errors)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._record(result, "unreachable")

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._record(result, "skipped")

    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._record(result, "ok", item=True)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        self._record(result, "failed", item=True)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self._recorder:
            self._recorder.finish(stats)

    def _record(self, result: Any, status: str, ignored: bool = False, item: bool = False) -> None:
        if self._recorder and self._runbook:
            self._recorder.record(result, status, ignored, item)


def _runbook(play: Any) -> str:
    """The name of the runbook that a play is, or nothing."""
    name = play.get_vars().get("runbook")
    return str(name) if isinstance(name, str) else ""
