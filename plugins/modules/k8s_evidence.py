#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s_evidence
short_description: The evidence of an incident is kept in a folder
version_added: 1.0.0
description:
  - States that a folder holds what a cluster knows of an incident, so that a remedy may destroy it. Logs of every
    container of every pod in question, init containers and those of before the last restart too, events, manifests,
    usage, and a histogram of the errors by message.
  - The folder appears whole or not at all, readable by its owner only, sealed with the digest of every file. Where it
    is there already, it is compared with its seal and nothing is gathered again.
  - Logs are asked for with bounds and never followed. Passwords, tokens and keys are masked in them, as are variables
    that look like secrets in manifests. Secrets are not read, of ConfigMaps only digests are kept.
  - A container that has not started, and whatever may not be seen, is noted and stops nobody.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.k8s
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  namespace:
    description: Namespace that the evidence is about.
    type: str
    required: true
  selector:
    description: Only pods with these labels, such as V(app=web). Without it and O(name) the whole namespace is meant.
    type: str
  kind:
    description: Kind of the workload O(name).
    type: str
    choices: [Deployment, StatefulSet, DaemonSet]
    default: Deployment
  name:
    description: Only pods that this workload controls.
    type: str
  dest:
    description: Folder for bundles, on the host that the module runs on. It is made where it is not there.
    type: path
    required: true
  incident:
    description: Id of the incident; the bundle's folder below O(dest) has this name.
    type: str
    required: true
  since:
    description:
      - Only lines of logs that are younger than this, such as V(24h).
      - What was said before a container's last restart is kept in any case.
    type: str
  tail:
    description: The latest lines of each log, at most.
    type: int
    default: 10000
  max_bytes:
    description: The largest bundle, such as V(1gb). Logs of pods that do not serve are taken first.
    type: str
    default: 256mb
seealso:
  - module: sre.runbooks.k8s_pod
"""

EXAMPLES = r"""
- name: Keep what there is to know of an incident before anything is restarted
  sre.runbooks.k8s_evidence:
    namespace: shop
    name: web
    dest: /tmp/evidence
    incident: inc-4711
    since: 24h
  register: evidence
"""

RETURN = r"""
evidence:
  description:
    - Where the bundle is, its C(files) and C(bytes), the C(pods) it is about, and the errors in its logs by message.
    - C(said) are answers of the API server in the place of a log, such as that a container has not started.
  returned: always
  type: dict
  sample:
    path: /tmp/evidence/inc-4711
    incident: inc-4711
    files: 19
    bytes: 482133
    pods: [web-5d8f7c9b6-x2x7k]
    histogram:
      lines: 10211
      errors: 418
      messages: 3
      beyond: 0
      top:
        - message: "cannot reach <address>"
          level: error
          count: 400
          containers: 2
          example: "cannot reach 192.0.2.1:5432"
    said: []
findings:
  description:
    - V(k8s.evidence.cut) names logs of which a part had no room, V(k8s.evidence.unseen) what could not be read,
      V(k8s.evidence.no_pods) says that there is no pod in question.
  returned: always
  type: list
  elements: dict
measured:
  description: Files in the bundle, against what was forecast.
  returned: when a bundle was made
  type: dict
"""

from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._k8s.bundle import Place, sealed
from ..module_utils._k8s.client import Kube, Right, demand
from ..module_utils._k8s.evidence import Scope, pods_in
from ..module_utils._k8s.evidence_plan import Incident
from ..module_utils._k8s.kinds import POD
from ..module_utils._k8s.product import K8S

SPEC = Spec(
    {
        "namespace": {"type": "str", "required": True},
        "kind": {"type": "str", "choices": ["Deployment", "StatefulSet", "DaemonSet"], "default": "Deployment"},
        **{name: {"type": "str"} for name in ("selector", "name", "since")},
        "dest": {"type": "path", "required": True},
        "incident": {"type": "str", "required": True},
        "tail": {"type": "int", "default": 10000},
        "max_bytes": {"type": "str", "default": "256mb"},
    },
    mutually_exclusive=(("selector", "name"),),
)


def plan(kube: Kube, wanted: Params) -> Plan:
    """One step that gathers and seals; none where the incident's bundle is there."""
    scope, place = Scope.of(wanted), Place.of(wanted["dest"], wanted["incident"])
    incident = Incident(kube, scope, place)
    found = sealed(place)
    if found is not None:
        return incident.kept(found)
    demand(kube, Right("list", POD, scope.namespace), Right("get", POD, scope.namespace, sub="log"))
    place.check(scope.max_bytes)
    return incident.wanted(pods_in(kube, scope))


DOOR = K8S.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
