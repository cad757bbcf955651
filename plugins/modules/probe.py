#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: probe
short_description: See whether a URL, a port or a Prometheus query is healthy, once or several times in a row
version_added: 1.1.0
description:
  - Asks a service from outside, as its users do, and says what is wrong and how long each part of the way took.
  - Never fails because of a service that is sick; that is its answer. With O(consecutive) it waits until it is healthy.
  - Of an answer's body only length and digest are kept, and headers that are sent are never shown.
  - It needs nothing but Python. The connection is a new one each time, as that of a new client would be.
author: sre.runbooks contributors (@sre-runbooks)
extends_documentation_fragment:
  - sre.runbooks.attributes
  - sre.runbooks.attributes.info
options:
  url:
    description:
      - The HTTP or HTTPS page to ask for. One that holds a password is refused, see O(username).
      - One of O(url), O(tcp) and O(prometheus_url) is required.
    type: str
  method:
    description: V(HEAD) where the page is large or never ends.
    type: str
    choices: [GET, HEAD]
    default: GET
  headers:
    description: Headers to send, to O(prometheus_url) as well. They do not follow a redirect to another origin.
    type: dict
  username:
    description: User for basic authentication.
    type: str
  password:
    description: Password of O(username).
    type: str
  expect_status:
    description: Statuses of a healthy answer, such as V(200), V(200-299) or V(2xx).
    type: list
    elements: str
    default: [2xx]
  body_regex:
    description: Regular expression that has to match somewhere in the first MiB of the body.
    type: str
  json:
    description: Values that the body, as JSON, has to have, by their paths, such as V(checks.0.status).
    type: dict
  follow:
    description: Redirects to follow at most. Never from HTTPS to HTTP.
    type: int
    default: 0
  tls_warn_days:
    description: Days of a certificate's life below which its end is a finding, which is a warning.
    type: float
    default: 14
  tcp:
    description: The C(host:port) that has to take a connection. A process that hangs takes them too; prefer O(url).
    type: str
  prometheus_url:
    description: Prometheus, or what speaks its API, up to but not with C(/api/v1).
    type: str
  query:
    description:
      - The PromQL that gives an instant vector or a scalar. Every series of it is judged by itself.
      - An empty result, or one that is not a number, is V(probe.no_data) and not zero.
      - C($match) in it stands for the matchers of O(match).
    type: str
  match:
    description: Labels and their values, which are quoted before they stand for C($match).
    type: dict
  below:
    description: Every series has to be below this. One of O(below) and O(above) is required with O(query).
    type: float
  above:
    description: Every series has to be above this.
    type: float
  source:
    description: Selector of the series that O(query) is made of, so that their age is judged. It may hold C($match).
    type: str
  max_age:
    description: Seconds that the newest sample of O(source) may be old.
    type: float
    default: 60
  attempts:
    description: Looks to take. The service is healthy only when all of them are; one of two may be one pod of two.
    type: int
    default: 1
  consecutive:
    description: After O(attempts), wait until this many looks in a row are healthy.
    type: int
  interval:
    description: Seconds between two looks.
    type: float
    default: 0.5
  timeout:
    description: Seconds after which O(consecutive) has failed.
    type: float
    default: 30
  strict:
    description: Fail when O(consecutive) is not reached in time; with V(false) C(verify) only says so.
    type: bool
    default: true
  ca_cert:
    description: File with the authorities to trust.
    type: path
  validate_certs:
    description: Verify the server's certificate and name.
    type: bool
    default: true
  use_proxy:
    description:
      - Use the proxies of E(HTTP_PROXY), E(HTTPS_PROXY) and E(NO_PROXY).
      - This machine itself, and O(tcp), are never asked for through one.
    type: bool
    default: true
  op_timeout:
    description: Seconds that one look may take, from the name to the last byte.
    type: float
    default: 5.0
"""

EXAMPLES = r"""
- name: Is the service healthy, five times out of five?
  sre.runbooks.probe:
    url: http://127.0.0.1:8080/health
    json: {status: ok}
    attempts: 5
    interval: 0.1
  register: seen

- name: Wait for ten healthy answers in a row, and go on without them
  sre.runbooks.probe:
    url: https://127.0.0.1:8443/ready
    expect_status: ["200", "204"]
    consecutive: 10
    timeout: 2
    strict: false

- name: Does the port take connections?
  sre.runbooks.probe:
    tcp: 127.0.0.1:5432

