"""Find interpreters that really run, and link them into one folder for PATH.

A `python3.12` on PATH may be a pyenv shim that answers "command not found"; uv and ansible-test
would both trust it. The links name interpreters that were tried.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

PROBE = "import ensurepip, os, sys, venv; print(os.path.realpath(sys.executable))"


def candidates(version: str) -> Iterator[Path]:
    for folder in os.get_exec_path():
        yield Path(folder, f"python{version}")
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True)
        versions = Path(root.stdout.strip(), "versions")
        yield from sorted(versions.glob(f"{version}.*/bin/python{version}"), reverse=True)


def find(version: str) -> Path | None:
    """The first interpreter of this version that starts and can make a venv."""
    for candidate in candidates(version):
        if not os.access(candidate, os.X_OK):
            continue
        tried = subprocess.run([candidate, "-c", PROBE], check=False, capture_output=True, text=True)
        if tried.returncode == 0:
            return Path(tried.stdout.strip())
    return None


def link(versions: set[str], folder: Path) -> Path:
    """Fill `folder` with `pythonX.Y` links to the interpreters found, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for version in versions:
        name = folder / f"python{version}"
        found = find(version)
        name.unlink(missing_ok=True)
        if found:
            name.symlink_to(found)
    return folder
