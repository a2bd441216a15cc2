"""Evidence in words: what a row of evidence, or a reason, says to a reader who does not know its name in the catalog."""

from __future__ import annotations

from collections.abc import Mapping

from stash_sense_pipeline.identity.linkage.clustering import TOO_WEAK
from stash_sense_pipeline.identity.linkage.evidence import Kind
from stash_sense_pipeline.privacy.intake.adults import STARTED_UNDER_18, UNDER_18, UNREADABLE_DATE
from stash_sense_pipeline.privacy.intake.holding import HELD, HELD_LINKED

_KINDS: Mapping[str, str] = {
    Kind.OVERRIDE: "the overrides say that they are one person",
    Kind.MERGE: "the source merged one into the other",
    Kind.CROSS_LINK: "one lists the other's page",
    Kind.PROFILE: "both list the page",
    Kind.IMAGE: "both show the same picture",
    Kind.NAME_AND_BIRTH_DATE: "name and birth date",
    Kind.FACE: "faces",
    Kind.ATTRIBUTES: "details",
}
# The beginning of the reason of a link between people with records of one source; see identity/linkage/clustering.py.
_TWO_RECORDS = "two live records of "
_WITHHELD: Mapping[str, str] = {
    HELD: "it has the name and birth date of a person on the suppression list, or a refused face",
    HELD_LINKED: "it is linked to a record that is held",
    UNDER_18: "its dates say that the person is under 18",
    STARTED_UNDER_18: "its dates say that the person was under 18 at the beginning of the career",
    UNREADABLE_DATE: "its birth date cannot be read",
}


def fact_in_words(kind: str, key: str) -> str:
    """A row of evidence in words. `kind` is empty for evidence that is in words already."""
    if not kind:
        return key
    said = _KINDS.get(kind, kind)
    if not key or kind == Kind.IMAGE:
        return said
    return f"{said}: {key}"


def reason_in_words(reason: str) -> str:
    """Why the program does not link two records."""
    if reason.startswith(f"{TOO_WEAK}: "):
        weight, _, link = reason.removeprefix(f"{TOO_WEAK}: ").partition(" of ")
        return f"the evidence weighs {weight}; it links at {link}"
    if reason.startswith(_TWO_RECORDS):
        return f"one person would have {reason}"
    return reason


def withheld_in_words(reason: str) -> str:
    """Why a record is withheld."""
    return _WITHHELD.get(reason, reason)
