# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.demo`: see `story`."""

import sys
from pathlib import Path

# As a plain clone has it: a link in `collections` leads back to this folder.
sys.path.insert(0, str(Path(__file__).parents[2] / "collections"))

from tests.demo.story import main

sys.exit(main())
