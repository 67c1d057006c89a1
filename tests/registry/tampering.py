"""What somebody who owns the database can do to it, on either database: past triggers and references."""

from contextlib import contextmanager

from fpvec_audit.registry.database import is_sqlite

TRIGGERS = ("ledger_no_update", "ledger_no_delete", "ledger_no_replace", "ledger_no_truncate")


def on_sqlite(registry) -> bool:
    return is_sqlite(registry.engine.url)


@contextmanager
def unguarded(registry):
    """Give a connection on which no trigger and no reference stops anything."""
    with registry.engine.connect() as connection:
        if on_sqlite(registry):
            driver = connection.connection.driver_connection
            driver.execute("PRAGMA foreign_keys=OFF")
            with connection.begin():
                for trigger in TRIGGERS:
                    connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {trigger}")
                yield connection
        else:
            with connection.begin():
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
                yield connection


def tamper(registry, *statements):
    """Run statements past everything that would stop them."""
    with unguarded(registry) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement if on_sqlite(registry) else statement.replace("%", "%%"))
