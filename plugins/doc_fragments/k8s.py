# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How to reach a cluster."""

from __future__ import annotations


class ModuleDocFragment:
    """Connection options of every Kubernetes module."""

    DOCUMENTATION = r"""
options:
  kubeconfig:
    description:
      - Kubeconfig file. Falls back on E(K8S_AUTH_KUBECONFIG), then on E(KUBECONFIG) and C(~/.kube/config).
      - Without any of them, inside a pod, its ServiceAccount is used.
    type: path
  context:
    description: Context of the kubeconfig; its current one when nothing is said. Falls back on E(K8S_AUTH_CONTEXT).
    type: str
  host:
    description:
      - URL of the API server, instead of a kubeconfig.
      - Falls back on E(K8S_AUTH_HOST), but not where O(kubeconfig) or O(context) is given.
    type: str
  api_key:
    description:
      - Bearer token, also in the place of what the kubeconfig has to prove who one is.
      - Falls back on E(K8S_AUTH_API_KEY).
    type: str
  ca_cert:
    description: File with the authorities to trust. Falls back on E(K8S_AUTH_SSL_CA_CERT).
    type: path
    aliases: [ssl_ca_cert]
  client_cert:
    description: File with a client certificate. Falls back on E(K8S_AUTH_CERT_FILE).
    type: path
    aliases: [cert_file]
  client_key:
    description: File with the client certificate's key. Falls back on E(K8S_AUTH_KEY_FILE).
    type: path
    aliases: [key_file]
  validate_certs:
    description: Verify the API server's certificate and name. Falls back on E(K8S_AUTH_VERIFY_SSL), then on yes.
    type: bool
    aliases: [verify_ssl]
  proxy:
    description: URL of an HTTP proxy. Falls back on E(K8S_AUTH_PROXY).
    type: str
  impersonate_user:
    description: User to act as. Falls back on E(K8S_AUTH_IMPERSONATE_USER).
    type: str
  impersonate_groups:
    description: Groups to act as, together with O(impersonate_user).
    type: list
    elements: str
    default: []
  expect_cluster:
    description:
      - Uid of the cluster's namespace C(kube-system), or C(host:port) or host of its API server.
      - Any other cluster is refused, so that a wrong variable cannot aim at production.
    type: str
  connect_timeout:
    description: Seconds to wait for a connection.
    type: float
    default: 5.0
  request_timeout:
    description: Seconds to wait for the answer to one request.
    type: float
    default: 30.0
requirements:
  - kubernetes >= 33 (Python package), but not 37.0.2
  - urllib3 >= 2 (Python package)
"""
