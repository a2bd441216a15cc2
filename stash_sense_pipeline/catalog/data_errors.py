"""Errors of the databases that are about the values of a statement, and not about the database itself."""

from __future__ import annotations

import sqlalchemy as sa

# Classes of SQLSTATE: data exception, and program limit exceeded (a row of an index that is too wide).
_ABOUT_DATA = ("22", "54")


def is_about_data(error: Exception) -> bool:
    """Whether a statement failed for the values that it was given, so that other rows can still be stored.

    A database that is locked, full, read-only or gone is another matter. Drivers raise plain ValueError and
    OverflowError for values that they cannot even send.
    """
    if isinstance(error, sa.exc.DBAPIError):
        state = getattr(error.orig, "pgcode", None)
        if state is not None:
            return str(state).startswith(_ABOUT_DATA)
        return isinstance(error, sa.exc.DataError)
    if isinstance(error, sa.exc.StatementError):
        error = error.orig if isinstance(error.orig, Exception) else error
    return isinstance(error, ValueError | OverflowError)
