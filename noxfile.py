"""The one list of checks, for a laptop and for CI. `make test` runs all, `nox -s NAME` one.

Sessions without a Python run in `.venv`; the others get a venv of their own under `.nox`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from tests.bootstrap import pythons  # noqa: E402  (needs the path)

# Each supported line of ansible-core that differs for us, on a Python that it supports.
CORES = {
    "2.16": ("3.11", "ansible-core>=2.16.0,<2.17"),
    "2.19": ("3.11", "ansible-core>=2.19.0,<2.20"),
    "2.21": ("3.12", "ansible-core>=2.21.0,<2.22"),
    "2.22": ("3.13", "ansible-core>=2.22.0rc1,<2.23"),
}
EACH_CORE = nox.parametrize(["python", "core"], [nox.param(CORES[core][0], core, id=f"core-{core}") for core in CORES])
# Sanity tests that cannot run from a package index alone.
SKIPPED_SANITY = {"2.22": {"pylint": "its plugin is a download from outside the package index"}}

# More would make the clocks in the tests of a small machine lie.
TWO_AT_ONCE = ("--numprocesses=2", "--maxschedchunk=1")

NOTES = ROOT / ".cache/notes.txt"
VENV_BIN = Path(sys.executable).parent

nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # a skip, told in the summary
nox.options.sessions = ["lint", "typing", "docs", "unit", "pytest"]
nox.options.sessions += ["artifact", "runner", "importer", "compat", "sanity"]

LINKS = pythons.link({python for python, _ in CORES.values()}, ROOT / ".cache/pythons")
os.environ["PATH"] = os.pathsep.join([str(LINKS), str(VENV_BIN), os.environ["PATH"]])
os.environ.setdefault("UV_SYSTEM_CERTS", "true")


def note(session: nox.Session, text: str) -> None:
    """Say something that the summary of `make test` must repeat, once."""
    session.warn(text)
    told = NOTES.read_text() if NOTES.exists() else ""
    if text not in told:
        NOTES.parent.mkdir(exist_ok=True)
        NOTES.write_text(f"{told}{text}\n")


def run_all(session: nox.Session, *commands: list[str]) -> None:
    """Run every command, even after one has failed: a linter should not hide the next."""
    failed = []
    for command in commands:
        try:
            session.run(*command, external=True)
        except CommandFailed:
            failed.append(" ".join(word for word in command[:2] if not word.startswith("-")))
    if failed:
        session.error(", ".join(failed))


def build(session: nox.Session) -> str:
    """Build the artifact with the tools of `.venv` and return its path."""
    galaxy = str(VENV_BIN / "ansible-galaxy")
    options = ["--force", "--output-path", "build"]
    session.run(galaxy, "collection", "build", *options, external=True, silent=True)
    return str(max((ROOT / "build").glob("sre-runbooks-*.tar.gz"), key=os.path.getmtime))


def pytest(session: nox.Session, *arguments: str) -> None:
    session.run("python", "-m", "pytest", *arguments, *session.posargs)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Style of Python, YAML, playbooks and changelog."""
    run_all(
        session,
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["yamllint", "--strict", "."],
        ["ansible-lint", "--offline", "--profile", "production"],
        ["antsibull-changelog", "lint"],
    )


@nox.session(venv_backend="none")
def typing(session: nox.Session) -> None:
    """Strict types over all plugins."""
    session.run("mypy")


@nox.session(venv_backend="none")
def unit(session: nox.Session) -> None:
    """Pure code, without any server."""
    pytest(session, "tests/unit")


@nox.session(name="pytest", venv_backend="none")
def servers(session: nox.Session) -> None:
    """Real servers: contract, modules, the five proofs of every runbook; and the house rules."""
    folders = ("contract", "integration", "runbooks", "house")
    pytest(session, *TWO_AT_ONCE, "--durations=15", *(f"tests/{folder}" for folder in folders))


