"""The exception tree, the typed outcomes of a request, and how many refusals in a row end a run."""

from __future__ import annotations

from enum import StrEnum

from stash_sense_pipeline.foundation.visible_text import visible

# A run of one site ends after this many refusals in a row without an answer between them: the site blocks this client.
REFUSALS_IN_A_ROW = 3


class StashSenseError(Exception):
    """Base of all errors of this program. Its text is one line: what happened, where, and what to do.

    `exit_code` is the exit status of the command line: 1 for a failure, 2 for usage or configuration. Parts of the
    text come from servers and files, so control characters in it are shown as escapes.
    """

    exit_code = 1

    def __init__(self, *parts: object) -> None:
        super().__init__(*(visible(part) if isinstance(part, str) else part for part in parts))


class ConfigurationError(StashSenseError):
    """A setting, one of the operator's files, or a command-line argument is wrong."""

    exit_code = 2


class InterruptedBuildError(StashSenseError):
    """A signal ended a build. What was in flight is stored, and nothing is published."""

    exit_code = 130


class CatalogError(StashSenseError):
    """The catalog cannot be opened or used: it is corrupt, is another database, or was made by a newer program."""


class LockHeldError(StashSenseError):
    """Another process holds a lock that only one may hold. `holder` is its process id as text, or `unknown`."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"process {holder} holds the lock")
        self.holder = holder


class ModelPackError(StashSenseError):
    """A model pack is missing or incomplete, or its files are not the ones that pack.yaml describes."""

    exit_code = 2


class DeviceError(StashSenseError):
    """The requested compute device is not available."""


class ReleaseError(StashSenseError):
    """A release cannot be built from this catalog, or a release directory or zip violates the contract."""


class ArchiveError(StashSenseError):
    """A zip archive is damaged or has forbidden content. The text does not name the archive: the caller adds the name."""


class DatabaseFileError(StashSenseError):
    """An SQLite file is damaged or has forbidden content. The text does not name the file: the caller adds the name."""


class Outcome(StrEnum):
    """How a request to a source ended. Only outcomes with `is_answer` may change a record or move a watermark."""

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
        """True for an answer of the source. A failure is not an answer, so that it is never taken for an absence."""
        return self in (Outcome.FOUND, Outcome.NOT_FOUND, Outcome.GONE, Outcome.AMBIGUOUS)


class SourceError(StashSenseError):
    """A source gave no usable answer; `outcome` is the kind of failure. The request changed nothing."""

    def __init__(self, source: str, outcome: Outcome, message: str) -> None:
        super().__init__(f"{source}: {message} ({outcome.value})")
        self.source = source
        self.outcome = outcome


class HttpStatusError(SourceError):
    """A server answered with a `status` other than success; `body` is the beginning of its answer."""

    def __init__(self, source: str, outcome: Outcome, message: str, status: int, body: bytes) -> None:
        super().__init__(source, outcome, message)
        self.status = status
        self.body = body


class UnreachableError(SourceError):
    """A host cannot be connected to: its name has no address, or no server answers at the address."""


# Part of the text of the SourceError for a key that the server does not accept.
KEY_REFUSED = "the server refused the key (expired or wrong)"

# The end of the text of a CircuitOpenError. It identifies the error where only the text is available.
CIRCUIT_OPEN = "is left alone for a while"


class CircuitOpenError(SourceError):
    """The circuit of a host is open after too many failures in a row; the request was not sent."""


class BodyTooLargeError(SourceError):
    """An answer is longer than the limit of the request; the rest was not read."""


class LayoutChangedError(SourceError):
    """A page lacks the element that every page of its kind has: the site changed its layout or served another page."""


class UnreadRecordError(SourceError):
    """A source delivered a record that cannot be used. `reason` says why and contains no value of the record."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, Outcome.PARSE_ERROR, f"a record cannot be read: {reason}")
        self.reason = reason


class TrialEndedError(SourceError):
    """A trial has stored the records that it was to read. It ends the reading, and is no failure of the source."""

    def __init__(self, source: str, records: int) -> None:
        super().__init__(source, Outcome.FOUND, f"a trial of {records} records; a later build goes on")


class RobotsRefusalError(SourceError):
    """The host's robots.txt does not allow an address; the request was not sent."""


class RobotsUnreadableError(CircuitOpenError):
    """The host's robots.txt cannot be read, which counts as a refusal; the request was not sent."""
