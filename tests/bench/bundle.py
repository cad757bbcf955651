# SPDX-License-Identifier: GPL-3.0-or-later
"""The collections that we are measured against, as users have them: out of the `ansible` bundle."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.bench.measure import CACHE

#: The bundle of ansible-core 2.19.
BUNDLE = "ansible==12.3.0"
_INSIDE = "ansible_collections"
_NAMES = ("community/general", "community/postgresql", "kubernetes/core")


def community_general() -> str | None:
    """Its version, once it is in the cache; None where the bundle cannot be had."""
    return _version("community/general")


def community_postgresql() -> str | None:
    """Its version, once it is in the cache; None where the bundle cannot be had."""
    return _version("community/postgresql")


def kubernetes_core() -> str | None:
    """Its version, once it is in the cache; None where the bundle cannot be had."""
    return _version("kubernetes/core")


def _version(name: str) -> str | None:
    manifest = CACHE / "collections" / _INSIDE / name / "MANIFEST.json"
    if not manifest.exists():
        try:
            _fetch(CACHE / "collections")
        except subprocess.CalledProcessError as error:
            print(f"SKIPPED {name.replace('/', '.')}: {BUNDLE} cannot be had: {error.stderr[-300:]}", file=sys.stderr)
            return None
    version: str = json.loads(manifest.read_text())["collection_info"]["version"]
    return version


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="bundle-") as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", scratch]
        subprocess.run([*pip, BUNDLE], check=True, capture_output=True, text=True)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            wanted = tuple(f"{_INSIDE}/{name}/" for name in _NAMES)
            wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(wanted)])
