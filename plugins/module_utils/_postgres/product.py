# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""PostgreSQL as a product: the options that every PostgreSQL module shares, and how a door is made."""

from __future__ import annotations

from .._core.door import Product
from .._core.spec import Spec
from .client import connect
from .errors import translate

CONNECTION = Spec(
    {
        "dsn": {"type": "str", "no_log": True},
        "host": {"type": "str"},
        "port": {"type": "int"},
        "user": {"type": "str"},
        "password": {"type": "str", "no_log": True},
        "dbname": {"type": "str"},
        "service": {"type": "str"},
        "sslmode": {
            "type": "str",
            "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
        },
        "sslrootcert": {"type": "path"},
        "sslcert": {"type": "path"},
        "sslkey": {"type": "path", "no_log": False},
        "target_session_attrs": {
            "type": "str",
            "choices": ["any", "read-write", "read-only", "primary", "standby", "prefer-standby"],
        },
        "expect_host": {"type": "str"},
        "expect_database": {"type": "str"},
        "connect_timeout": {"type": "float", "default": 5.0},
        "statement_timeout": {"type": "float", "default": 30.0},
        "lock_timeout": {"type": "float", "default": 3.0},
    },
    mutually_exclusive=(("dsn", "host"), ("dsn", "service")),
    required_together=(("sslcert", "sslkey"),),
)

POSTGRES = Product("postgres", "psycopg2", CONNECTION, connect, translate)
