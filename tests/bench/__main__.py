# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench purge --runs 5`: see `cli`."""

import sys

from tests.bench.cli import main

sys.exit(main())
