# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Redis as a product: the options that every Redis module shares, and how a door is made."""

from __future__ import annotations

from .._core.door import Product
from .._core.spec import Spec
from .client import connect
from .errors import translate

CONNECTION = Spec(
    {
        "url": {"type": "str", "no_log": True},
        "host": {"type": "str"},
        "port": {"type": "int"},
        "db": {"type": "int"},
        "username": {"type": "str"},
        "password": {"type": "str", "no_log": True},
        "tls": {"type": "bool", "default": False},
        "ca_cert": {"type": "path"},
        "cert": {"type": "path"},
        "key": {"type": "path", "no_log": False},
        "validate_certs": {"type": "bool", "default": True},
        "sentinels": {"type": "list", "elements": "str"},
        "sentinel_service": {"type": "str"},
        "sentinel_password": {"type": "str", "no_log": True},
        "cluster": {"type": "str", "choices": ["auto", "never"], "default": "auto"},
        "expect_host": {"type": "str"},
        "connect_timeout": {"type": "float", "default": 5.0},
        "op_timeout": {"type": "float", "default": 15.0},
    },
    mutually_exclusive=(("url", "host"), ("url", "sentinels"), ("host", "sentinels")),
    required_together=(("sentinels", "sentinel_service"), ("cert", "key")),
)

REDIS = Product("redis", "redis", CONNECTION, connect, translate)
