"""Profile matching: which performer a page is about, by name, gender and aliases, and which fields of it are kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from stash_sense_pipeline.catalog.queries.enrichment import KnownRecord
from stash_sense_pipeline.records.performer_record import PerformerRecord
from stash_sense_pipeline.records.profile_sites import site as site_of
from stash_sense_pipeline.records.profile_urls import canonical_profile
from stash_sense_pipeline.sources.cleaning.text import distinct
from stash_sense_pipeline.sources.reference_sites.page import fold
from stash_sense_pipeline.sources.reference_sites.site import Profile

_SIDES = {"FEMALE": "f", "TRANSGENDER_FEMALE": "f", "MALE": "m", "TRANSGENDER_MALE": "m"}


def any_order(name: str) -> str:
    """A folded name with its words sorted, because sources do not agree on their order."""
    return " ".join(sorted(fold(name).split()))


def is_full_name(name: str) -> bool:
    """True when a name has several words. A name in another script has no blanks, and needs three characters."""
    folded = fold(name)
    return " " in folded or (len(folded) >= 3 and not folded.isascii())


def names_agree(profile: Profile, record: KnownRecord) -> bool:
    """True when both have the same main name, or list a full name in common."""
    if any_order(profile.name) == any_order(record.name):
        return True
    theirs = {
        any_order(name) for name in (profile.name, *profile.aliases, *profile.credited) if is_full_name(name)
    }
    ours = {any_order(name) for name in (record.name, *record.aliases) if is_full_name(name)}
    return not theirs.isdisjoint(ours)


def is_called(profile: Profile, name: str, either_order: bool) -> bool:
    """True when the page shows exactly this name, as main name or alias. `either_order`: in any order of its words."""
    folded = any_order if either_order else fold
    return folded(name) in {folded(shown) for shown in (profile.name, *profile.aliases, *profile.credited)}


def genders_agree(one: str | None, other: str | None) -> bool:
    """False when one gender is female and the other male, trans or not. An unknown gender, and any other, agrees."""
    first, second = _SIDES.get(one or ""), _SIDES.get(other or "")
    return first is None or second is None or first == second


def passes_filter(gender: str | None, wanted: Collection[str] | None) -> bool:
    """True when the gender is a wanted one, or unknown, or no gender is wanted in particular."""
    return gender is None or wanted is None or gender in wanted


def claimants_of(
    profile: Profile, records: Sequence[KnownRecord], same_person_only: bool
) -> tuple[KnownRecord, ...]:
    """The records that list a page and match its names and gender; empty when none does, or when they are of two people.

    Two live records of one stash-box are two people. With `same_person_only` two different identities are two people
    too: use it for a page that does not prove that its records are one person.
    """
    fitting = [
        record
        for record in records
        if names_agree(profile, record) and genders_agree(profile.gender, record.gender)
    ]
    people = {record.performer_id for record in fitting if record.performer_id is not None}
    one_each = len({record.source for record in fitting}) == len(fitting)
    if not one_each or (same_person_only and len(people) > 1):
        return ()
    return tuple(fitting)


@dataclass(frozen=True)
class AliasHashes:
    """How aliases are hashed (`of`), and the hashes of the performer's aliases that another site has."""

    of: Callable[[str], str]
    corroborated: Collection[str] = ()


def record_of(
    profile: Profile,
    claimants: Sequence[KnownRecord],
    *,
    found_by: str,
    extra_urls: Iterable[str],
    alias_hashes: AliasHashes,
) -> PerformerRecord:
    """The record to store.

    An alias is kept when a stash-box lists it, a studio used it, or another site has it. Of other aliases only
    the hash is kept. Links to profiles of known sites are kept. Links to stash-boxes are not, because identity linkage
    takes them as strong evidence. A profile found by name is no evidence, so none of its links is kept.
    """
    listed = {any_order(name) for record in claimants for name in (record.name, *record.aliases)}
    kept = [*profile.credited]
    kept += [
        name
        for name in profile.aliases
        if any_order(name) in listed or alias_hashes.of(name) in alias_hashes.corroborated
    ]
    links = [url for url in profile.links if _is_kept(url)] if found_by == "url" else []
    return PerformerRecord(
        source_id=profile.key,
        name=profile.name,
        aliases=distinct(kept),
        gender=profile.gender,
        urls=distinct([*profile.urls, *links, *extra_urls]),
        images=profile.images,
        raw={
            "found_by": found_by,
            "alias_hashes": sorted({alias_hashes.of(name) for name in profile.aliases}),
        },
    )


def _is_kept(url: str) -> bool:
    found = canonical_profile(url)
    place = site_of(found.site) if found is not None else None
    return place is not None and place.stash_box_host is None