@nox.session
def docs(session: nox.Session) -> None:
    """Documentation literals: markup, references, and what the plugin docs promise."""
    session.install("antsibull-docs==2.28.0", "ansible-core>=2.19.0,<2.23")
    session.run("antsibull-docs", "lint-collection-docs", "--plugin-docs", ".")


@nox.session(venv_backend="none")
def artifact(session: nox.Session) -> None:
    """The artifact, installed into an empty folder: docs and playbooks are found by FQCN."""
    packed = build(session)
    with tempfile.TemporaryDirectory(prefix="artifact-") as folder:
        env = {"ANSIBLE_COLLECTIONS_PATH": folder, "ANSIBLE_CONFIG": os.devnull}
        galaxy = ["ansible-galaxy", "collection", "install", "--offline", packed, "-p", folder]
        session.run(*galaxy, silent=True)
        installed = Path(folder, "ansible_collections/sre/runbooks")
        modules = sorted(path.stem for path in installed.glob("plugins/modules/*.py"))
        playbooks = sorted(path.stem for path in installed.glob("playbooks/*.yml"))
        with session.chdir(folder):
            if names := [f"sre.runbooks.{name}" for name in modules]:
                session.run("ansible-doc", "-t", "module", *names, env=env, silent=True)
            if names := [f"sre.runbooks.{name}" for name in playbooks if "." not in name]:
                session.run("ansible-playbook", "--syntax-check", *names, env=env)


@nox.session(venv_backend="none")
def runner(session: nox.Session) -> None:
    """A plain clone under ansible-runner, as AWX runs it: the modules are found."""
    playbooks = [path for path in sorted(Path("playbooks").glob("*.yml")) if path.suffixes == [".yml"]]
    if not playbooks:
        session.skip("no playbook yet")
    with tempfile.TemporaryDirectory(prefix="runner-") as folder:
        Path(folder, "project").symlink_to(ROOT)
        for playbook in playbooks:
            options = ["--playbook", str(playbook), "--cmdline=--syntax-check"]
            session.run("ansible-runner", "run", folder, *options)


@nox.session
def importer(session: nox.Session) -> None:
    """What Galaxy and Automation Hub do with an upload."""
    session.install("galaxy-importer==0.4.44")
    packed = build(session)
    with session.chdir(session.create_tmp()):
        env = {"GALAXY_IMPORTER_REQUIRE_V1_OR_GREATER": "true"}
        env["GALAXY_IMPORTER_CHECK_REQUIRED_TAGS"] = "true"
        # It ends with 0 whatever its linters found.
        said = session.run("python", "-m", "galaxy_importer.main", packed, env=env, silent=True)
    session.log(said)
    if complaints := re.findall(r"^(?:ERROR|WARNING): .*", str(said), re.MULTILINE):
        session.error("; ".join(complaints))


@nox.session
@EACH_CORE
def compat(session: nox.Session, core: str) -> None:
    """Pure code, and the tests marked `compat`, on every supported ansible-core; the first with old drivers."""
    if core != min(CORES) and version("ansible-core").startswith(f"{core}."):
        session.skip("unit and pytest run all of it on this ansible-core, that of .venv")
    wanted = [CORES[core][1], "-r", "tests/requirements-test.txt", "-r", "requirements.txt"]
    oldest = ["--resolution", "lowest-direct"] if core == min(CORES) else []
    session.install(*oldest, *wanted)
    pytest(session, "tests/unit")
    pytest(session, *TWO_AT_ONCE, "-m", "compat", "--durations=5", "tests")


@nox.session
@EACH_CORE
def sanity(session: nox.Session, core: str) -> None:
    """`ansible-test sanity` over the artifact, without a single ignore line."""
    session.install(CORES[core][1])
    options = []
    for test, reason in SKIPPED_SANITY.get(core, {}).items():
        note(session, f"skipped: {test} of sanity(core-{core}): {reason}")
        options += ["--skip-test", test]
    if not shutil.which("shellcheck"):
        note(session, "skipped: shellcheck of sanity: it is not installed")
    session.run("python", "tests/bootstrap/sanity.py", build(session), *options)
