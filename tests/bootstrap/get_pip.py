"""Stands in for the script that ansible-test downloads to bring pip into a bare venv.

Python carries a pip of its own, so nothing but the package index has to be reachable.
"""

from __future__ import annotations

import subprocess
import sys

UNKNOWN_TO_PIP = {"--no-setuptools", "--no-wheel"}  # options of the original only
ARGUMENTS = [argument for argument in sys.argv[1:] if argument not in UNKNOWN_TO_PIP]

subprocess.run([sys.executable, "-m", "ensurepip", "--default-pip"], check=True)
sys.exit(subprocess.run([sys.executable, "-m", "pip", "install", *ARGUMENTS], check=False).returncode)
