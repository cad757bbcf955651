# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How to reach a Redis."""

from __future__ import annotations


class ModuleDocFragment:
    """Connection options of every Redis module."""

    DOCUMENTATION = r"""
options:
  url:
    description:
      - C(redis://[user[:password]@]host[:port][/db]), C(rediss://) for TLS, C(unix:///path).
      - Without O(url), O(host) and O(sentinels) the environment counts, E(REDIS_URL) first, then E(REDIS_HOST) and
        E(REDIS_PORT); without those C(127.0.0.1:6379).
    type: str
  host:
    description: Name or address of the server.
    type: str
  port:
    description: Port of the server; V(6379) when nothing says otherwise.
    type: int
  db:
    description: Number of the database; V(0) when nothing says otherwise.
    type: int
  username:
    description: ACL user. Falls back on E(REDIS_USERNAME).
    type: str
  password:
    description: Password. Falls back on E(REDIS_PASSWORD).
    type: str
  tls:
    description: Use TLS. Implied by a C(rediss://) URL.
    type: bool
    default: false
  ca_cert:
    description: File with the authorities to trust instead of the system's. Falls back on E(REDIS_CA_CERT).
    type: path
  cert:
    description: File with a client certificate.
    type: path
  key:
    description: File with the client certificate's key.
    type: path
  validate_certs:
    description: Verify the server's certificate and name.
    type: bool
    default: true
  sentinels:
    description: C(host:port) of Sentinels; the primary that they name is used.
    type: list
    elements: str
  sentinel_service:
    description: Name under which the Sentinels know the primary.
    type: str
  sentinel_password:
    description: Password of the Sentinels themselves.
    type: str
  cluster:
    description:
      - With V(auto) a node of a cluster stands for the cluster, and work is done on every primary of it.
      - With V(never) a node of a cluster is refused.
    type: str
    choices: [auto, never]
    default: auto
  expect_host:
    description:
      - Regular expression that C(host:port) of the server must match as a whole, so that a wrong variable
        cannot aim at production.
    type: str
  connect_timeout:
    description: Seconds to wait for a connection.
    type: float
    default: 5.0
  op_timeout:
    description: Seconds to wait for the answer to one command.
    type: float
    default: 15.0
requirements:
  - redis >= 5.0 (Python package)
"""
