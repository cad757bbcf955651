# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the runner has to know of a product, and of a module, to carry it out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from .errors import OpsError
from .plan import Plan
from .spec import Params, Spec


@dataclass(frozen=True, slots=True)
class Product:
    """A system that modules operate: its connection options, how to connect, what its errors mean.

    C(driver) is the Python package that has to be installed. C(translate) turns an exception of the
    driver into an OpsError, or returns None for a bug.
    """

    name: str
    driver: str
    spec: Spec
    connect: Callable[[Params], AbstractContextManager[Any]]
    translate: Callable[[Exception], OpsError | None]

    def door(self, spec: Spec, plan: Callable[[Any, Params], Plan]) -> Door:
        """A module: its own options joined to the connection's, and its plan."""
        return Door(self, self.spec | spec, plan)


@dataclass(frozen=True, slots=True)
class Door:
    """One operation: C(plan) is pure but for reads of the client it is given."""

    product: Product
    spec: Spec
    plan: Callable[[Any, Params], Plan]
