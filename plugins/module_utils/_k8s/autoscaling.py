# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who decides how many pods a workload has: a HorizontalPodAutoscaler, KEDA, or nobody but those who write it."""

from __future__ import annotations

from dataclasses import dataclass

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError
from .._core.plan import Finding, Severity
from .client import Kube
from .errors import Json
from .kinds import AUTOSCALER, SCALED_OBJECT, Kind
from .progress import condition
from .workload import Workload, controller_of

#: KEDA's own switches. The first freezes the number as it is, the second sets it.
PAUSED, PAUSED_AT = "autoscaling.keda.sh/paused", "autoscaling.keda.sh/paused-replicas"
_RESTS = "ScalingDisabled"


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """What scales a workload. C(manifest) is never changed."""

    kind: Kind
    manifest: Json

    @property
    def keda(self) -> bool:
        return self.kind is SCALED_OBJECT

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def title(self) -> str:
        """C(HorizontalPodAutoscaler shop/web), for people."""
        return f"{self.kind.name} {self.manifest['metadata']['namespace']}/{self.name}"

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most pods, with the API's own defaults."""
        spec = self.manifest["spec"]
        if self.keda:
            return int(spec.get("minReplicaCount", 0)), int(spec.get("maxReplicaCount", 100))
        return int(spec.get("minReplicas", 1)), int(spec["maxReplicas"])

    @property
    def switches(self) -> dict[str, str]:
        """KEDA's pause annotations as they are."""
        notes = self.manifest["metadata"].get("annotations") or {}
        return {name: str(notes[name]) for name in (PAUSED, PAUSED_AT) if name in notes}

    @property
    def frozen(self) -> bool:
        """Whether KEDA leaves the number alone, whatever it is."""
        return self.switches.get(PAUSED) == "true" and PAUSED_AT not in self.switches


def autoscaler_of(kube: Kube, workload: Workload) -> tuple[Autoscaler | None, bool]:
    """What scales the workload, and whether everything that could was to be seen.

    The HorizontalPodAutoscaler that KEDA makes for itself is KEDA's, not ours.
    """
    aiming = [one for one in kube.all(AUTOSCALER, workload.namespace) if _aims(one, workload)]
    scalers = [one for one in aiming if controller_of(one).get("kind") != SCALED_OBJECT.name]
    objects, seen = _scaled_objects(kube, workload)
    if len(scalers) < len(aiming) and not seen:
        words = f"KEDA scales {workload.title}, and this user may not list scaledobjects in {workload.namespace}"
        hint = "Have that right granted by a Role, then run again. Nothing was changed."
        raise OpsError(ErrorKind.FORBIDDEN, words, hint, code="rbac")
    found = [*(Autoscaler(SCALED_OBJECT, one) for one in objects), *(Autoscaler(AUTOSCALER, one) for one in scalers)]
    if len(found) > 1:
        names = ", ".join(one.title for one in found)
        hint = "They fight each other over the number. Leave one of them."
        raise OpsError(ErrorKind.PRECONDITION, f"{workload.title} has several: {names}", hint, code="autoscalers")
    return (found[0] if found else None), seen


def health(scaler: Autoscaler | None) -> tuple[Finding, ...]:
    """Findings about a HorizontalPodAutoscaler that cannot do its work."""
    if scaler is None or scaler.keda:
        return ()
    found = []
    active = condition(scaler.manifest, "ScalingActive")
    if active.get("status") == "False" and active.get("reason") != _RESTS:
        evidence = {"reason": active.get("reason", ""), "message": str(active.get("message", ""))[:300]}
        words = "It adds no pods under load. See whether metrics-server, or the adapter of its metrics, answers."
        found.append(Finding("k8s.hpa.no_metrics", Severity.WARNING, scaler.title, evidence, words))
    status = scaler.manifest.get("status") or {}
    current, wanted, most = status.get("currentReplicas", 0), status.get("desiredReplicas", 0), scaler.bounds[1]
    limited = condition(scaler.manifest, "ScalingLimited")
    if current >= most and (limited.get("reason") == "TooManyReplicas" or wanted >= most > scaler.bounds[0]):
        evidence = {"replicas": current, "max_replicas": most}
        words = "It may add no more. Raise it with k8s_replicas, min_replicas and change_max, if what it uses has room."
        found.append(Finding("k8s.hpa.at_max", Severity.WARNING, scaler.title, evidence, words))
    return tuple(found)


def _scaled_objects(kube: Kube, workload: Workload) -> tuple[list[Json], bool]:
    try:
        objects = kube.all(SCALED_OBJECT, workload.namespace)
    except OpsError as error:
        if error.kind is ErrorKind.NOT_FOUND:
            return [], True
        if error.kind is ErrorKind.FORBIDDEN:
            return [], False
        raise
    return [one for one in objects if _aims(one, workload)], True


def _aims(manifest: Json, workload: Workload) -> bool:
    reference = manifest["spec"].get("scaleTargetRef") or {}
    group = str(reference.get("apiVersion") or workload.kind.api).partition("/")[0]
    named = (reference.get("kind") or "Deployment", reference.get("name"))
    return named == (workload.kind.name, workload.name) and group == workload.kind.group
