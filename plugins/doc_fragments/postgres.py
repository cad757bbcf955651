# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How to reach a PostgreSQL."""

from __future__ import annotations


class ModuleDocFragment:
    """Connection options of every PostgreSQL module."""

    DOCUMENTATION = r"""
options:
  dsn:
    description:
      - C(postgresql://[user[:password]@]host[:port]/dbname). Parameters that only an ORM knows are left out.
      - Without O(dsn), O(host) and O(service) the environment counts, E(DATABASE_URL) first, then libpq's own
        variables, service and pass files.
    type: str
  host:
    description: Name or address of the server, or the folder of its Unix socket.
    type: str
  port:
    description: Port of the server.
    type: int
  user:
    description: Role to log in with.
    type: str
  password:
    description: Password. Falls back on E(PGPASSWORD) and the pass file.
    type: str
  dbname:
    description: Database to connect to.
    type: str
  service:
    description: Name of an entry in libpq's service file.
    type: str
  sslmode:
    description:
      - As in libpq. Where nothing says otherwise, V(verify-full) for a server elsewhere and libpq's own default for one
        on this machine.
    type: str
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
  sslrootcert:
    description: File with the authorities to trust; the system's when there is neither this nor libpq's own file.
    type: path
  sslcert:
    description: File with a client certificate.
    type: path
  sslkey:
    description: File with the client certificate's key.
    type: path
  target_session_attrs:
    description: Which of several hosts to take, as in libpq.
    type: str
    choices: [any, read-write, read-only, primary, standby, prefer-standby]
  expect_host:
    description:
      - Regular expression that C(host:port) must match as a whole, so that a wrong variable cannot aim at production.
    type: str
  expect_database:
    description: Regular expression that the name of the database must match as a whole.
    type: str
  connect_timeout:
    description: Seconds to wait for a connection; while no slot is free, as long it is tried again.
    type: float
    default: 5.0
  statement_timeout:
    description: Seconds that one statement may take.
    type: float
    default: 30.0
  lock_timeout:
    description: Seconds that a statement may wait for a lock.
    type: float
    default: 3.0
requirements:
  - psycopg2 >= 2.9 (Python package)
"""
