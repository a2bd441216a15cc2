"""The exception tree, the typed outcomes of a request, and how many refusals in a row end a run."""

from __future__ import annotations

from enum import StrEnum

from stash_sense_pipeline.foundation.visible_text import visible

# Refused so often in a row, with nothing answered between: the site means us.
REFUSALS_IN_A_ROW = 3


class StashSenseError(Exception):
    """Base of all errors of this program. Its text is one line: what happened, where, and what to do.

    `exit_code` is what the command line returns: 1 failed, 2 usage or configuration. Control characters in the text are
    shown as escapes, as parts of it come from servers and files.
    """

    exit_code = 1

    def __init__(self, *parts: object) -> None:
        super().__init__(*(visible(part) if isinstance(part, str) else part for part in parts))


class ConfigurationError(StashSenseError):
    """A setting, a file of the operator's, or a command-line argument is wrong."""

    exit_code = 2


class CatalogError(StashSenseError):
    """The catalog cannot be opened or does not hold what it must: corrupt, foreign, or of a newer program."""


class ModelPackError(StashSenseError):
    """A model pack is missing, incomplete, or its files are not the ones that pack.yaml describes."""

    exit_code = 2


class DeviceError(StashSenseError):
    """The compute device that was asked for is not there."""


class ReleaseError(StashSenseError):
    """A release cannot be built from this catalog, or a release directory or zip breaks the contract."""


class ArchiveError(StashSenseError):
    """A zip archive is damaged, or holds what it must not. The text does not name the archive: its reader does."""


class DatabaseFileError(StashSenseError):
    """An SQLite file is damaged, or holds what it must not. The text does not name the file: its reader does."""


class Outcome(StrEnum):
    """How a request to a source ended. Only `ANSWERED` outcomes may change a record or move a watermark."""

    FOUND = "found"
    NOT_FOUND = "not_found"
    GONE = "gone"
    AMBIGUOUS = "ambiguous"
    BLOCKED = "blocked"
    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"
    PARSE_ERROR = "parse_error"
    DISALLOWED = "disallowed"

    @property
    def is_answer(self) -> bool:
        """True for a real answer of the source; a failure never looks like an absence."""
        return self in (Outcome.FOUND, Outcome.NOT_FOUND, Outcome.GONE, Outcome.AMBIGUOUS)


class SourceError(StashSenseError):
    """A source gave no usable answer; `outcome` says of which kind. Nothing was changed because of it."""

    def __init__(self, source: str, outcome: Outcome, message: str) -> None:
        super().__init__(f"{source}: {message} ({outcome.value})")
        self.source = source
        self.outcome = outcome


class HttpStatusError(SourceError):
    """A server answered with `status`, which is not success; `body` is the beginning of its answer."""

    def __init__(self, source: str, outcome: Outcome, message: str, status: int, body: bytes) -> None:
        super().__init__(source, outcome, message)
        self.status = status
        self.body = body


class UnreachableError(SourceError):
    """No connection to a host came about: its name has no address, or nothing answers there."""


# How the text of a CircuitOpenError ends, also where only its text is handed on.
LEFT_ALONE = "is left alone for a while"


class CircuitOpenError(SourceError):
    """A host failed so often in a row that it is left alone for a while; the request was not sent."""


class BodyTooLargeError(SourceError):
    """An answer is longer than was asked for; it was not read to its end."""


class LayoutChangedError(SourceError):
    """A page lacks the mark that every page of its kind has: the site was rebuilt, or it shows us something else."""


class UnreadRecordError(SourceError):
    """A record came and cannot be used; `reason` says why, without a value of the record."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, Outcome.PARSE_ERROR, f"a record cannot be read: {reason}")
        self.reason = reason


class RobotsRefusalError(SourceError):
    """The host's robots.txt does not allow an address; the request was not sent."""


class RobotsUnreadableError(CircuitOpenError):
    """The host's robots.txt cannot be read, which means no; the request was not sent."""
