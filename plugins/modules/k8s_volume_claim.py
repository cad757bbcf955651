#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s_volume_claim
short_description: A volume has at least this size, and so has its filesystem
version_added: 1.0.0
description:
  - States the least size of a PersistentVolumeClaim, and follows its growth until the filesystem has it.
  - Never shrinks one. What cannot grow is refused before the first write, with what is missing.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.k8s
  - sre.runbooks.guard
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  name:
    description: Name of the claim.
    type: str
    required: true
  namespace:
    description: Its namespace.
    type: str
    required: true
  size:
    description: Least size, as Kubernetes writes it, such as V(20Gi).
    type: str
    required: true
  wait:
    description: Wait until the filesystem has the size.
    type: bool
    default: true
  timeout:
    description: Seconds to wait. Providers take from seconds to many minutes.
    type: float
    default: 600
  allow_restart:
    description:
      - Evict the pods that use the claim where its filesystem has not grown in use after a minute, so that it is
        mounted anew. Disruption budgets are kept, and pods that nobody would make again are left alone.
    type: bool
    default: false
  accept_drift:
    description: Grow it although a GitOps tool or an operator owns it, and may try to take it back.
    type: bool
    default: false
  max_count:
    description: Refuse when the claim and the pods to restart are more than this.
    type: int
    default: 5
  max_fraction:
    description: Not used by this module.
    type: float
    default: 1.0
seealso:
  - module: sre.runbooks.k8s_diagnosis_info
"""

EXAMPLES = r"""
- name: The database has 20 GiB
  sre.runbooks.k8s_volume_claim:
    namespace: shop
    name: data-db-0
    size: 20Gi
"""

RETURN = r"""
claim:
  description: The claim, after the wait where there was one, with the size of its filesystem and the pods that use it.
  returned: always
  type: dict
  sample:
    namespace: shop
    name: data-db-0
    phase: Bound
    requested: 20Gi
    size: 20Gi
    storage_class: fast
    volume: pvc-1
    used_by: [db-0]
    resizing: false
    waits_for_mount: false
findings:
  description:
    - V(k8s.claim.resize_failed) where the storage gave up, V(k8s.claim.larger) where it is larger than asked for.
    - V(k8s.claim.template) where new pods of its StatefulSet still get less.
  returned: always
  type: list
  elements: dict
"""

from dataclasses import replace

from ..module_utils._core.guard import guard_options
from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._k8s.claim_growth import grown
from ..module_utils._k8s.client import Kube
from ..module_utils._k8s.product import K8S

SPEC = Spec(
    {
        **{name: {"type": "str", "required": True} for name in ("name", "namespace", "size")},
        "wait": {"type": "bool", "default": True},
        "timeout": {"type": "float", "default": 600},
        "allow_restart": {"type": "bool", "default": False},
        "accept_drift": {"type": "bool", "default": False},
    }
) | guard_options(max_count=5)


def plan(kube: Kube, wanted: Params) -> Plan:
    """A patch of the claim, and a restart of its pods where that is allowed and needed."""
    selector = {name: wanted[name] for name in ("name", "namespace", "size", "allow_restart")}
    return replace(grown(kube, wanted), selector=selector)


DOOR = K8S.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