- name: Are fewer than 1 % of the requests errors?
  sre.runbooks.probe:
    prometheus_url: http://127.0.0.1:9090
    query: >-
      sum(rate(http_requests_total{$match, code=~"5.."}[1m])) / sum(rate(http_requests_total{$match}[1m]))
    match: {job: api}
    below: 0.01
"""

RETURN = r"""
healthy:
  description: Whether all of O(attempts) were healthy; after O(consecutive), whether the latest look was.
  returned: always
  type: bool
looks:
  description: How many looks were taken, waiting included.
  returned: always
  type: int
misses:
  description: How many of them were not healthy.
  returned: always
  type: int
answer:
  description:
    - The latest answer, its status, length, digest, content type, address and TLS.
    - C(ms) are the milliseconds of C(dns), C(tcp), C(tls), C(answer) (to the first byte) and C(body).
    - Through a proxy, C(dns), C(tcp) and the address are the proxy's.
  returned: for a URL or a port
  type: dict
  sample:
    status: 200
    length: 15
    cut: false
    digest: "sha256:3c9b2f1d0a44"
    type: application/json
    address: 192.0.2.17
    ms: {dns: 0.4, tcp: 0.6, tls: 3.1, answer: 2.2, body: 0.1}
    tls: {version: TLSv1.3, expires: "2030-01-31T18:00:00Z", days_left: 57.3}
    redirects: 0
series:
  description: The first twenty series of a query, each with labels and value.
  returned: for a query that was answered
  type: list
  elements: dict
series_count:
  description: How many series there are.
  returned: for a query that was answered
  type: int
findings:
  description:
    - V(probe.dns), V(probe.refused), V(probe.timeout), V(probe.no_route), V(probe.reset), V(probe.tls),
      V(probe.protocol) and V(probe.proxy) where no answer came.
    - V(probe.status) and V(probe.body) where it was not the right one.
    - V(probe.threshold), V(probe.no_data) and V(probe.stale) for a query.
    - V(probe.tls_expiring) and V(probe.warnings) are warnings.
    - They are those of O(attempts); how waiting for O(consecutive) ended is in C(verify).
  returned: always
  type: list
  elements: dict
"""

from ..module_utils._core.plan import Plan, Target
from ..module_utils._core.run import run
from ..module_utils._core.spec import Params, Spec
from ..module_utils._probe.client import Net
from ..module_utils._probe.product import PROBE
from ..module_utils._probe.watch import watch_of

SPEC = Spec(
    {
        "url": {"type": "str"},
        "method": {"type": "str", "choices": ["GET", "HEAD"], "default": "GET"},
        "headers": {"type": "dict", "no_log": True},
        "username": {"type": "str"},
        "password": {"type": "str", "no_log": True},
        "expect_status": {"type": "list", "elements": "str", "default": ["2xx"]},
        "body_regex": {"type": "str"},
        "json": {"type": "dict"},
        "follow": {"type": "int", "default": 0},
        "tls_warn_days": {"type": "float", "default": 14},
        "tcp": {"type": "str"},
        "prometheus_url": {"type": "str"},
        **{name: {"type": "str"} for name in ("query", "source")},
        "match": {"type": "dict"},
        **{name: {"type": "float"} for name in ("below", "above")},
        "max_age": {"type": "float", "default": 60},
        "attempts": {"type": "int", "default": 1},
        "consecutive": {"type": "int"},
        "interval": {"type": "float", "default": 0.5},
        "timeout": {"type": "float", "default": 30},
        "strict": {"type": "bool", "default": True},
    },
    mutually_exclusive=(("url", "tcp", "prometheus_url"),),
    required_one_of=(("url", "tcp", "prometheus_url"),),
    required_together=(("prometheus_url", "query"),),
    required_by={"query": ["prometheus_url"], "password": ["username"]},
)


def plan(net: Net, wanted: Params) -> Plan:
    """A plan without steps: what was seen, and what to wait for."""
    watch = watch_of(net, wanted)
    found = watch.several(wanted["attempts"], wanted["interval"])
    return Plan(
        target=Target("endpoint", watch.origin, watch.origin),
        findings=found,
        facts=watch.facts,
        verify=watch.steady(wanted),
    )


DOOR = PROBE.door(SPEC, plan)


def main() -> None:
    run(DOOR)


if __name__ == "__main__":
    main()
