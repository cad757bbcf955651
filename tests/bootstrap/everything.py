"""Run every check of noxfile.py and say, in the last lines, what passed, failed and was skipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache"
REPORT = CACHE / "report.json"
NOTES = CACHE / "notes.txt"


def main(*options: str) -> int:
    CACHE.mkdir(exist_ok=True)
    REPORT.unlink(missing_ok=True)
    NOTES.unlink(missing_ok=True)
    nox = [sys.executable, "-m", "nox", "--report", str(REPORT), *options]
    status = subprocess.run(nox, check=False, stdin=subprocess.DEVNULL).returncode
    if not REPORT.exists():
        return status or 1

    results: dict[str, list[str]] = {"success": [], "failed": [], "skipped": []}
    for session in json.loads(REPORT.read_text())["sessions"]:
        outcome = session["result"] if session["result"] in results else "failed"
        name, reason = session["signatures"][0], session["reason"]
        results[outcome].append(f"{name}: {reason}" if reason else name)

    print("\nsummary")
    print(NOTES.read_text() if NOTES.exists() else "", end="")
    for outcome in ("skipped", "failed"):
        for line in results[outcome]:
            print(f"{outcome}: {line}")
    counts = [f"{len(results[key])} {word}" for key, word in COUNTED.items()]
    print(", ".join(counts), flush=True)
    return status or int(bool(results["failed"]))


COUNTED = {"success": "passed", "failed": "failed", "skipped": "skipped"}

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
