# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What tables, indexes and materialized views have in common: a name, and an identity that outlives it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """Something in C(pg_class)."""

    oid: int
    schema: str
    name: str

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def subject(self) -> str:
        """Its name, and the oid that one made anew would not have."""
        return f"{self.qualified} oid={self.oid}"
