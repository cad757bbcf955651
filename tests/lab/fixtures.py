# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for a conftest, which names those it lends: `redis_single = fixtures.redis_single`.

`redis_lab` starts what a test asks for. The named ones are fresh for each test, but for the cluster and the
sentinels, which cost seconds: those are shared by the session and emptied, so do not kill their servers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

import pytest

from tests.lab.process import LabError
from tests.lab.redis_servers import (
    Cluster,
    RedisServer,
    ReplicaPair,
    SentinelSet,
    start_acl,
    start_cluster,
    start_replica_pair,
    start_sentinel,
    start_single,
    start_tls,
)
from tests.lab.world import Lab, lab

if TYPE_CHECKING:  # drivers are for those who ask for such a server
    from tests.lab.kubernetes_cluster import Cluster as Kubernetes
    from tests.lab.postgres_servers import PostgresPair, PostgresServer


def _lab_of(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab whose logs stay when a test failed meanwhile."""
    failed_before = request.session.testsfailed
    with lab() as world:
        yield world
        world.keep_logs = request.session.testsfailed > failed_before


@pytest.fixture
def redis_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """`redis_lab.start(start_single, config={...})`; all is stopped at the end of the test."""
    yield from _lab_of(request)


@pytest.fixture(scope="session")
def redis_session_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    yield from _lab_of(request)


@pytest.fixture
def redis_single(redis_lab: Lab) -> RedisServer:
    return redis_lab.start(start_single)


@pytest.fixture
def redis_replica(redis_lab: Lab) -> ReplicaPair:
    return redis_lab.start(start_replica_pair)


@pytest.fixture
def redis_acl(redis_lab: Lab) -> RedisServer:
    return redis_lab.start(start_acl)


@pytest.fixture
def redis_tls(redis_lab: Lab) -> RedisServer:
    return redis_lab.start(start_tls)


@pytest.fixture(scope="session")
def redis_shared_cluster(redis_session_lab: Lab) -> Cluster:
    return redis_session_lab.start(start_cluster)


@pytest.fixture(scope="session")
def redis_shared_sentinel(redis_session_lab: Lab) -> SentinelSet:
    return redis_session_lab.start(start_sentinel)


@pytest.fixture
def redis_cluster(redis_shared_cluster: Cluster) -> Cluster:
    return _emptied(redis_shared_cluster, redis_shared_cluster.primaries)


@pytest.fixture
def redis_sentinel(redis_shared_sentinel: SentinelSet) -> SentinelSet:
    return _emptied(redis_shared_sentinel, (redis_shared_sentinel.primary,))


T = TypeVar("T")


def _emptied(topology: T, writable: tuple[RedisServer, ...]) -> T:
    for server in writable:
        server.prove_own()
        server.command("FLUSHALL")
    return topology


@pytest.fixture
def postgres_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """`postgres_lab.start(start_postgres, config={...})`; skipped where there is no PostgreSQL or no driver."""
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    from tests.lab.postgres_servers import installation

    try:
        installation()
    except LabError as error:
        pytest.skip(str(error))
    yield from _lab_of(request)


@pytest.fixture
def postgres_single(postgres_lab: Lab) -> PostgresServer:
    from tests.lab.postgres_servers import start_postgres

    return postgres_lab.start(start_postgres)


@pytest.fixture
def postgres_pair(postgres_lab: Lab) -> PostgresPair:
    from tests.lab.postgres_servers import start_pair

    return postgres_lab.start(start_pair)


@pytest.fixture(scope="session")
def kubernetes_session_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Skipped where no Kubernetes was built."""
    _skip_without_kubernetes()
    yield from _lab_of(request)


@pytest.fixture
def kubernetes_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """`kubernetes_lab.start(start_cluster, metrics=True)`; skipped where no Kubernetes was built."""
    _skip_without_kubernetes()
    yield from _lab_of(request)


def _skip_without_kubernetes() -> None:
    from tests.lab.kubernetes_build import unavailable

    if reason := unavailable():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster(kubernetes_session_lab: Lab) -> Kubernetes:
    """One for the whole session: work in `namespace`, and leave the nodes and the API server as they are."""
    from tests.lab.kubernetes_cluster import start_cluster

    return kubernetes_session_lab.start(start_cluster)


@pytest.fixture
def namespace(cluster: Kubernetes) -> Iterator[str]:
    """A fresh one in `cluster`."""
    cluster.prove_own()
    name = cluster.new_namespace()
    yield name
    cluster.delete_namespace(name)


@pytest.fixture
def own_cluster(kubernetes_lab: Lab) -> Kubernetes:
    """A cluster of the test's own, to be stopped, frozen or broken as a whole."""
    from tests.lab.kubernetes_cluster import start_cluster

    return kubernetes_lab.start(start_cluster)
