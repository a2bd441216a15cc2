"""Data minimisation: drops the private fields of a source's record before it is stored or logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Labels in lower case without blanks and punctuation: "Birth name", birth_name and birthName are the same.
_NAMES_OFF_STAGE = """
    fullname legalname realname birthname nameatbirth bornas maidenname givenname firstname middlename
    lastname surname familyname
"""
_ORIGIN_AND_CONTACT = """
    born birthplace birthplacecode placeofbirth birthcity birthcountry hometown residence address city email
    emailaddress phone phonenumber telephone
"""
_PRIVATE_LIFE = """
    religion spouse partner children relatives siblings parents education astrology zodiac starsign
"""
# Free text may hold all of the above.
_FREE_TEXT = """
    bio biography about aboutme abouttext description descriptions details summary comment comments note notes
    trivia text freetext interview quote quotes
"""
_PRIVATE_LABELS = frozenset(f"{_NAMES_OFF_STAGE} {_ORIGIN_AND_CONTACT} {_PRIVATE_LIFE} {_FREE_TEXT}".split())


def drop_private_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a source's record (JSON values) without fields that the database has no use for.

    Dropped at any depth, with everything below them: legal names, birthplaces and residences, contact, private life,
    free text.
    """
    return {key: _kept(value) for key, value in raw.items() if _folded(key) not in _PRIVATE_LABELS}


def _kept(value: Any) -> Any:
    if isinstance(value, Mapping):
        return drop_private_fields(value)
    if isinstance(value, list | tuple):
        return [_kept(item) for item in value]
    return value


def _folded(label: str) -> str:
    return "".join(character for character in str(label).casefold() if character.isalnum())
