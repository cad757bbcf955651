# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pods and nodes of the lab do, as rules for KWOK: a pod behaves as its template says.

So a rollout fails because of its template, and a rollback heals it. For each container:

- image with `missing` in its name: not found; with `private`: no credentials
- environment FAULT=crash, oom, liveness: ends again and again; notready: never ready; slow: ready after 5 s;
  config, or a reference to something called `absent`: CreateContainerConfigError; hang: a Job that does not end
- a volume of a Secret or ConfigMap called `absent...`: stays in ContainerCreating

An init container with a fault holds back the others. KWOK makes no Events: `kubernetes_faults` does.
"""

from __future__ import annotations

from typing import Any

#: A node with this annotation is left as it is, whatever its conditions say.
NODE_FAULT = "lab.sre-runbooks/fault"
MOST_RESTARTS = 5
SLOW_SECONDS = 5

_FAULT_OF = r"""
def fault: if (.image | test("missing")) then "missing" elif (.image | test("private")) then "private"
  elif any(.env[]?; .name == "FAULT") then (.env[] | select(.name == "FAULT") | .value)
  elif any(.env[]?, .envFrom[]?; tostring | test("absent")) then "config" else empty end;
"""
_CLASS = (
    _FAULT_OF
    + r"""([.spec.containers[] | fault][0] // "fine") as $fault
| if any(.metadata.ownerReferences[]?; .kind == "Job") then "job-" + $fault else $fault end"""
)
_MORE_TO_COME = rf"""any(.status.initContainerStatuses[]?, .status.containerStatuses[]?;
  .state.waiting.reason == "ErrImagePull"
  or (.state.waiting.reason == "CrashLoopBackOff" and .restartCount < {MOST_RESTARTS})) | tostring"""

_FAULT = r"""
{{ $fault := "" }}
{{ range .env }}{{ if contains "absent" (toJson .) }}{{ $fault = "config" }}{{ end }}{{ end }}
{{ range .envFrom }}{{ if contains "absent" (toJson .) }}{{ $fault = "config" }}{{ end }}{{ end }}
{{ range .env }}{{ if eq .name "FAULT" }}{{ $fault = .value }}{{ end }}{{ end }}
{{ if contains "private" .image }}{{ $fault = "private" }}{{ end }}
{{ if contains "missing" .image }}{{ $fault = "missing" }}{{ end }}
{{ $ends := or (eq $fault "crash") (eq $fault "oom") (eq $fault "liveness") }}
{{ $pull := or (eq $fault "missing") (eq $fault "private") }}
"""
_PULL = r"""
{{ $why := printf "failed to pull and unpack image %s: %s: not found" (Quote .image) .image }}
{{ if eq $fault "private" }}
{{ $why = printf "failed to pull and unpack image %s: failed to authorize: 401 Unauthorized" (Quote .image) }}
{{ end }}
{{ $reason := "ErrImagePull" }}
{{ if $was.state }}
{{ $reason = "ImagePullBackOff" }}
{{ $why = printf "Back-off pulling image %s: ErrImagePull: %s" (Quote .image) $why }}
{{ end }}
  restartCount: 0
  ready: false
  started: false
  state: {waiting: {reason: {{ Quote $reason }}, message: {{ Quote $why }}}}
"""
_ENDS = r"""
{{ $code := 1 }}{{ $reason := "Error" }}
{{ if eq $fault "oom" }}{{ $code = 137 }}{{ $reason = "OOMKilled" }}{{ end }}
{{ if eq $fault "liveness" }}{{ $code = 137 }}{{ end }}
  restartCount: {{ min __MOST__ (add 1 (int (or $was.restartCount 0))) }}
  ready: false
  started: false
  lastState:
    terminated:
      exitCode: {{ $code }}
      reason: {{ Quote $reason }}
      startedAt: {{ Quote $now }}
      finishedAt: {{ Quote $now }}
  state:
    waiting:
      reason: CrashLoopBackOff
      message: >-
        back-off 20s restarting failed container={{ .name }} pod={{ $pod.name }}_{{ $pod.namespace }}({{ $pod.uid }})
"""
_BLOCKED = r"""
  restartCount: 0
  ready: false
  started: false
"""
_STATUSES = r"""
{{ $held := "" }}{{ $ready := true }}{{ $pending := false }}
{{ range .spec.volumes }}
{{ if contains "absent" (toJson (list .secret .configMap)) }}{{ $held = "ContainerCreating" }}{{ end }}
{{ end }}
initContainerStatuses:
{{ range $index, $item := .spec.initContainers }}
{{ with $item }}{{ $was := dict }}
{{ if $root.status.initContainerStatuses }}{{ $was = index $root.status.initContainerStatuses $index }}{{ end }}
__FAULT__
- name: {{ Quote .name }}
  image: {{ Quote .image }}
  imageID: ""
{{ if $held }}__BLOCKED__
  state: {waiting: {reason: PodInitializing}}
{{ else if $pull }}{{ $held = "PodInitializing" }}__PULL__
{{ else if eq $fault "config" }}{{ $held = "PodInitializing" }}__BLOCKED__
  state: {waiting: {reason: CreateContainerConfigError, message: 'secret "absent" not found'}}
{{ else if $ends }}{{ $held = "PodInitializing" }}__ENDS__
{{ else if eq .restartPolicy "Always" }}
  restartCount: 0
  ready: true
  started: true
  state: {running: {startedAt: {{ Quote $now }}}}
{{ else }}
  restartCount: 0
  ready: true
  started: false
  state: {terminated: {exitCode: 0, reason: Completed, startedAt: {{ Quote $now }}, finishedAt: {{ Quote $now }}}}
{{ end }}{{ end }}{{ end }}
containerStatuses:
{{ range $index, $item := .spec.containers }}
{{ with $item }}{{ $was := dict }}
{{ if $root.status.containerStatuses }}{{ $was = index $root.status.containerStatuses $index }}{{ end }}
__FAULT__
- name: {{ Quote .name }}
  image: {{ Quote .image }}
  imageID: ""
{{ if $held }}{{ $ready = false }}__BLOCKED__
  state: {waiting: {reason: {{ Quote $held }}}}
{{ else if $pull }}{{ $ready = false }}{{ $pending = true }}__PULL__
{{ else if eq $fault "config" }}{{ $ready = false }}{{ $pending = true }}__BLOCKED__
  state: {waiting: {reason: CreateContainerConfigError, message: 'secret "absent" not found'}}
{{ else if $ends }}{{ $ready = false }}__ENDS__
{{ else }}
{{ $here := not (or (eq $fault "notready") (and (eq $fault "slow") (not $was.state))) }}
{{ if not $here }}{{ $ready = false }}{{ end }}
  restartCount: 0
  ready: {{ $here }}
  started: true
  state: {running: {startedAt: {{ Quote $now }}}}
{{ end }}{{ end }}{{ end }}
"""
_PLACE = r"""
conditions:
- type: Initialized
  lastTransitionTime: {{ Quote $now }}
  status: {{ if eq $held "PodInitializing" }}"False"
  reason: ContainersNotInitialized{{ else }}"True"{{ end }}
{{ range list "Ready" "ContainersReady" }}
- type: {{ . }}
  lastTransitionTime: {{ Quote $now }}
  status: {{ if $ready }}"True"{{ else }}"False"
  reason: ContainersNotReady
  message: 'containers with unready status: [{{ range $index, $item := $root.spec.containers -}}
    {{ if $index }} {{ end }}{{ .name }}{{ end }}]'{{ end }}
{{ end }}
{{ range .spec.readinessGates }}
- {type: {{ Quote .conditionType }}, lastTransitionTime: {{ Quote $now }}, status: "True"}
{{ end }}
{{ with NodeIPsWith .spec.nodeName }}
hostIP: {{ Quote (index . 0) }}
hostIPs: [{{ range . }}{ip: {{ Quote . }}}{{ end }}]
{{ end }}
{{ if not .status.podIP }}
{{ with PodIPsWith .spec.nodeName (or .spec.hostNetwork false) $pod.uid $pod.name $pod.namespace }}
podIP: {{ Quote (index . 0) }}
podIPs: [{{ range . }}{ip: {{ Quote . }}}{{ end }}]
{{ end }}
{{ end }}
phase: {{ if or $held $pending }}Pending{{ else }}Running{{ end }}
startTime: {{ Quote (or .status.startTime $now) }}
"""
_COMPLETED = r"""
{{ $now := Now }}
conditions:
- {type: Ready, status: "False", reason: PodCompleted, lastTransitionTime: {{ Quote $now }}}
- {type: ContainersReady, status: "False", reason: PodCompleted, lastTransitionTime: {{ Quote $now }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ Quote .name }}
  image: {{ Quote .image }}
  imageID: ""
  ready: false
  started: false
  restartCount: 0
  state:
    terminated: {exitCode: __CODE__, reason: __REASON__, startedAt: {{ Quote $now }}, finishedAt: {{ Quote $now }}}
{{ end }}
phase: __PHASE__
"""


def stages() -> list[dict[str, Any]]:
    """The rules for pods; those for nodes come with KWOK, but for `node_rule`."""
    alive = _when(".metadata.deletionTimestamp", "DoesNotExist")
    pending = _when(".status.phase", "In", "Pending")
    running = _when(".status.phase", "In", "Running")
    fresh = _when(".status.containerStatuses", "DoesNotExist")
    done = _filled(_COMPLETED, CODE="0", REASON="Completed", PHASE="Succeeded")
    failed = _filled(_COMPLETED, CODE="1", REASON="Error", PHASE="Failed")
    fails = _when(_CLASS, "In", "job-crash")
    return [
        _stage("pod-start", [alive, pending, fresh, _when(_CLASS, "NotIn", "job-crash")], _status()),
        _stage("pod-step", [alive, _when(_MORE_TO_COME, "In", "true")], _steps(), 1000),
        _stage("pod-slow", [alive, running, _unready(), _when(_CLASS, "In", "slow")], _status(), SLOW_SECONDS * 1000),
        _stage("pod-complete", [alive, running, _when(_CLASS, "In", "job-fine")], done, 200),
        _stage("pod-fail", [alive, pending, fails], failed, 200),
        {**_stage("pod-delete", [_when(".metadata.deletionTimestamp", "Exists")]), "next": {"delete": True}},
    ]


def documents() -> list[dict[str, Any]]:
    """The rules as objects of the cluster."""
    return [_document(stage) for stage in stages()]


def node_rule(shipped: dict[str, Any]) -> dict[str, Any]:
    """KWOK's own rule makes every node Ready again: ours spares those that a fault has taken."""
    spared = _when(f'.metadata.annotations["{NODE_FAULT}"]', "DoesNotExist")
    spec = shipped["spec"]
    expressions = [*spec["selector"]["matchExpressions"], spared]
    return {**shipped, "spec": {**spec, "selector": {"matchExpressions": expressions}}}


