"""Tells database errors about the values of a statement from errors of the database itself."""

from __future__ import annotations

import sqlalchemy as sa

# Classes of SQLSTATE: data exception, and program limit exceeded (an index row that is too wide).
_ABOUT_DATA = ("22", "54")


def is_about_data(error: Exception) -> bool:
    """True when a statement failed because of its values, so that other rows can still be stored.

    False when the database is locked, full, read-only or unreachable. Drivers raise ValueError and OverflowError for
    values that they cannot send.
    """
    if isinstance(error, sa.exc.DBAPIError):
        state = getattr(error.orig, "pgcode", None)
        if state is not None:
            return str(state).startswith(_ABOUT_DATA)
        return isinstance(error, sa.exc.DataError)
    if isinstance(error, sa.exc.StatementError):
        error = error.orig if isinstance(error.orig, Exception) else error
    return isinstance(error, ValueError | OverflowError)
