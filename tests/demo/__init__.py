# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo`: an incident on a Redis of our own, and the runbook that ends it."""
