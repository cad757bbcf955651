# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One key of a ConfigMap or Secret as a switch, such as a maintenance flag, and whom it reaches, and when."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.plan import Done, Finding, Progress, Severity, Step, Undo
from .._core.redact import digest
from .._core.spec import Params
from .client import Kube, Patch, Right
from .errors import Json
from .kinds import CONFIG_MAP, SECRET
from .kinds import Kind as ObjectKind
from .owners import drift, refuse_drift
from .workload import containers_of

#: Of the annotation on pods that bears what they were started with.
_PREFIX = "sre.runbooks/checksum-"


@dataclass(frozen=True, slots=True)
class Switch:
    """A key with its value of now and the one wanted; None for a key that is not there. C(manifest) is of now."""

    kind: ObjectKind
    manifest: Json
    key: str
    now: bytes | None
    wanted: bytes | None

    @property
    def differs(self) -> bool:
        return self.now != self.wanted

    @property
    def title(self) -> str:
        metadata = self.manifest["metadata"]
        return f"{self.kind.name} {metadata['namespace']}/{metadata['name']}"

    @property
    def path(self) -> str:
        metadata = self.manifest["metadata"]
        return self.kind.path(metadata["namespace"], metadata["name"])

    @property
    def right(self) -> Right:
        metadata = self.manifest["metadata"]
        return Right("patch", self.kind, metadata["namespace"], metadata["name"])

    @property
    def note(self) -> tuple[str, str]:
        """Annotation for pods that shall have been started with the value wanted.

        The object's uid is in the sum: who may not read a Secret does not know it, and cannot guess a short value.
        """
        metadata = self.manifest["metadata"]
        place = hashlib.sha256(f"{self.kind.name}/{metadata['name']}/{self.key}".encode()).hexdigest()[:8]
        value = hashlib.sha256(str(metadata["uid"]).encode() + b"/" + (self.wanted or b"")).hexdigest()[:32]
        return f"{_PREFIX}{str(metadata['name'])[:40].rstrip('-.')}-{place}", value

    def body(self, value: bytes | None) -> Json:
        """A merge patch of this very object, at this very version."""
        metadata = {name: self.manifest["metadata"][name] for name in ("uid", "resourceVersion")}
        return {"metadata": metadata, "data": {self.key: self.text(value)}}

    def text(self, value: bytes | None) -> str | None:
        if value is None:
            return None
        return base64.b64encode(value).decode() if self.kind is SECRET else value.decode()

    def shown(self, value: bytes | None) -> str:
        return "absent" if value is None else digest(value)


def switch_of(kube: Kube, params: Params) -> Switch | None:
    """The key that the options name, None where they name none. Raises for what cannot be switched."""
    kind, name = (SECRET, params["secret"]) if params["secret"] else (CONFIG_MAP, params["config_map"])
    given = params["secret_value"] if kind is SECRET else params["value"]
    _one_of(params, name, given)
    if not name:
        return None
    manifest = kube.get(kind, params["namespace"], name)
    wanted = None if params["key_absent"] else str(given).encode()
    switch = Switch(kind, manifest, params["key"], _value(kind, manifest, params["key"]), wanted)
    if switch.differs:
        _expected(switch, params["expect"])
        _changeable(switch)
        refuse_drift(manifest, switch.title, accept=params["accept_drift"])
    return switch


def _one_of(params: Params, name: str | None, given: str | None) -> None:
    """What no rule between options can say."""
    if name and given is None and not params["key_absent"]:
        hint = "Give value for config_map, secret_value for secret, or key_absent."
        raise bad_parameter("key", f"nothing is wanted of {params['key']}", hint)
    if params["restart"] and not (name and params["name"]):
        words = "there is no workload to restart, or no key for which"
        raise bad_parameter("restart", words, "Give name, and config_map or secret; or use k8s_rollout.")


def _value(kind: ObjectKind, manifest: Json, key: str) -> bytes | None:
    text = (manifest.get("data") or {}).get(key)
    if text is None:
        return None
    return base64.b64decode(text) if kind is SECRET else str(text).encode()


def _expected(switch: Switch, expect: str | None) -> None:
    found = b"" if switch.now is None else switch.now
    if expect is None or expect == digest(found) or (switch.kind is CONFIG_MAP and expect.encode() == found):
        return
    words = (
        f"{switch.title}, {switch.key}: it is neither what is expected nor what is wanted ({switch.shown(switch.now)})"
    )
    hint = "Somebody else has set it. Look why, then give expect anew."
    raise OpsError(Kind.PRECONDITION, words, hint, code="expect")


