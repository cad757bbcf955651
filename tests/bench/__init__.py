# SPDX-License-Identifier: GPL-3.0-or-later
"""What our work costs, measured against what people would use instead: `python -m tests.bench [names]`.

Contenders take turns, so that a change of the machine's mood meets all of them. `tasks`, `purge`,
`keyspace` and `postgres` are the benchmarks; the figures in docs/performance.md are written by them, between markers.
"""
