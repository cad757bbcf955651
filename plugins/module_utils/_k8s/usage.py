# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What pods really use, by the metrics API, against what their containers may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError
from .._core.plan import Finding, Severity
from .._core.units import human
from .client import Kube
from .errors import Json
from .kinds import POD_METRICS
from .quantity import quantity
from .slim import Pod, moment

#: Where there are no metrics: the API is not served, its server is down, or this user may not ask it.
_BLIND = (ErrorKind.NOT_FOUND, ErrorKind.FORBIDDEN, ErrorKind.UNREACHABLE, ErrorKind.TIMEOUT)


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory of a pod in bytes; C(share) is that of the container which is nearest to its limit, None without one."""

    memory: int
    share: float | None = None
    container: str = ""

    def as_dict(self) -> dict[str, Any]:
        share = None if self.share is None else round(self.share, 3)
        return {"memory": self.memory, "share": share, "container": self.container}

    def __str__(self) -> str:
        return human(self.memory) + ("" if self.share is None else f" ({self.share:.0%} of the limit)")


@dataclass(frozen=True, slots=True)
class Metrics:
    """The newest measurement of each pod by its name, or C(wrong): why there are none."""

    by_name: Mapping[str, Json] = field(default_factory=dict)
    wrong: str = ""

    def of(self, pod: Pod) -> Usage | None:
        """What a pod uses; None where nobody has measured this very pod yet."""
        found = self.by_name.get(pod.name)
        # Metrics bear a name and no uid: what is older than the pod is another's.
        if found is None or moment(found.get("timestamp")) < pod.created:
            return None
        used = {one["name"]: amount_of(str(one["usage"].get("memory", "0"))) for one in found.get("containers") or []}
        if not used:
            return None
        limits = {one.name: amount_of(one.memory_limit) for one in pod.containers if one.memory_limit}
        shares = [(used[name] / limit, name) for name, limit in limits.items() if limit and name in used]
        share, container = max(shares, default=(None, ""))
        return Usage(int(sum(used.values())), share, container)


def metrics_of(kube: Kube, namespace: str, selector: str = "") -> Metrics:
    """The measurements of a namespace's pods. A cluster without metrics is no error: it is said."""
    query = {"labelSelector": selector} if selector else {}
    try:
        found = {item["metadata"]["name"]: item for item in kube.all(POD_METRICS, namespace, **query)}
    except OpsError as error:
        if error.kind not in _BLIND:
            raise
        return Metrics(wrong=f"{error.kind.value}: {error.message}")
    return Metrics(found)


def unseen(namespace: str, wrong: str, names: list[str]) -> Finding:
    """That memory could not be judged: what nobody measured is not below a limit."""
    evidence = {"wrong": wrong or "not measured yet", "pods": len(names), "names": names[:10]}
    advice = "See whether metrics-server runs: kubectl get apiservice v1beta1.metrics.k8s.io. It needs a minute."
    return Finding("k8s.usage.unseen", Severity.WARNING, f"Namespace/{namespace}", evidence, advice)


def amount_of(text: str) -> float:
    """A manifest's quantity as a number; 0 for none."""
    return float(quantity(text)) if text else 0.0
