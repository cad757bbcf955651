# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a PostgreSQL is and how to get in: options first, then DATABASE_URL, then whatever libpq itself reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from .._core.errors import bad_parameter
from .._core.spec import Params

#: What libpq understands in a URL; everything else there is some ORM's own and libpq would refuse it.
_LIBPQ = frozenset(
    {
        *("host", "hostaddr", "port", "user", "password", "passfile", "dbname", "service", "target_session_attrs"),
        *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation", "channel_binding"),
        *("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("tcp_user_timeout", "gssencmode", "krbsrvname", "require_auth", "load_balance_hosts", "client_encoding"),
    }
)
_OPTIONS = ("host", "port", "user", "password", "dbname", "service", "target_session_attrs")
_TLS = ("sslmode", "sslrootcert", "sslcert", "sslkey")

#: Host names that say who runs the server, and so which commands it will not take.
_MANAGED = {
    ".rds.amazonaws.com": "rds",
    ".postgres.database.azure.com": "azure",
    ".cloudsql.google.internal": "cloudsql",
    ".neon.tech": "neon",
    ".supabase.co": "supabase",
    ".supabase.com": "supabase",
    ".db.ondigitalocean.com": "digitalocean",
    ".aivencloud.com": "aiven",
}


@dataclass(frozen=True, slots=True)
class Address:
    """Keywords for libpq, with what was left out of a URL. C(name) is safe to show. Timeouts are in seconds."""

    keywords: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    search_path: str = ""
    connect_timeout: float = 5.0
    statement_timeout: float = 30.0
    lock_timeout: float = 3.0
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        return f"Address({self.host}:{self.port})"

    @property
    def host(self) -> str:
        return self.keywords.get("host", "")

    @property
    def port(self) -> str:
        return self.keywords.get("port", "")

    @property
    def is_local(self) -> bool:
        """A Unix socket or this machine: nobody stands in between."""
        host = self.host
        return not host or host.startswith("/") or host in ("localhost", "127.0.0.1", "::1")


def address_of(params: Params, environ: Mapping[str, str]) -> Address:
    """The address from the options; DATABASE_URL counts only where no option says where the server is."""
    placed = params.get("dsn") or params.get("host") or params.get("service")
    url = params.get("dsn") or ("" if placed else environ.get("DATABASE_URL", ""))
    keywords, ignored, search_path = _from_url(url) if url else ({}, (), "")
    for name in (*_OPTIONS, *_TLS):
        if params.get(name):
            keywords[name] = str(params[name])
    # libpq reads PG* by itself. Those that decide about TLS are looked at here, because our default depends on them.
    keywords.setdefault("host", environ.get("PGHOST", "")) if not keywords.get("service") else None
    address = Address({key: value for key, value in keywords.items() if value})
    if not address.is_local and not (keywords.get("sslmode") or environ.get("PGSSLMODE") or keywords.get("service")):
        keywords["sslmode"] = "verify-full"
    return Address(
        {key: value for key, value in keywords.items() if value},
        ignored,
        search_path,
        params.get("connect_timeout") or 5.0,
        params.get("statement_timeout") or 30.0,
        params.get("lock_timeout") or 3.0,
        (keywords["password"],) if keywords.get("password") else (),
    )


def managed_by(host: str) -> str:
    """The service that runs the server, as far as its host name tells; empty for one's own."""
    return next((name for suffix, name in _MANAGED.items() if host.lower().endswith(suffix)), "")


def _from_url(url: str) -> tuple[dict[str, str], tuple[str, ...], str]:
    """libpq's keywords of a URL or a C(key=value) string, the names that are not libpq's, and C(schema)."""
    hint = "Write postgresql://[user[:password]@]host[:port]/dbname."
    if "://" not in url:
        return _from_words(url), (), ""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise bad_parameter("dsn", str(error), hint) from None
    # SQLAlchemy writes its driver behind a plus sign.
    if parts.scheme.partition("+")[0] not in ("postgres", "postgresql"):
        raise bad_parameter("dsn", f"the scheme is {parts.scheme!r}", hint)
    query = dict(parse_qsl(parts.query))
    keywords = {name: value for name, value in query.items() if name in _LIBPQ}
    found = {
        "host": unquote(parts.hostname or ""),
        "port": str(port or ""),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "dbname": unquote(parts.path.lstrip("/")),
    }
    keywords |= {name: value for name, value in found.items() if value}
    ignored = tuple(sorted(name for name in query if name not in _LIBPQ and name != "schema"))
    return keywords, ignored, query.get("schema", "")


def _from_words(words: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in words.split())
    found = {name: value.strip("'") for name, equals, value in pairs if equals}
    if not found:
        raise bad_parameter("dsn", "it is neither a URL nor key=value words")
    return {name: value for name, value in found.items() if name in _LIBPQ}
