"""How a long step tells how far it is; whether that becomes a log line or a bar is the caller's."""

from __future__ import annotations

from collections.abc import Callable

# (stage, items done, items in all or None where nobody knows)
Progress = Callable[[str, int, int | None], None]
