"""Run `ansible-test sanity` over an artifact: `python sanity.py ARTIFACT [option...]`.

ansible-test wants a real `ansible_collections/sre/runbooks`, outside of any git repository. The
unpacked artifact is one, is what users get, and lacks the link that a checkout needs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import ansible_test

CACHE = Path("~/.ansible/test/cache").expanduser()


def offer_get_pip() -> None:
    """Put our get-pip where this ansible-test looks first, unless there is one."""
    source = Path(*ansible_test.__path__, "_internal/python_requirements.py").read_text()
    CACHE.mkdir(parents=True, exist_ok=True)
    for version in re.findall(r"\bpip='([\d.]+)'", source):
        script = CACHE / f"get_pip_{version.replace('.', '_')}.py"
        if not script.exists():
            shutil.copyfile(Path(__file__).with_name("get_pip.py"), script)


def main(artifact: str, *options: str) -> int:
    offer_get_pip()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory(prefix="sanity-") as folder:
        collection = Path(folder, "ansible_collections/sre/runbooks")
        with tarfile.open(artifact) as packed:
            packed.extractall(collection, filter="data")
        program = str(Path(sys.executable).with_name("ansible-test"))
        command = [program, "sanity", "--color", "no", "--python", python, *options]
        done = subprocess.run(command, check=False, cwd=collection, stdin=subprocess.DEVNULL)
        return done.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
