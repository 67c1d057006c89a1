"""Who may do what on PostgreSQL: the roles *auditor* and *custodian*, as the migration grants them.

An auditor's login reads everything but what is sealed, and adds audits that were handed over; a custodian's reads and
writes what the registry needs. Neither changes the ledger's past or the schema: that is left to the owner of the
tables. The grants themselves are made by the function ``fpvec_grant_roles()`` of the database (migration 0004), which
an administrator can call again. An embedded registry has no roles: whoever reads its file has it all.
"""

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from fpvec_audit.registry.database import describe, is_postgresql, reading, translated

AUDITOR, CUSTODIAN = "fpvec_auditor", "fpvec_custodian"
SECRET_COLUMNS = (("vault_secret", "ciphertext"), ("data_key", "wrapped"), ("audit_record", "content"))
"""What an auditor may not read."""
_HISTORY = ("ledger", "recorded_audit")


def missing_rights(connection: Connection) -> tuple[str, ...]:
    """Return what an administrator must run so that both roles can be used, in sentences; empty when nothing."""
    if not is_postgresql(connection.engine.url):
        return ()
    lacking = [role for role in (AUDITOR, CUSTODIAN) if not _exists(connection, role)]
    unready = [
        role
        for role in (AUDITOR, CUSTODIAN)
        if role not in lacking and not _allowed(connection, "has_table_privilege", role, "ledger", "INSERT")
    ]
    if not lacking and not unready:
        return ()
    makes = "".join(f"CREATE ROLE {role} NOLOGIN; " for role in lacking)
    return (
        f"the roles {', '.join(lacking + unready)} cannot be used: let an administrator of the server run "
        f"`{makes}SELECT fpvec_grant_roles();` in this database",
    )


def excess_rights(connection: Connection) -> tuple[str, ...]:
    """Return which rights a role has that it must not have, in sentences."""
    if not is_postgresql(connection.engine.url):
        return ()
    found = []
    for role in (AUDITOR, CUSTODIAN):
        if not _exists(connection, role):
            continue
        found += [
            f"the role {role} may {right} {table}: take that back with `REVOKE {right} ON {table} FROM {role}`"
            for table in _HISTORY
            for right in ("UPDATE", "DELETE", "TRUNCATE")
            if _allowed(connection, "has_table_privilege", role, table, right)
        ]
    if _exists(connection, AUDITOR):
        found += [
            f"the role {AUDITOR} may read {table}.{column}: take that back with `REVOKE SELECT ON {table} FROM "  # noqa: S608
            f"{AUDITOR}`, then run `SELECT fpvec_grant_roles()`"
            for table, column in SECRET_COLUMNS
            if _allowed(connection, "has_column_privilege", AUDITOR, table, column, "SELECT")
        ]
    return tuple(found)


def owns_tables(engine: Engine) -> bool:
    """Return whether this login may do what only the owner of the tables may, such as writing them anew."""
    if not is_postgresql(engine.url):
        return True
    statement = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'vault_secret'::regclass"
    try:
        with reading(engine).connect() as connection, connection.begin():
            return bool(connection.scalar(text(statement)))
    except SQLAlchemyError as error:
        raise translated(error, describe(engine.url)) from error


def _exists(connection: Connection, role: str) -> bool:
    return bool(connection.scalar(text("SELECT to_regrole(:role) IS NOT NULL"), {"role": role}))


def _allowed(connection: Connection, function: str, *arguments: str) -> bool:
    names = [f"argument_{number}" for number in range(len(arguments))]
    statement = f"SELECT {function}({', '.join(f'CAST(:{name} AS text)' for name in names)})"
    return bool(connection.scalar(text(statement), dict(zip(names, arguments, strict=True))))
