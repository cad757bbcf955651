# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How many pods a workload is to have, and the edits that bring it there without fighting whoever owns the number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError, bad_parameter
from .._core.spec import Params, Spec
from .autoscaling import PAUSED, PAUSED_AT, Autoscaler
from .edits import QUIESCED, RAISED, Edit, note, note_of
from .errors import Json
from .workload import Workload

_WAYS = ("replicas", "min_replicas", "quiesced", "restored")
OPTIONS = Spec(
    {
        **{name: {"type": "int"} for name in ("replicas", "min_replicas")},
        **{name: {"type": "bool"} for name in ("quiesced", "restored", "temporary")},
        "mode": {"type": "str", "choices": ["auto", "scale", "hpa_bounds", "keda_pause"], "default": "auto"},
        "change_max": {"type": "bool", "default": False},
    },
    mutually_exclusive=(_WAYS,),
    required_one_of=(_WAYS,),
)
_FROZEN = {PAUSED: "true"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is wanted: exactly one of C(exact), C(least), C(quiesced) and C(restored)."""

    exact: int | None = None
    least: int | None = None
    quiesced: bool | None = None
    restored: bool = False
    temporary: bool = False
    mode: str = "auto"
    change_max: bool = False

    @classmethod
    def of(cls, params: Params) -> Asked:
        exact, least = params["replicas"], params["min_replicas"]
        for name, number in (("replicas", exact), ("min_replicas", least)):
            if number is not None and number < 1:
                hint = "To stop all pods, and to have their number back, ask for quiesced=true."
                raise bad_parameter(name, f"{number} is not a number of pods", hint)
        if params["restored"] is False:
            raise bad_parameter("restored", "false asks for nothing", "Leave it out, or set it to true.")
        temporary = least is not None if params["temporary"] is None else params["temporary"]
        return cls(
            exact,
            least,
            params["quiesced"],
            bool(params["restored"]),
            temporary,
            params["mode"],
            params["change_max"],
        )

    @property
    def returns(self) -> bool:
        """Whether it goes back to what was: limits on growth do not stand in the way of that."""
        return self.restored or self.quiesced is False


@dataclass(frozen=True, slots=True)
class Scene:
    """The workload and what scales it, as they are."""

    workload: Workload
    scaler: Autoscaler | None = None

    @property
    def quiesced(self) -> dict[str, Any]:
        """What the workload had before it was quiesced. A note on one that has pods again is out of date."""
        return note_of(self.workload.manifest, QUIESCED) if self.workload.replicas == 0 else {}

    @property
    def owner(self) -> str:
        """Who decides about the number now: C(hpa), C(keda) or C(none)."""
        if self.scaler is None or self.scaler.frozen:
            return "none"
        return "keda" if self.scaler.keda else "hpa"


@dataclass(frozen=True, slots=True)
class Intent:
    """C(edits) in order, and the number of pods that they lead to: exactly C(goal), or at least C(floor).

    An autoscaler that has its number back goes where its metrics lead it: no more is certain then than its lower bound.
    """

    edits: tuple[Edit, ...]
    goal: int
    exact: bool = True
    least: int | None = None
    #: Up to where an autoscaler may go once this is done.
    ceiling: int = 0

    @property
    def floor(self) -> int:
        return self.goal if self.least is None else min(self.least, self.goal)


def intent_of(scene: Scene, asked: Asked) -> Intent:
    """What is to be done, from what is there and what is wanted."""
    if asked.quiesced:
        return _quiesce(scene)
    if asked.quiesced is False:
        return _resume(scene)
    if note_of(scene.workload.manifest, QUIESCED) and scene.workload.replicas == 0:
        words = f"{scene.workload.title} is quiesced"
        raise OpsError(ErrorKind.PRECONDITION, words, "End that first, with quiesced=false.", code="quiesced")
    if asked.restored:
        return _restore(scene)
    return {"scale": _scale, "hpa_bounds": _bounds, "keda_pause": _freeze}[_mode(scene, asked)](scene, asked)


def _mode(scene: Scene, asked: Asked) -> str:
    """How it is done: by the owner's own means, if nothing else is asked for."""
    scaler = scene.scaler
    fitting = "scale" if scaler is None else "keda_pause" if scaler.keda else "hpa_bounds"
    if asked.mode in ("auto", fitting):
        return fitting
    if asked.mode == "scale" and scaler is not None and not scaler.frozen:
        low, high = scaler.bounds
        if scaler.keda or not low <= (asked.exact or asked.least or low) <= high:
            hint = "Leave mode out: then what scales it is told."
            words = f"{scaler.title} would undo it; its bounds are {low} to {high}"
            raise OpsError(ErrorKind.PRECONDITION, words, hint, code="autoscaled")
    if asked.mode != "scale":
        words = f"{scene.workload.title} has nothing that {asked.mode} could change"
        raise OpsError(ErrorKind.PRECONDITION, words, "Leave mode out.", code="no_autoscaler")
    return asked.mode


# The three ways to a number.


def _scale(scene: Scene, asked: Asked) -> Intent:
    current = scene.workload.replicas
    goal = asked.exact if asked.exact is not None else max(current, asked.least or 0)
    kept = note_of(scene.workload.manifest, RAISED)
    edits = _set_replicas(scene.workload, goal, kept, asked.temporary)
    held = scene.owner == "hpa"
    return Intent(edits, goal, asked.exact is not None and not held, _scaler(scene).bounds[0] if held else None)


def _bounds(scene: Scene, asked: Asked) -> Intent:
    scaler, workload = _scaler(scene), scene.workload
    low, high = scaler.bounds
    number = asked.exact if asked.exact is not None else max(low, asked.least or 0)
    wanted = (number, number if asked.exact is not None else max(high, number))
    if wanted[1] != high and not asked.change_max:
        words = f"{scaler.title} has maxReplicas {high}; {number} pods need {wanted[1]}"
        hint = "Nothing was changed. Set change_max=true if what the pods use has room" + (
            ", or ask for min_replicas and let it decide above that." if asked.exact else "."
        )
        raise OpsError(ErrorKind.PRECONDITION, words, hint, code="hpa_max")
    if workload.replicas == 0:
        words = f"{workload.title} has 0 replicas, at which {scaler.title} rests"
        hint = "Ask with mode=scale for a number within its bounds; it takes over from there."
        raise OpsError(ErrorKind.PRECONDITION, words, hint, code="scaled_to_zero")
    was, to = _bounds_note(*scaler.bounds), _bounds_note(*wanted)
    goal = number if asked.exact is not None else max(number, workload.replicas)
    edits = _noted(scaler, was, to, temporary=asked.temporary, count=max(1, abs(goal - workload.replicas)))
    return Intent(edits, number, exact=asked.exact is not None, ceiling=wanted[1])


def _freeze(scene: Scene, asked: Asked) -> Intent:
    """KEDA leaves the number alone, which is then written. Both are kept for a restore, whatever is asked."""
    scaler, workload = _scaler(scene), scene.workload
    goal = asked.exact if asked.exact is not None else max(workload.replicas, asked.least or 0)
    enough = asked.least is not None and goal == workload.replicas and scaler.bounds[0] >= asked.least
    pause = () if enough or scaler.frozen else (_pause(scaler, RAISED),)
    kept = note_of(workload.manifest, RAISED)
    edits = (*pause, *_set_replicas(workload, goal, kept, True))
    return Intent(edits, goal, exact=not enough)


def _set_replicas(workload: Workload, goal: int, kept: Json, temporary: bool) -> tuple[Edit, ...]:
    """The number, with what it was in a note. The first note counts while nobody else has changed the number since."""
    current = {"replicas": workload.replicas}
    first = kept["was"] if kept.get("to") == current else current
    text = note(first, {"replicas": goal}) if temporary and first["replicas"] != goal else None
    if goal == workload.replicas and (temporary or not kept):
        return ()
    words = f"scale {workload.title} from {workload.replicas} to {goal}"
    if goal == workload.replicas:
        words = f"keep {workload.title} at {goal} for good"
    notes = {RAISED: text} if text or kept else {}
    return (_of_workload(workload, goal, notes, words),)


def _noted(scaler: Autoscaler, was: Json, to: Json, *, temporary: bool, count: int) -> tuple[Edit, ...]:
    kept = note_of(scaler.manifest, RAISED)
    first = kept["was"] if kept.get("to") == was else was
    if was == to and (temporary or not kept):
        return ()
    text = note(first, to) if temporary and first != to else None
    words = f"set bounds of {scaler.title} from {_range(was)} to {_range(to)}"
    spec = {name: to[name] for name in to if to[name] != was[name]}
    notes = {RAISED: text} if text or kept else {}
    return (Edit(scaler.kind, scaler.manifest, read_bounds, spec, notes, words, count),)


# To zero and back.


def _quiesce(scene: Scene) -> Intent:
    workload, scaler = scene.workload, scene.scaler
    edits: list[Edit] = []
    if scaler and not scaler.keda and scaler.bounds[0] == 0:
        hint = "Set its minReplicas to 1; then it rests while there are no pods."
        raise OpsError(ErrorKind.PRECONDITION, f"{scaler.title} may scale up from 0", hint, code="hpa_from_zero")
    if scaler and scaler.keda and not scaler.frozen:
        edits.append(_pause(scaler, QUIESCED))
    if workload.replicas:
        kept = note({"replicas": workload.replicas}, {"replicas": 0})
        words = f"scale {workload.title} from {workload.replicas} to 0"
        edits.append(_of_workload(workload, 0, {QUIESCED: kept}, words))
    return Intent(tuple(edits), 0)


def _resume(scene: Scene) -> Intent:
    workload, scaler = scene.workload, scene.scaler
    kept = note_of(workload.manifest, QUIESCED)
    edits: list[Edit] = []
    goal = workload.replicas
    if kept and goal == 0:
        goal = int(kept["was"]["replicas"])
        words = f"scale {workload.title} back from 0 to {goal}"
        edits.append(_back(workload, goal, QUIESCED, words))
    elif kept:
        words = f"forget what {workload.title} was quiesced from; it has {goal} replicas again"
        edits.append(Edit(workload.kind, workload.manifest, read_replicas, {}, {QUIESCED: None}, words))
    edits += _unpause(scaler, QUIESCED)
    return _given_back(scene, edits, goal, QUIESCED)


def _restore(scene: Scene) -> Intent:
    """Back to what was before a raise: the number first, while whoever decides about it is still held."""
    workload, scaler = scene.workload, scene.scaler
    kept = note_of(workload.manifest, RAISED)
    edits: list[Edit] = []
    goal = workload.replicas
    if kept:
        _unchanged(workload.title, {"replicas": goal}, kept)
        goal = int(kept["was"]["replicas"])
        words = f"scale {workload.title} back from {workload.replicas} to {goal}"
        edits.append(_back(workload, goal, RAISED, words))
    if scaler and not scaler.keda and (held := note_of(scaler.manifest, RAISED)):
        now = _bounds_note(*scaler.bounds)
        _unchanged(scaler.title, now, held)
        goal = min(goal, int(held["was"]["maxReplicas"]))
        words = f"set bounds of {scaler.title} back from {_range(now)} to {_range(held['was'])}"
        edits.append(Edit(scaler.kind, scaler.manifest, read_bounds, held["was"], {RAISED: None}, words))
    edits += _unpause(scaler, RAISED)
    return _given_back(scene, edits, goal, RAISED)


def _unchanged(title: str, now: Mapping[str, Any], kept: Json) -> None:
    if dict(now) != kept["to"]:
        words = f"{title} has been changed since it was raised: {dict(now)}, not {kept['to']}"
        hint = (
            f"It was {kept['was']} before. Ask for the replicas that are right; with temporary=false that is forgotten."
        )
        raise OpsError(ErrorKind.CONFLICT, words, hint, code="changed_since")


# Edits, and what they are about.


def _of_workload(workload: Workload, goal: int, notes: Mapping[str, str | None], words: str) -> Edit:
    count = max(1, abs(goal - workload.replicas))
    return Edit(workload.kind, workload.manifest, read_replicas, {"replicas": goal}, notes, words, count)


def _back(workload: Workload, goal: int, name: str, words: str) -> Edit:
    """The number that was kept. It counts as one subject, so that no limit on pods can hold it up."""
    return Edit(workload.kind, workload.manifest, read_replicas, {"replicas": goal}, {name: None}, words)


def _pause(scaler: Autoscaler, name: str) -> Edit:
    """KEDA's own switch; what it was set to is kept."""
    kept = note(scaler.switches, _FROZEN)
    notes = {PAUSED: "true", name: kept, **({PAUSED_AT: None} if PAUSED_AT in scaler.switches else {})}
    return Edit(scaler.kind, scaler.manifest, read_switches, {}, notes, f"pause {scaler.title}")


def _unpause(scaler: Autoscaler | None, name: str) -> list[Edit]:
    if scaler is None or not scaler.keda or not (kept := note_of(scaler.manifest, name)):
        return []
    notes: dict[str, str | None] = {name: None}
    if scaler.switches == kept["to"]:
        notes |= {switch: kept["was"].get(switch) for switch in (PAUSED, PAUSED_AT)}
    words = f"give {scaler.title} its number back"
    return [Edit(scaler.kind, scaler.manifest, read_switches, {}, notes, words)]


def _given_back(scene: Scene, edits: list[Edit], goal: int, name: str) -> Intent:
    """What is certain once an autoscaler, if there is one, decides about the number again."""
    scaler = scene.scaler
    if scaler is None:
        return Intent(tuple(edits), goal)
    kept = note_of(scaler.manifest, name)
    if scaler.keda and scaler.frozen and not kept:
        return Intent(tuple(edits), goal)
    low = int(kept.get("was", {}).get("minReplicas", scaler.bounds[0]))
    return Intent(tuple(edits), goal, exact=False, least=low)


def _scaler(scene: Scene) -> Autoscaler:
    if scene.scaler is None:  # _mode has seen to that
        raise OpsError(ErrorKind.PRECONDITION, f"{scene.workload.title} has no autoscaler", code="no_autoscaler")
    return scene.scaler


def _bounds_note(low: int, high: int) -> dict[str, int]:
    return {"minReplicas": low, "maxReplicas": high}


def _range(bounds: Mapping[str, Any]) -> str:
    return f"{bounds['minReplicas']}..{bounds['maxReplicas']}"


def read_replicas(manifest: Json) -> dict[str, Any]:
    """What an edit of a workload is about."""
    return {"replicas": manifest["spec"].get("replicas", 1)}


def read_bounds(manifest: Json) -> dict[str, Any]:
    """What an edit of a HorizontalPodAutoscaler is about."""
    return {"min_replicas": manifest["spec"].get("minReplicas", 1), "max_replicas": manifest["spec"]["maxReplicas"]}


def read_switches(manifest: Json) -> dict[str, Any]:
    """What an edit of a ScaledObject is about."""
    notes = manifest["metadata"].get("annotations") or {}
    return {"keda_paused": notes.get(PAUSED_AT) or notes.get(PAUSED) or "false"}
