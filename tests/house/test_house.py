# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rules of the house, as tests: imports, sizes, words, and that nothing lacks its companions."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.house import generate

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"
UTILS = PLUGINS / "module_utils"
MODULES = sorted(path for path in (PLUGINS / "modules").glob("*.py"))
#: Modules with a plan; the others only document an action plugin.
DOORS = [path for path in MODULES if "DOOR" in path.read_text()]
PLAYBOOKS = sorted(path for path in (ROOT / "playbooks").glob("*.yml") if path.suffixes == [".yml"])
PRODUCTS = sorted(
    path.name for path in UTILS.iterdir() if path.is_dir() and path.name.startswith("_") and path.name != "_core"
)
PHASES = ("Diagnose", "Guard", "Mitigate", "Verify", "Report")
PROOFS = ("break_and_mend", "again", "check_tells_the_truth", "killed_half_way", "wrong_cause")

named = pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.stem)


def _imports(path: Path) -> set[str]:
    """Modules that a file imports, relative ones with the package they lead to, such as `_core.plan`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = path.parent.name if node.level == 1 else ""
            found.add(".".join(part for part in (inside, node.module or "") if part))
    return found


def _code_lines(path: Path) -> int:
    """Lines of a module without its documentation literals, blank lines and comments."""
    source = path.read_text()
    tree = ast.parse(source)
    literals = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and getattr(node.targets[0], "id", "") in ("DOCUMENTATION", "EXAMPLES", "RETURN")
    ]
    skipped = {number for lines in literals for number in lines}
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#")
        for number, line in enumerate(source.splitlines(), start=1)
        if number not in skipped
    )


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_product_imports_core_and_itself_only(product: str) -> None:
    for path in (UTILS / product).glob("*.py"):
        for name in _imports(path):
            assert not name.startswith("ansible"), f"{path.name} imports {name}: only _core/run.py may"
            assert name.rpartition("_core.")[2] != "run", f"{path.name} imports the runner"
            others = [other for other in PRODUCTS if other != product and other in name.split(".")]
            assert not others, f"{path.name} imports its neighbour {others}"


def test_only_the_runner_imports_ansible_below_module_utils() -> None:
    importers = {
        path.relative_to(UTILS).as_posix()
        for path in UTILS.rglob("*.py")
        if any(name.partition(".")[0] == "ansible" for name in _imports(path))
    }
    assert importers == {"_core/run.py"}


def test_core_imports_no_product() -> None:
    for path in (UTILS / "_core").glob("*.py"):
        assert not [name for name in _imports(path) if name.partition(".")[0] in PRODUCTS], path.name


def test_a_module_sees_no_ansible() -> None:
    for path in DOORS:
        assert not [name for name in _imports(path) if name.partition(".")[0] == "ansible"], path.name
        assert "check_mode" not in path.read_text().split('RETURN = r"""')[1].split('"""')[1], path.name


def test_modules_are_short() -> None:
    sizes = {path.name: _code_lines(path) for path in DOORS}
    assert statistics.median(sizes.values()) <= 45, sizes


def test_functions_are_short() -> None:
    long = []
    for path in PLUGINS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 40:
                    long.append(f"{path.name}:{node.name} {length}")
    assert not long


@pytest.mark.parametrize("path", DOORS, ids=lambda path: path.stem)
def test_a_module_has_its_companions(path: Path) -> None:
    source = path.read_text()
    for word in ("DOCUMENTATION", "EXAMPLES", "RETURN", "SPEC", "def plan(", "DOOR = "):
        assert word in source, f"{path.name} lacks {word}"
    assert (ROOT / f"tests/integration/test_{path.stem}.py").exists()
    product = next(name for name in PRODUCTS if any(name in used.split(".") for used in _imports(path)))[1:]
    units = "\n".join(file.read_text() for file in (ROOT / f"tests/unit/{product}").glob("test_*.py"))
    topics = {name for name in _imports(path) if f"_{product}." in name}
    assert any(topic.rpartition(".")[2] in units for topic in topics), f"no unit test of what {path.name} plans with"
    assert list((ROOT / "tests/contract").glob(f"test_{product}_*.py"))


@named
def test_a_runbook_has_its_companions(path: Path) -> None:
    assert path.with_suffix(".meta.yml").exists()
    page = (ROOT / f"docs/runbooks/{path.stem}.md").read_text()
    for heading in ("Meaning", "Impact", "Diagnosis", "Mitigation", "Rollback"):
        assert f"\n## {heading}\n" in page, heading
    proofs = (ROOT / f"tests/runbooks/test_{path.stem}.py").read_text()
    for proof in PROOFS:
        assert re.search(rf"def test_{proof}\w*\(", proofs), f"{path.stem} lacks the proof {proof}"


@named
def test_a_runbook_is_short_and_keeps_to_the_rules(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 100
    forbidden = ("builtin.shell", "builtin.command", "builtin.raw", "builtin.script", "ignore_errors", "vars_prompt")
    forbidden += ("builtin.pause", "failed_when: false", "ignore_unreachable", "set_fact")
    assert not [word for word in forbidden if word in text]


@named
def test_defaults_of_modules_bear_parameters_that_are_not_known_yet(path: Path) -> None:
    """ansible-core 2.16 reads them for the first task too, which makes known what is wanted."""
    for play in yaml.safe_load(path.read_text()):
        for found in re.findall(r"\{\{[^}]*want\.[^}]*\}\}", str(play.get("module_defaults", ""))):
            assert "default(" in found, found


@named
def test_a_runbook_names_its_phases_alike_and_in_order(path: Path) -> None:
    play: dict[str, Any] = yaml.safe_load(path.read_text())[0]
    phases = [task["name"].partition(" | ")[0] for task in play["tasks"]]
    assert set(phases) <= set(PHASES)
    assert phases == sorted(phases, key=PHASES.index)
    assert (phases[0], phases[-1]) == ("Diagnose", "Report")
    assert play["vars"]["runbook"] == path.stem
    spec = yaml.safe_load(path.with_suffix(".meta.yml").read_text())["argument_specs"][path.stem]
    assert play["hosts"] == f"{{{{ target | default('{spec['options']['target']['default']}') }}}}"


@named
def test_a_parameter_of_the_specification_is_used(path: Path) -> None:
    """A parameter that nothing reads would be a promise that nobody keeps; one that is not there, a silent default."""
    options = yaml.safe_load(path.with_suffix(".meta.yml").read_text())["argument_specs"][path.stem]["options"]
    text = path.read_text()
    assert not [name for name in options if not re.search(rf"\b{name}\b", text)]
    assert set(re.findall(r"\bwant\.(\w+)", text)) <= set(options)
    optional = [name for name, option in options.items() if not {"default", "required"} & set(option)]
    assert not [name for name in optional if re.search(rf"\bwant\.{name}\b(?! \| default\()", text)]


def test_generated_files_are_fresh() -> None:
    assert [str(path) for path, text in generate.generated() if not path.exists() or path.read_text() != text] == []


def test_every_module_is_in_its_action_group() -> None:
    meta = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())
    grouped = {name for group in meta["action_groups"].values() for name in group}
    assert grouped == {path.stem for path in DOORS}


@pytest.mark.parametrize("path", DOORS, ids=lambda path: path.stem)
def test_a_module_runs_in_process_too(path: Path) -> None:
    assert f'in_process("{path.stem}")' in (PLUGINS / "action" / path.name).read_text()


def test_the_readme_names_every_runbook_page_and_guide() -> None:
    text = (ROOT / "README.md").read_text()
    assert all(command in text for command in ("make demo", "make test"))
    assert not [path.name for path in (ROOT / "docs").glob("guide_*.md") if path.name not in text]
