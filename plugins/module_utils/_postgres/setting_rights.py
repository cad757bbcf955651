# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether this role, on this service, through this connection, may change a setting; asked before the first write."""

from __future__ import annotations

from .._core.errors import Kind, OpsError
from .client import Postgres, primary_only
from .setting_scopes import Scope
from .settings import Known

#: Who changes the settings of the whole server where the service does not let ALTER SYSTEM through.
_ELSEWHERE = {
    "rds": "Change the parameter group: amazon.aws.rds_instance_param_group, or rds_cluster_param_group for Aurora.",
    "azure": "Change the server parameter: azure.azcollection.azure_rm_postgresqlconfiguration.",
    "cloudsql": "Change the instance's database flags: google.cloud.gcp_sql_instance, settings.database_flags.",
    "digitalocean": "Change the cluster's configuration in the control panel, or through its API.",
    "aiven": "Change the service's advanced configuration.",
    "supabase": "Change it with supabase postgres-config update.",
    "neon": "It is fixed there; scope=role or scope=database may be open.",
}

#: Roles that only the services have, by service: their servers may hide behind names of one's own.
_MARKS = {
    "rds_superuser": "rds",
    "azure_pg_admin": "azure",
    "cloudsqlsuperuser": "cloudsql",
    "doadmin": "digitalocean",
    "neon_superuser": "neon",
    "supabase_admin": "supabase",
}

_SYSTEM = """
SELECT {parameter} AS may, has_function_privilege('pg_reload_conf()', 'EXECUTE') AS may_reload,
       coalesce(current_setting('allow_alter_system', true), 'on') = 'on' AS allowed,
       (SELECT min(rolname::text) FROM pg_roles WHERE rolname = ANY(%(marks)s)) AS mark
"""

# Who may change a role: himself, or whoever may create roles, from version 16 on only those given to him to administer.
_PERSONAL = """
SELECT %(role)s = '' OR r.oid IS NOT NULL AS has_role, %(database)s = '' OR d.oid IS NOT NULL AS has_database,
       me.rolsuper OR coalesce(CASE WHEN %(role)s = '' THEN pg_has_role(d.datdba, 'USAGE')
         ELSE r.oid = me.oid OR (me.rolcreaterole AND NOT r.rolsuper AND {admin}) END, false) AS may,
       me.rolsuper OR %(context)s <> 'superuser' OR {parameter} AS may_set,
       (SELECT count(*) FROM pg_stat_activity a
         WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
           AND (%(role)s = '' OR a.usename = %(role)s) AND (%(database)s = '' OR a.datname = %(database)s)) AS sessions
  FROM pg_roles me LEFT JOIN pg_roles r ON r.rolname = %(role)s LEFT JOIN pg_database d ON d.datname = %(database)s
 WHERE me.rolname = current_user
"""

_GRANT = "Be a superuser"


def require(postgres: Postgres, known: Known, scope: Scope, *, steps: bool, reload: bool) -> int:
    """Raises where a change would be refused, so that check mode knows it too, and for a scope that is not there.

    C(steps) says whether there is something to change. Returns how many sessions of the role or database are open.
    """
    if not scope.is_system:
        return _require_personal(postgres, known, scope, steps=steps)
    if steps:
        _require_system(postgres, known, reload=reload)
    return 0


def _require_system(postgres: Postgres, known: Known, *, reload: bool) -> None:
    parameter = "has_parameter_privilege(%(name)s, 'ALTER SYSTEM')" if postgres.major >= 15 else str(postgres.superuser)
    values = {"name": known.name, "marks": list(_MARKS)}
    (row,) = postgres.session.rows(_SYSTEM.format(parameter=parameter), values)
    managed = postgres.target.managed or _MARKS.get(row["mark"] or "", "")
    if managed and not postgres.superuser:
        text = f"{postgres.target.name} is run by {managed}, which forbids ALTER SYSTEM"
        raise OpsError(Kind.UNSUPPORTED, text, _ELSEWHERE[managed], code="managed")
    if not row["allowed"]:
        text = "ALTER SYSTEM is not allowed here (allow_alter_system)"
        raise OpsError(Kind.UNSUPPORTED, text, "Change the configuration where it is kept.", code="managed")
    if postgres.session.pooled:
        hint = "Give the server's own address: ALTER SYSTEM cannot stand in a transaction."
        raise OpsError(Kind.UNSUPPORTED, "this does not work through a connection pooler", hint, code="pooled")
    if not row["may"]:
        grant = f"{_GRANT}, or from PostgreSQL 15 on GRANT ALTER SYSTEM ON PARAMETER {known.name}."
        raise OpsError(Kind.FORBIDDEN, f"{postgres.user} may not ALTER SYSTEM", grant, code="privilege")
    if reload and not row["may_reload"]:
        grant = f"{_GRANT}, GRANT EXECUTE ON FUNCTION pg_reload_conf(), or say reload=false."
        raise OpsError(Kind.FORBIDDEN, f"{postgres.user} may not reload the configuration", grant, code="privilege")


def _require_personal(postgres: Postgres, known: Known, scope: Scope, *, steps: bool) -> int:
    new = postgres.major >= 15 and bool(known.source)
    row = postgres.session.rows(
        _PERSONAL.format(
            admin="pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION')" if postgres.major >= 16 else "true",
            parameter="has_parameter_privilege(%(name)s, 'SET')" if new else "false",
        ),
        {"role": scope.role, "database": scope.database, "context": known.context, "name": known.name},
    )[0]
    if not row["has_role"]:
        raise OpsError(Kind.NOT_FOUND, f"there is no role {scope.role}", "Check the name.", code="no_such_role")
    if not row["has_database"]:
        text = f"there is no database {scope.database}"
        raise OpsError(Kind.NOT_FOUND, text, "Check the name.", code="no_such_database")
    if steps:
        primary_only(postgres)
    if steps and not row["may"]:
        hint = "A role's settings are for itself and whoever may administer it, a database's for its owner."
        raise OpsError(Kind.FORBIDDEN, f"{postgres.user} may not change settings of {scope}", hint, code="privilege")
    if steps and not row["may_set"]:
        grant = f"{_GRANT}, or from PostgreSQL 15 on GRANT SET ON PARAMETER {known.name}."
        raise OpsError(Kind.FORBIDDEN, f"{known.name} is for superusers", grant, code="privilege")
    return int(row["sessions"])
