# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Real servers for the proofs, and a folder for their reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import fixtures

redis_lab = fixtures.redis_lab
redis_session_lab = fixtures.redis_session_lab
redis_single = fixtures.redis_single
redis_replica = fixtures.redis_replica
redis_acl = fixtures.redis_acl
redis_tls = fixtures.redis_tls
redis_shared_cluster = fixtures.redis_shared_cluster
redis_cluster = fixtures.redis_cluster
postgres_lab = fixtures.postgres_lab
postgres_single = fixtures.postgres_single
postgres_pair = fixtures.postgres_pair
kubernetes_session_lab = fixtures.kubernetes_session_lab
kubernetes_lab = fixtures.kubernetes_lab
cluster = fixtures.cluster
namespace = fixtures.namespace
own_cluster = fixtures.own_cluster


@pytest.fixture(autouse=True)
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runs of a test leave their records."""
    monkeypatch.setenv("SRE_RUNBOOKS_REPORTS", str(tmp_path / "reports"))
    return tmp_path / "reports"
