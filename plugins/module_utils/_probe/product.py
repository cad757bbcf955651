# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Endpoints as a product: how one reaches them. It needs nothing but the standard library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .._core.door import Product
from .._core.spec import Params, Spec
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


@contextmanager
def nowhere(_params: Params) -> Iterator[None]:
    """For what only thinks about what others have seen."""
    yield None


JUDGEMENT = Product("probe", "ssl", Spec(), nowhere, translate)
