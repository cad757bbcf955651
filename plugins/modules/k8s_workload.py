#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s_workload
short_description: A workload's pods are made with these variables, this image, these resources
version_added: 1.0.0
description:
  - States parts of the template of a Deployment, StatefulSet or DaemonSet. Variables and containers go by name, never
    by place; all that is not named is left as it is, in its order.
  - A template that changes replaces all pods, which is said before. One that is as wanted already is not touched.
  - States one key of a ConfigMap or Secret, such as a maintenance flag, and says whom it reaches, and when.
  - The patch is tried on the API server before it is written, so validation, admission and quota refuse in time.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.k8s
  - sre.runbooks.guard
  - sre.runbooks.attributes
  - sre.runbooks.attributes.stateful
options:
  kind:
    description: Kind of the workload.
    type: str
    choices: [Deployment, StatefulSet, DaemonSet]
    default: Deployment
  name:
    description: Name of the workload. One of O(name), O(config_map) and O(secret) has to be given.
    type: str
  namespace:
    description: Its namespace, and that of O(config_map) or O(secret).
    type: str
    required: true
  container:
    description: Container, or init container, that is meant. Needed where there are several.
    type: str
  env:
    description:
      - Environment variables with their values, which have to be strings.
      - For secrets use O(env_from_secret); what stands in a template is no secret.
    type: dict
    default: {}
  env_from_secret:
    description: "Environment variables that come from a Secret: C({NAME: {name: SECRET, key: KEY}})."
    type: dict
    default: {}
  env_from_config:
    description: "Environment variables that come from a ConfigMap: C({NAME: {name: CONFIGMAP, key: KEY}})."
    type: dict
    default: {}
  env_absent:
    description: Environment variables that must not be there.
    type: list
    elements: str
    default: []
  image:
    description: Image of the container.
    type: str
  resources:
    description:
      - "Requests and limits: C({requests: {cpu: 250m, memory: 256Mi}, limits: {memory: 512Mi}})."
      - What is not named stays; V(null) takes one away.
    type: dict
    default: {}
  memory_factor:
    description:
      - The memory limit is at least this many times the largest one under which a pod ran out of memory, up to
        O(memory_ceiling). V(1.5) is half as much again.
      - A request that equals its limit goes with it.
    type: float
  memory_ceiling:
    description: Most memory that may be wanted of the container.
    type: str
  memory_floor:
    description: Least memory that may be wanted of the container.
    type: str
  cpu_ceiling:
    description: Most CPU that may be wanted of the container.
    type: str
  cpu_floor:
    description: Least CPU that may be wanted of the container.
    type: str
  pod_annotations:
    description: Annotations of the pods; V(null) takes one away. All others stay.
    type: dict
    default: {}
  annotations:
    description: Annotations of the workload itself, which replace no pod; V(null) takes one away.
    type: dict
    default: {}
  config_map:
    description: ConfigMap of which O(key) is to have O(value).
    type: str
  secret:
    description: Secret of which O(key) is to have O(secret_value).
    type: str
  key:
    description: Key in O(config_map) or O(secret).
    type: str
  value:
    description: Value that the key of the ConfigMap is to have.
    type: str
  secret_value:
    description: Value that the key of the Secret is to have.
    type: str
  key_absent:
    description: The key must not be there.
    type: bool
    default: false
  expect:
    description:
      - Value that the key has to have before it is changed, or its C(sha256:) digest as a diff shows it.
      - Of a Secret only the digest is taken.
    type: str
  restart:
    description:
      - The pods of O(name) have been started with the value. The pod template gets an annotation with its checksum, so
        exactly one rollout follows each new value.
    type: bool
    default: false
  wait:
    description: Wait until all pods have the template and are available. Fails early where new pods cannot start.
    type: bool
    default: true
  timeout:
    description: Seconds to wait.
    type: float
    default: 300
  accept_drift:
    description: Change it although a GitOps tool or an operator owns it and will take it back.
    type: bool
    default: false
  connections_per_replica:
    description:
      - Connections that each pod may open to its database, pool with overflow. The rollout's surge opens them on top.
      - Together with O(connections_limit) refuses a rollout that the database has no connections for.
    type: int
  connections_limit:
    description: Connections that the database grants, C(max_connections).
    type: int
  connections_reserved:
    description: Connections that the database keeps for others, such as superusers.
    type: int
    default: 0
  connections_other:
    description: Connections of everybody else.
    type: int
    default: 0
  max_count:
    description: Refuse when more objects than this would be changed.
    type: int
    default: 2
  max_fraction:
    description: Not used by this module.
    type: float
    default: 1.0
notes:
  - A ConfigMap or Secret that changes restarts nobody. Mounted files follow within about a minute; variables, and files
    mounted by C(subPath), only in new pods.
