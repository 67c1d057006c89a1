"""What a server says while it is away, so that whoever can wait does: as PostgreSQL 15 and libpq word it."""

import pytest
from sqlalchemy.exc import OperationalError

from fpvec_audit.errors import RegistryAwayError
from fpvec_audit.registry.database import translated

HERE = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    "message",
    [
        f"{HERE}Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
        f"{HERE}FATAL:  the database system is starting up",
        f"{HERE}FATAL:  the database system is not yet accepting connections",
        f"{HERE}FATAL:  the database system is not accepting connections",
        f"{HERE}FATAL:  the database system is in recovery mode",
        f"{HERE}FATAL:  the database system is shutting down",
        f"{HERE}FATAL:  sorry, too many clients already",
        f"{HERE}timeout expired",
        f"{HERE}No route to host",
        f"{HERE}Connection reset by peer",
        "could not translate host name 'db' to address: Temporary failure in name resolution",
        "terminating connection due to unexpected postmaster exit",
        "consuming input failed: server closed the connection unexpectedly",
        "the connection is lost",
    ],
)
def test_server_that_may_be_back_is_away(message):
    error = translated(OperationalError("SELECT secret", {"secret": "hidden"}, Exception(message)), "here")
    assert isinstance(error, RegistryAwayError)
    assert "failed" not in error.problem.partition(" (")[0]
    assert "hidden" not in str(error)


def test_server_that_refuses_is_not_away():
    error = translated(OperationalError("", {}, Exception(f'{HERE}FATAL:  database "x" does not exist')), "here")
    assert not isinstance(error, RegistryAwayError)
