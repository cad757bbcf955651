# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Growing a claim: what forbids it, the one patch, and the way until the filesystem has the size."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.plan import Done, Finding, Plan, Progress, Severity, Step, Undo, Verify
from .._core.spec import Params
from .amounts import amount
from .claim_restart import restart_step
from .claims import Claim, claim_of
from .client import Kube, Patch, Right, demand
from .errors import Json
from .kinds import CLAIM, STATEFUL_SET, STORAGE_CLASS
from .owners import drift, refuse_drift
from .progress import condition
from .quantity import plain, quantity


def grown(kube: Kube, params: Params) -> Plan:
    """The plan for a claim of at least this size: one patch, then a wait until its filesystem has it."""
    claim = claim_of(kube, params["namespace"], params["name"])
    size = amount(params["size"], "size")
    if size <= 0:
        raise bad_parameter("size", f"{params['size']} is no size", "Write it as Kubernetes does: 20Gi.")
    findings = [*_failing(claim), *_set_findings(kube, claim, size)]
    steps: list[Step] = []
    if claim.wanted < size:
        _refuse(kube, claim, params)
        _tried(kube, claim, size)
        findings += drift(claim.manifest, claim.subject)
        steps.append(_step(kube, claim, size))
    elif claim.wanted > size:
        findings.append(_larger(claim, size))
    goal = max(size, claim.wanted)
    done = claim.bound and claim.size >= goal
    restart = params["allow_restart"] and claim.users and not done and (steps or claim.waits_for_mount)
    if restart:
        steps.append(restart_step(kube, claim, lambda now: now.size >= goal, params["timeout"]))
    facts: dict[str, Any] = {"claim": claim.as_dict()}
    return Plan(
        target=kube.target,
        before={"storage": plain(claim.wanted)} if claim.wanted < size else {},
        after={"storage": plain(size)} if claim.wanted < size else {},
        steps=tuple(steps),
        findings=tuple(findings),
        verify=None if done or not params["wait"] else _until_grown(kube, claim, goal, params, facts),
        facts=facts,
        exact=not restart,
    )


def _refuse(kube: Kube, claim: Claim, params: Params) -> None:
    """What the API server would refuse in fewer words, or the resizer hours later."""
    refuse_drift(claim.manifest, claim.title, accept=params["accept_drift"])
    if not claim.bound:
        phase = claim.status.get("phase", "unbound")
        hint = "Only a bound claim can grow. See why it has no volume; a pod that uses it may have to come first."
        raise OpsError(Kind.PRECONDITION, f"{claim.title} is {phase}", hint, code="unbound")
    if not _expandable(kube, claim):
        words = f"the StorageClass {claim.storage_class or 'of none'} of {claim.title} does not let volumes grow"
        hint = "Set allowVolumeExpansion on it, where its driver can; or copy the data to a new claim."
        raise OpsError(Kind.UNSUPPORTED, words, hint, code="no_expansion")
    if claim.failure:
        words = f"{claim.title}: the size of before cannot be had either ({claim.failure})"
        raise OpsError(Kind.PRECONDITION, words, "Mend that first; see its events.", code="resize_failed")


def _expandable(kube: Kube, claim: Claim) -> bool:
    """True too where StorageClasses may not be read: the API server judges the dry run."""
    if not claim.storage_class:
        return False
    try:
        found = kube.find(STORAGE_CLASS, "", claim.storage_class)
    except OpsError as error:
        if error.kind is not Kind.FORBIDDEN:
            raise
        return True
    return bool(found and found.get("allowVolumeExpansion"))


def _body(claim: Claim, size: Decimal) -> Json:
    metadata = {name: claim.manifest["metadata"][name] for name in ("uid", "resourceVersion")}
    return {"metadata": metadata, "spec": {"resources": {"requests": {"storage": plain(size)}}}}


def _tried(kube: Kube, claim: Claim, size: Decimal) -> None:
    metadata = claim.manifest["metadata"]
    demand(kube, Right("patch", CLAIM, metadata["namespace"], metadata["name"]))
    try:
        kube.api.patch(claim.path, _body(claim, size), Patch.MERGE, dry_run=True)
    except OpsError as error:
        if error.code == "dry_run":
            return
        if error.kind is Kind.FORBIDDEN and "resize" in error.message:
            hint = "Its StorageClass does not let volumes grow."
            raise OpsError(Kind.UNSUPPORTED, error.message, hint, code="no_expansion") from error
        raise