seealso:
  - module: sre.runbooks.k8s_rollout
  - module: sre.runbooks.k8s_replicas
"""

EXAMPLES = r"""
- name: The application logs more, and no longer has the old switch
  sre.runbooks.k8s_workload:
    namespace: shop
    name: web
    env: {LOG_LEVEL: debug}
    env_absent: [OLD_SWITCH]

- name: Maintenance is on, and all pods know
  sre.runbooks.k8s_workload:
    namespace: shop
    name: web
    config_map: web-config
    key: MAINTENANCE
    value: "on"
    restart: true

- name: Pods that ran out of memory get half as much again, up to 1 GiB
  sre.runbooks.k8s_workload:
    namespace: shop
    name: web
    memory_factor: 1.5
    memory_ceiling: 1Gi
"""

RETURN = r"""
workload:
  description: The workload as it was found; with C(container), C(image) and C(resources) where a container is meant.
  returned: when O(name) is given
  type: dict
  sample: {kind: Deployment, namespace: shop, name: web, container: app, image: "registry.example/app:1"}
rollout:
  description: How far its rollout is, after the wait where there was one.
  returned: when O(name) is given
  type: dict
  sample: {desired: 3, updated: 3, ready: 3, available: 3, old: 0, complete: true, failed: "", waiting: ""}
config:
  description: The key that is switched, with the digest of its value.
  returned: when O(config_map) or O(secret) is given
  type: dict
  sample: {object: ConfigMap shop/web-config, key: MAINTENANCE, digest: "sha256:a3f1c0ffee12"}
findings:
  description:
    - V(k8s.rollout.follows) or V(k8s.rollout.on_delete) where the template changes, V(k8s.config.no_restart) where pods
      keep an old value, V(k8s.config.not_used) where O(restart) brings nothing, V(k8s.config.new_key) for a new one.
    - V(k8s.env.duplicate), V(k8s.env.reference_order) and V(k8s.env.still_from) for variables.
    - V(k8s.memory.limit_too_low), V(k8s.memory.at_ceiling) and V(k8s.memory.no_limit) with O(memory_factor).
    - V(k8s.qos.changes), V(k8s.hpa.moves), V(k8s.vpa.overrides) and V(k8s.capacity.no_room) for other resources.
    - V(k8s.admission.reverts) and V(k8s.admission.alters) where the cluster makes something else of it, C(k8s.owned.*)
      where its owner will take it back.
  returned: always
  type: list
  elements: dict
"""

from dataclasses import replace

from ..module_utils._core.guard import guard_options
from ..module_utils._core.plan import Plan
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._k8s.client import Kube
from ..module_utils._k8s.product import K8S
from ..module_utils._k8s.template_change import plan_of

TEXTS = (
    "container",
    "image",
    "memory_ceiling",
    "memory_floor",
    "cpu_ceiling",
    "cpu_floor",
    "config_map",
    "secret",
    "key",
)

SPEC = Spec(
    {
        "kind": {"type": "str", "choices": ["Deployment", "StatefulSet", "DaemonSet"], "default": "Deployment"},
        "namespace": {"type": "str", "required": True},
        **{name: {"type": "str", "no_log": False} for name in ("name", *TEXTS, "value", "expect")},
        **{
            name: {"type": "dict", "default": {}, "no_log": False}
            for name in ("env", "env_from_secret", "env_from_config")
        },
        **{name: {"type": "dict", "default": {}} for name in ("resources", "pod_annotations", "annotations")},
        "env_absent": {"type": "list", "elements": "str", "default": []},
        "secret_value": {"type": "str", "no_log": True},
        **{name: {"type": "bool", "default": False} for name in ("key_absent", "restart", "accept_drift")},
        "wait": {"type": "bool", "default": True},
        "memory_factor": {"type": "float"},
        "timeout": {"type": "float", "default": 300},
        "connections_per_replica": {"type": "int"},
        "connections_limit": {"type": "int"},
        "connections_reserved": {"type": "int", "default": 0},
        "connections_other": {"type": "int", "default": 0},
    },
    mutually_exclusive=(("config_map", "secret"), ("value", "secret_value", "key_absent")),
    required_one_of=(("name", "config_map", "secret"),),
    required_together=(("connections_per_replica", "connections_limit"),),
    required_by={"config_map": ("key",), "secret": ("key",), "memory_factor": ("memory_ceiling", "name")},
) | guard_options(max_count=2)


def plan(kube: Kube, wanted: Params) -> Plan:
    """At most two steps: the key of a ConfigMap or Secret, and the template."""
    aside = ("wait", "timeout", "confirm", "approved_plan")
    return replace(plan_of(kube, wanted), selector={name: wanted[name] for name in SPEC.options if name not in aside})


DOOR = K8S.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
