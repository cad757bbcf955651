# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options first, then the environment; no URL may weaken what a connection verifies."""

from __future__ import annotations

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._redis.address import Address, Tls, address_of, managed_by


def test_nothing_given_is_the_usual_place() -> None:
    assert address_of({}, {}) == Address()


def test_redis_url_counts_where_no_option_says_where() -> None:
    environ = {"REDIS_URL": "rediss://app:p%40ss@cache.example:7000/3"}
    expected = Address("cache.example", 7000, db=3, username="app", password="p@ss", tls=Tls())
    assert address_of({}, environ) == expected


@pytest.mark.parametrize("option", [{"host": "other"}, {"url": "redis://other"}, {"sentinels": ["s:1"]}])
def test_an_option_outranks_redis_url(option: dict[str, object]) -> None:
    assert address_of(option, {"REDIS_URL": "redis://production:1/5"}).host != "production"


def test_credentials_fall_back_on_the_environment() -> None:
    found = address_of({"host": "h"}, {"REDIS_USERNAME": "u", "REDIS_PASSWORD": "p"})
    assert (found.username, found.password) == ("u", "p")


def test_a_url_with_application_parameters_keeps_verifying() -> None:
    found = address_of({"url": "rediss://h?ssl_cert_reqs=none&pool=5"}, {})
    assert found.tls == Tls(verify=True)


@pytest.mark.parametrize(
    ("url", "db", "path"),
    [("unix:///run/redis.sock?db=2", 2, "/run/redis.sock"), ("redis://h/4", 4, ""), ("redis://h?db=5", 5, "")],
)
def test_database_and_socket(url: str, db: int, path: str) -> None:
    found = address_of({"url": url}, {})
    assert (found.db, found.path) == (db, path)


@pytest.mark.parametrize("url", ["http://h", "h:6379", "redis://h:port", "redis://h/zero", "redis://h:99999"])
def test_a_url_that_is_none_is_told(url: str) -> None:
    with pytest.raises(OpsError, match=r"^url: "):
        address_of({"url": url}, {})


def test_an_address_never_shows_its_password() -> None:
    assert "p@ss" not in repr(Address(password="p@ss"))


def test_services_are_known_by_their_names() -> None:
    assert managed_by("x.abc.0001.euw1.cache.amazonaws.com") == "elasticache"
    assert managed_by("redis.internal") == ""
