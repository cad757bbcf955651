# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why the API server did not let a controller create pods. The ReplicaSet is told, not a pod: there is none."""

from __future__ import annotations

import re
from typing import Any

from .causes import Cause, words

_QUOTA = re.compile(r"exceeded quota: ([^,\s]+), requested: (.+?), used: (.+?), limited: (.+?)(?:$|[.;]\s|\]$)")
_QUOTA_WANTS = re.compile(r"failed quota: ([^:\s]+): must specify (.+)")
_SECURITY = re.compile(r'violates PodSecurity "([^"]+)":? ?(.*)', re.DOTALL)
_WEBHOOK = re.compile(r'admission webhook "([^"]+)" denied the request:? ?(.*)', re.DOTALL)
_POLICY = re.compile(r"ValidatingAdmissionPolicy '([^']+)'.*? denied request:? ?(.*)", re.DOTALL)
_WEBHOOK_DOWN = re.compile(r'failed calling webhook "([^"]+)"')
_ACCOUNT = re.compile(r'serviceaccounts? "([^"]+)" not found')
_PRIORITY = re.compile(r"no PriorityClass with name (\S+) was found")
_RANGE = re.compile(
    r"(?:minimum|maximum) [\w./-]+ (?:usage|storage)|max limit to request ratio|limit to request ratio per",
    re.IGNORECASE,
)


def refused(message: str) -> Cause:
    """The cause from the message of C(FailedCreate)."""
    known = _quota(message) or _denied(message) or _missing(message)
    if known:
        return known
    if _RANGE.search(message):
        return Cause("k8s.limit_range", {"message": words(message)})
    if "security context constraint" in message:
        return Cause("k8s.pod_security", {"message": words(message)})
    return Cause("k8s.create_failed", {"message": words(message)})


def _quota(message: str) -> Cause | None:
    found = _QUOTA.search(message)
    if found:
        numbers = dict(zip(("requested", "used", "limited"), map(_amounts, found.groups()[1:]), strict=True))
        return Cause("k8s.quota", {"quota": found[1], **numbers})
    found = _QUOTA_WANTS.search(message)
    return Cause("k8s.quota", {"quota": found[1], "must_specify": words(found[2])}) if found else None


def _denied(message: str) -> Cause | None:
    found = _SECURITY.search(message)
    if found:
        return Cause("k8s.pod_security", {"level": found[1], "message": words(found[2])})
    for pattern in (_WEBHOOK, _POLICY):
        found = pattern.search(message)
        if found:
            return Cause("k8s.admission_denied", {"by": found[1], "message": words(found[2])})
    found = _WEBHOOK_DOWN.search(message)
    evidence: dict[str, Any] = {"by": found[1] if found else "", "down": True, "message": words(message)}
    return Cause("k8s.admission_denied", evidence) if found else None


def _missing(message: str) -> Cause | None:
    for kind, pattern in (("ServiceAccount", _ACCOUNT), ("PriorityClass", _PRIORITY)):
        found = pattern.search(message)
        if found:
            return Cause("k8s.config_missing", {"kind": kind, "name": found[1]})
    return None


def _amounts(text: str) -> dict[str, str]:
    """C(cpu=1,pods=2) as a mapping."""
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
