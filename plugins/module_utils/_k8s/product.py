# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Kubernetes as a product: the options that all its modules share, and how a door is made."""

from __future__ import annotations

from .._core.door import Product
from .._core.spec import Spec
from .client import connect
from .errors import translate
from .kinds import WORKLOADS

CONNECTION = Spec(
    {
        "kubeconfig": {"type": "path"},
        "context": {"type": "str"},
        "host": {"type": "str"},
        "api_key": {"type": "str", "no_log": True},
        "ca_cert": {"type": "path", "aliases": ["ssl_ca_cert"]},
        "client_cert": {"type": "path", "aliases": ["cert_file"]},
        "client_key": {"type": "path", "no_log": False, "aliases": ["key_file"]},
        "validate_certs": {"type": "bool", "aliases": ["verify_ssl"]},
        "proxy": {"type": "str"},
        "impersonate_user": {"type": "str"},
        "impersonate_groups": {"type": "list", "elements": "str", "default": []},
        "expect_cluster": {"type": "str"},
        "connect_timeout": {"type": "float", "default": 5.0},
        "request_timeout": {"type": "float", "default": 30.0},
    },
    mutually_exclusive=(("host", "kubeconfig"), ("host", "context")),
    required_together=(("client_cert", "client_key"),),
)

#: Which workload is meant.
WORKLOAD = Spec(
    {
        "kind": {"type": "str", "choices": list(WORKLOADS), "default": "Deployment"},
        "name": {"type": "str", "required": True},
        "namespace": {"type": "str", "required": True},
    }
)

K8S = Product("k8s", "kubernetes", CONNECTION, connect, translate)