def _document(stage: dict[str, Any]) -> dict[str, Any]:
    name = stage.pop("name")
    spec = {"resourceRef": {"apiGroup": "v1", "kind": "Pod"}, **stage}
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}


def _stage(name: str, when: list[dict[str, Any]], template: str = "", milliseconds: int = 0) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "selector": {"matchExpressions": when}}
    if milliseconds:
        made["delay"] = {"durationMilliseconds": milliseconds}
    return {**made, "next": {"statusTemplate": template}}


def _when(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": " ".join(key.split()), "operator": operator, **({"values": list(values)} if values else {})}


def _unready() -> dict[str, Any]:
    return _when('.status.conditions.[] | select( .type == "Ready" ) | .status', "NotIn", "True")


def _status() -> str:
    return _steps() + _PLACE


def _steps() -> str:
    ends = _filled(_ENDS, MOST=str(MOST_RESTARTS))
    inner = _filled(_STATUSES, FAULT=_FAULT, BLOCKED=_BLOCKED, PULL=_PULL, ENDS=ends)
    return "{{ $now := Now }}{{ $root := . }}{{ $pod := .metadata }}\n" + inner


def _filled(text: str, **parts: str) -> str:
    for name, part in parts.items():
        text = text.replace(f"__{name}__", part)
    return text
