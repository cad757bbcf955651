# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Endpoints as a product: how one reaches them. It needs nothing but the standard library."""

from __future__ import annotations

from .._core.door import Product
from .._core.spec import Spec
from .client import connect
from .errors import translate

CONNECTION = Spec(
    {
        "ca_cert": {"type": "path"},
        "validate_certs": {"type": "bool", "default": True},
        "use_proxy": {"type": "bool", "default": True},
        "op_timeout": {"type": "float", "default": 5.0},
    }
)

PROBE = Product("probe", "ssl", CONNECTION, connect, translate)
