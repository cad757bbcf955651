# SPDX-License-Identifier: GPL-3.0-or-later
"""Real servers on loopback ports, for tests and for people who want to try a runbook.

`redis_servers` starts them, `faults` breaks them, `witness` sees what was done to them,
`world` owns them for the length of a block, `fixtures` lends them to pytest and
`python -m tests.lab` keeps them up between two commands.
"""