def _changeable(switch: Switch) -> None:
    if switch.manifest.get("immutable"):
        hint = "Make one under a new name and refer to that; this one stays as it is until it is deleted."
        raise OpsError(Kind.PRECONDITION, f"{switch.title} is immutable", hint, code="immutable")
    if switch.key in (switch.manifest.get("binaryData") or {}):
        words = f"{switch.title}: {switch.key} holds binary data"
        raise OpsError(Kind.PRECONDITION, words, "A switch is text. Is it the right key?", code="binary_key")


def switch_step(kube: Kube, switch: Switch) -> Step:
    """The patch of the key, and back."""

    def act(_progress: Progress) -> Done:
        kube.api.patch(switch.path, switch.body(switch.wanted), Patch.MERGE)
        return Done()

    def back() -> None:
        body = {"metadata": {"uid": switch.manifest["metadata"]["uid"]}, "data": {switch.key: switch.text(switch.now)}}
        kube.api.patch(switch.path, body, Patch.MERGE)

    before, after = switch.shown(switch.now), switch.shown(switch.wanted)
    metadata = switch.manifest["metadata"]
    subject = f"{switch.kind.name}/{metadata['namespace']}/{metadata['name']}/{switch.key}@{metadata['uid']}"
    words = f"set {switch.key} of {switch.title} from {before} to {after}"
    return Step(subject, words, act, Undo(f"set {switch.key} of {switch.title} back to {before}", back))


def try_switch(kube: Kube, switch: Switch) -> bool:
    """Has the API server judge the patch without keeping it; False where it cannot be asked that."""
    try:
        kube.api.patch(switch.path, switch.body(switch.wanted), Patch.MERGE, dry_run=True)
    except OpsError as error:
        if error.code != "dry_run":
            raise
        return False
    return True


def uses(template: Json, switch: Switch) -> tuple[str, ...]:
    """How a template reads the key: C(env), C(file), and C(fixed_file) for one that is mounted by C(subPath)."""
    return tuple(sorted(set(_uses(template["spec"], switch))))


def _uses(spec: Json, switch: Switch) -> Iterator[str]:
    name, fields = switch.manifest["metadata"]["name"], _fields(switch.kind)
    mounted = {volume["name"] for volume in spec.get("volumes") or [] if _mounts(volume, name, fields)}
    for container in containers_of(spec):
        whole = (source.get(fields[1]) or {} for source in container.get("envFrom") or [])
        single = ((one.get("valueFrom") or {}).get(fields[0]) or {} for one in container.get("env") or [])
        if any(ref.get("name") == name for ref in whole):
            yield "env"
        if any(ref.get("name") == name and ref.get("key") == switch.key for ref in single):
            yield "env"
        for mount in container.get("volumeMounts") or []:
            if mount["name"] in mounted:
                yield "fixed_file" if mount.get("subPath") or mount.get("subPathExpr") else "file"


def _fields(kind: ObjectKind) -> tuple[str, str, str, str]:
    if kind is SECRET:
        return "secretKeyRef", "secretRef", "secret", "secretName"
    return "configMapKeyRef", "configMapRef", "configMap", "name"


def _mounts(volume: Json, name: str, fields: tuple[str, str, str, str]) -> bool:
    inner = (source.get(fields[2]) or {} for source in (volume.get("projected") or {}).get("sources") or [])
    own = (volume.get(fields[2]) or {}).get(fields[3])
    return own == name or any(source.get("name") == name for source in inner)


def switch_findings(switch: Switch, how: tuple[str, ...], *, restart: bool) -> tuple[Finding, ...]:
    """Whom the new value reaches, and when. C(how) is empty where no workload was named."""
    found = list(drift(switch.manifest, switch.title))
    if switch.differs and not restart:
        late = {"env", "fixed_file"} & set(how)
        evidence = {"key": switch.key, "read_by": list(how)}
        suggest = "Files follow within about a minute; variables and subPath mounts only in new pods: restart=true."
        severity = Severity.WARNING if late else Severity.INFO
        found.append(Finding("k8s.config.no_restart", severity, switch.title, evidence, suggest))
    if restart and not how:
        suggest = "Its pods do not read it, so replacing them brings nothing. Is it the right workload, and key?"
        found.append(Finding("k8s.config.not_used", Severity.WARNING, switch.title, {"key": switch.key}, suggest))
    if switch.differs and switch.now is None:
        known = sorted(switch.manifest.get("data") or {})[:20]
        suggest = "The key is new. See that its name is right."
        found.append(Finding("k8s.config.new_key", Severity.WARNING, switch.title, {"known": known}, suggest))
    return tuple(found)
