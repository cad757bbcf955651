# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lends the lab's servers to the tests of single modules."""

from __future__ import annotations

from tests.lab import fixtures

redis_lab = fixtures.redis_lab
redis_session_lab = fixtures.redis_session_lab
redis_single = fixtures.redis_single
redis_replica = fixtures.redis_replica
redis_acl = fixtures.redis_acl
redis_tls = fixtures.redis_tls
redis_shared_cluster = fixtures.redis_shared_cluster
redis_shared_sentinel = fixtures.redis_shared_sentinel
redis_cluster = fixtures.redis_cluster
redis_sentinel = fixtures.redis_sentinel
postgres_lab = fixtures.postgres_lab
postgres_single = fixtures.postgres_single
postgres_pair = fixtures.postgres_pair
kubernetes_session_lab = fixtures.kubernetes_session_lab
kubernetes_lab = fixtures.kubernetes_lab
cluster = fixtures.cluster
namespace = fixtures.namespace
own_cluster = fixtures.own_cluster