def _step(kube: Kube, claim: Claim, size: Decimal) -> Step:
    def act(progress: Progress) -> Done:
        kube.api.patch(claim.path, _body(claim, size), Patch.MERGE)
        progress(f"{claim.title}: asked for {plain(size)}")
        return Done()

    words = f"{claim.title}: grow from {plain(claim.wanted)} to {plain(size)}"
    return Step(claim.subject, words, act, Undo("a volume does not shrink: copy the data to a smaller one"))


def _until_grown(kube: Kube, claim: Claim, size: Decimal, params: Params, facts: dict[str, Any]) -> Verify:
    """Waits for the filesystem. Raises where a node has to mount the volume anew and nobody allowed a restart."""
    metadata = claim.manifest["metadata"]

    def check() -> str:
        now = Claim(kube.get(CLAIM, metadata["namespace"], metadata["name"]), claim.users)
        facts["claim"] = now.as_dict()
        if now.manifest["metadata"]["uid"] != metadata["uid"]:
            raise OpsError(Kind.CONFLICT, f"{now.title} was made anew meanwhile", "Look who did that.", "recreated")
        if now.failure:
            raise _gives_up(now)
        if now.size >= size:
            return ""
        return f"{now.title} has {plain(now.size)} of {plain(size)}" + _stage(now)

    return Verify(f"{claim.title} has {plain(size)}", check, 1, 1.0, params["timeout"])


def _stage(claim: Claim) -> str:
    if claim.waits_for_mount:
        pods = ", ".join(claim.users) or "none"
        return f": its filesystem grows in use, or when its pods ({pods}) are made anew: allow_restart=true"
    return ": the volume grows" if condition(claim.manifest, "Resizing").get("status") == "True" else ""


def _gives_up(claim: Claim) -> OpsError:
    hint = (
        "See its events. The size may be more than the storage, or its quota, has; some drivers wait hours in between."
    )
    return OpsError(
        Kind.VERIFY_FAILED,
        f"{claim.title} does not grow: {claim.failure}",
        hint,
        code="resize_failed",
        findings=_failing(claim),
    )


def _failing(claim: Claim) -> tuple[Finding, ...]:
    if not claim.failure:
        return ()
    evidence = {"wrong": claim.failure, **claim.as_dict()}
    suggest = (
        "See its events: no room in the storage, a quota of its provider, or one change of a volume every few hours."
    )
    return (Finding("k8s.claim.resize_failed", Severity.CRITICAL, claim.subject, evidence, suggest),)


def _larger(claim: Claim, size: Decimal) -> Finding:
    evidence = {"size": plain(max(claim.size, claim.wanted)), "wanted": plain(size)}
    suggest = "A volume does not shrink. Copy the data to a smaller one, if that is what is meant."
    return Finding("k8s.claim.larger", Severity.INFO, claim.subject, evidence, suggest)


def _set_findings(kube: Kube, claim: Claim, size: Decimal) -> tuple[Finding, ...]:
    """C(k8s.claim.template): new pods of its StatefulSet still get volumes of the old size."""
    name, namespace = str(claim.manifest["metadata"]["name"]), str(claim.manifest["metadata"]["namespace"])
    try:
        sets = kube.all(STATEFUL_SET, namespace)
    except OpsError as error:
        if error.kind is not Kind.FORBIDDEN:
            raise
        return ()
    for one in sets:
        for template in one["spec"].get("volumeClaimTemplates") or []:
            text = ((template["spec"].get("resources") or {}).get("requests") or {}).get("storage", "0")
            made = re.fullmatch(re.escape(f"{template['metadata']['name']}-{one['metadata']['name']}") + r"-\d+", name)
            if made and quantity(text) < size:
                evidence = {"stateful_set": one["metadata"]["name"], "template": plain(quantity(text))}
                suggest = (
                    "Its template cannot be changed. Grow each of its claims, then have the StatefulSet made anew with "
                    "another template: kubectl delete --cascade=orphan, apply."
                )
                return (Finding("k8s.claim.template", Severity.WARNING, claim.subject, evidence, suggest),)
    return ()
