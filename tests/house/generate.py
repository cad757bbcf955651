# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes what follows from a runbook's specification: surveys, job templates, rulebook, alert rules, table.

`python -m tests.house.generate` writes the files, `--check` only says which are stale. A runbook is described
once, in its `.meta.yml`; whoever edits a generated file loses the edit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
HEAD = "# Generated from playbooks/*.meta.yml by `make docs`. Edit those.\n---\n"
RISKS = ("reads only", "reversible", "disruptive", "deletes data")

_QUESTION_TYPES = {"int": "integer", "float": "float", "bool": "multiplechoice", "list": "textarea", "dict": "textarea"}


@dataclass(frozen=True)
class Runbook:
    """A playbook's specification. `options` as in a play's argument specification."""

    name: str
    summary: str
    alert: str
    expression: str
    duration: str
    severity: str
    risk: int
    options: Mapping[str, Mapping[str, Any]]

    @property
    def product(self) -> str:
        return self.name.partition("_")[0]


def runbooks(root: Path = ROOT) -> tuple[Runbook, ...]:
    """Every runbook of the collection, by name."""
    return tuple(_runbook(path) for path in sorted((root / "playbooks").glob("*.meta.yml")))


def generated(root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """Each generated file with what should be in it."""
    known = runbooks(root)
    yield (
        root / "extensions/awx/controller_templates.yml",
        _yaml({"controller_templates": [_template(r) for r in known]}),
    )
    yield root / "docs/runbooks/README.md", _table(known)
    for product in sorted({runbook.product for runbook in known if runbook.alert}):
        own = [runbook for runbook in known if runbook.product == product and runbook.alert]
        yield root / f"extensions/alerts/{product}.yml", _yaml(_alerts(product, own))
        yield root / f"extensions/eda/rulebooks/{product}.yml", _yaml(_rulebook(product, own))


def main(arguments: list[str]) -> int:
    """Writes, or with `--check` compares. Returns the number of stale files in the latter case."""
    stale = [(path, text) for path, text in generated() if not path.exists() or path.read_text() != text]
    for path, text in stale:
        print(f"{'stale' if '--check' in arguments else 'written'}: {path.relative_to(ROOT)}")
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return len(stale) if "--check" in arguments else 0


def _runbook(path: Path) -> Runbook:
    name = path.name.removesuffix(".meta.yml")
    spec = yaml.safe_load(path.read_text())["argument_specs"][name]
    return Runbook(
        name,
        spec["short_description"],
        spec["alert"],
        spec["expr"],
        spec["for"],
        spec["severity"],
        spec["risk"],
        spec["options"],
    )


def _yaml(content: Any) -> str:
    return HEAD + yaml.dump(content, Dumper=_Indented, sort_keys=False, width=110)


class _Indented(yaml.SafeDumper):
    """Indents lists below their key, as yamllint wants it."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _template(runbook: Runbook) -> dict[str, Any]:
    """A job template for infra.aap_configuration: project, inventory and environment come from its defaults."""
    return {
        "name": f"Runbook {runbook.name}",
        "description": runbook.summary,
        "job_type": "run",
        "playbook": f"playbooks/{runbook.name}.yml",
        "ask_job_type_on_launch": True,
        "ask_limit_on_launch": True,
        "ask_tags_on_launch": True,
        "diff_mode": True,
        "survey_enabled": True,
        "survey_spec": {
            "name": runbook.name,
            "description": runbook.summary,
            # A list or a dictionary is declared in the inventory; a survey answer is one line of text.
            "spec": [_question(name, o) for name, o in runbook.options.items() if o["type"] not in ("list", "dict")],
        },
    }


def _question(name: str, option: Mapping[str, Any]) -> dict[str, Any]:
    choices = option.get("choices") or (["true", "false"] if option["type"] == "bool" else [])
    return {
        "question_name": name,
        "question_description": option["description"],
        "variable": name,
        "required": bool(option.get("required", False)),
        "type": "multiplechoice" if choices else _QUESTION_TYPES.get(option["type"], "text"),
        "choices": choices,
        "default": option.get("default", ""),
    }


def _alerts(product: str, own: list[Runbook]) -> dict[str, Any]:
    rules = [
        {
            "alert": runbook.alert,
            "expr": runbook.expression,
            "for": runbook.duration,
            "labels": {"severity": runbook.severity},
            "annotations": {"summary": runbook.summary, "runbook": f"sre.runbooks.{runbook.name}"},
        }
        for runbook in own
    ]
    return {"groups": [{"name": f"sre.runbooks.{product}", "rules": rules}]}


def _rulebook(product: str, own: list[Runbook]) -> list[dict[str, Any]]:
    """Alertmanager's webhook to a run for each firing alert. The label `target` is an inventory host."""
    source = {
        "name": "Alertmanager",
        "eda.builtin.webhook": {"host": "127.0.0.1", "port": 5000},
        "filters": [
            {
                "eda.builtin.event_splitter": {
                    "splitter_key": "payload.alerts",
                    "attributes_key_map": {"status": "payload.status"},
                }
            }
        ],
    }
    return [
        {
            "name": f"Runbooks of {product}",
            "hosts": "all",
            "sources": [source],
            "rules": [_rule(runbook) for runbook in own],
        }
    ]


def _rule(runbook: Runbook) -> dict[str, Any]:
    # The label chooses hosts, so it must look like the name of one: whoever can send an alert may write anything.
    condition = (
        f'event.labels.alertname == "{runbook.alert}" and event.status == "firing" '
        r'and event.labels.target is match("^\w[\w.-]*$")'
    )
    return {
        "name": runbook.summary,
        "condition": condition,
        "throttle": {"once_within": "15 minutes", "group_by_attributes": ["event.labels.target"]},
        "action": {
            "run_playbook": {
                "name": f"sre.runbooks.{runbook.name}",
                "extra_vars": {"target": "{{ event.labels.target }}"},
            }
        },
    }


def _table(known: tuple[Runbook, ...]) -> str:
    lines = [
        "# Runbooks",
        "",
        "<!-- Generated from playbooks/*.meta.yml by `make docs`. Edit those. -->",
        "",
        "| runbook | what it does | alert | risk |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| [{r.name}]({r.name}.md) | {r.summary} | {f'`{r.alert}`' if r.alert else ''} | {RISKS[r.risk]} |"
        for r in known
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
