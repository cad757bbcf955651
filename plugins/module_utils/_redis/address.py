# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a Redis is and how to get in: options first, then the variables that users already set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from .._core.errors import bad_parameter
from .._core.spec import Params

#: Host names that say who runs the server, and so which commands it will not take.
_MANAGED = {
    ".cache.amazonaws.com": "elasticache",
    ".redis.cache.windows.net": "azure",
    ".redis.azure.net": "azure",
    ".redislabs.com": "redis-cloud",
    ".redis-cloud.com": "redis-cloud",
    ".upstash.io": "upstash",
    ".rds.aliyuncs.com": "aliyun",
}


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a TLS connection; an empty C(ca_cert) means the system's authorities."""

    ca_cert: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Address:
    """One server's address with its credentials. C(name) is safe to show. Timeouts are in seconds."""

    host: str = "127.0.0.1"
    port: int = 6379
    path: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    tls: Tls | None = None
    connect_timeout: float = 5.0
    op_timeout: float = 15.0

    @property
    def name(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"Address({self.name})"


def address_of(params: Params, environ: Mapping[str, str]) -> Address:
    """The address from the options; REDIS_URL counts only where no option says where the server is."""
    placed = params.get("url") or params.get("host") or params.get("sentinels")
    url = params.get("url") or ("" if placed else environ.get("REDIS_URL", ""))
    base = _from_url(url) if url else Address(host=environ.get("REDIS_HOST", "127.0.0.1"), port=_port(environ))
    tls = base.tls or (Tls() if params.get("tls") else None)
    if tls is not None:
        tls = Tls(
            params.get("ca_cert") or environ.get("REDIS_CA_CERT", ""),
            params.get("cert") or "",
            params.get("key") or "",
            params.get("validate_certs", True) is not False,
        )
    db = params.get("db")
    return Address(
        host=params.get("host") or base.host,
        port=params.get("port") or base.port,
        path=base.path,
        db=base.db if db is None else db,
        username=params.get("username") or base.username or environ.get("REDIS_USERNAME", ""),
        password=params.get("password") or base.password or environ.get("REDIS_PASSWORD", ""),
        tls=tls,
        connect_timeout=params.get("connect_timeout") or 5.0,
        op_timeout=params.get("op_timeout") or 15.0,
    )


def managed_by(host: str) -> str:
    """The service that runs the server, as far as its host name tells; empty for one's own."""
    return next((name for suffix, name in _MANAGED.items() if host.lower().endswith(suffix)), "")


def _port(environ: Mapping[str, str]) -> int:
    value = environ.get("REDIS_PORT", "6379")
    if not value.isdigit():
        raise bad_parameter("REDIS_PORT", f"{value!r} is not a port")
    return int(value)


def _from_url(url: str) -> Address:
    """C(redis[s]://[user[:password]@]host[:port][/db]) or C(unix:///path?db=n).

    Other query parameters are the application's own (Celery's C(ssl_cert_reqs), pool sizes) and are
    left alone: none of them may weaken what this connection verifies.
    """
    hint = "Write redis://[user:password@]host[:port][/db], or rediss:// for TLS."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise bad_parameter("url", str(error), hint) from None
    if parts.scheme not in ("redis", "rediss", "valkey", "valkeys", "unix"):
        raise bad_parameter("url", f"the scheme is {parts.scheme!r}", hint)
    is_unix = parts.scheme == "unix"
    db = parse_qs(parts.query).get("db", [""])[0] or ("" if is_unix else parts.path.strip("/"))
    if db and not db.isdigit():
        raise bad_parameter("url", f"{db!r} is not a database number", hint)
    return Address(
        host=parts.hostname or "127.0.0.1",
        port=port or 6379,
        path=parts.path if is_unix else "",
        db=int(db or 0),
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=Tls() if parts.scheme in ("rediss", "valkeys") else None,
    )
