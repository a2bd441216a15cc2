"""A record parsed once: its URLs, and their hashes under the key of the suppression list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from stash_sense_pipeline.privacy.intake.persona_texts import persona_hashes
from stash_sense_pipeline.privacy.intake.record_evidence import RecordEvidence
from stash_sense_pipeline.privacy.suppression.suppression_hashes import Digest, page_digests, record_hash
from stash_sense_pipeline.privacy.url_forms import ParsedUrl, identifying_pages, parse_url, record_page


class HashedPage(NamedTuple):
    """A parsed URL with its (kind, hash) pairs. The first pair is that of the plain form."""

    page: ParsedUrl
    digests: tuple[Digest, ...]

    @property
    def kept(self) -> tuple[Digest, ...]:
        """The pairs to store: without a plain form that other people's pages share."""
        return self.digests if self.page.plain_names_profile else self.digests[1:]

    @property
    def plain_hash(self) -> str:
        """The hash of the URL's plain form."""
        return self.digests[0][1]


@dataclass(frozen=True)
class ParsedRecord:
    """The evidence of a record, and what is computed from it once for all questions of the intake.

    `key` is the key of the suppression list. The URLs are parsed and hashed when the first question needs them: with an
    empty list none does.
    """

    evidence: RecordEvidence
    key: bytes = field(repr=False)

    @property
    def own_hash(self) -> str:
        """The hash of the record's id."""
        return record_hash(self.key, *self.evidence.record)

    @cached_property
    def pages(self) -> tuple[HashedPage, ...]:
        """The URLs that the record lists, each once."""
        return self._hashed(dict.fromkeys(self.evidence.urls))

    @cached_property
    def own_pages(self) -> tuple[HashedPage, ...]:
        """The pages of the record, and of those merged into it, on a public stash-box."""
        ids = (self.evidence.source_id, *self.evidence.merged_ids)
        return self._hashed(filter(None, (record_page((self.evidence.source, each), {}) for each in ids)))

    @cached_property
    def identifying(self) -> tuple[HashedPage, ...]:
        """The listed pages that can identify a person, each once."""
        hashed = {each.page: each for each in self.pages}
        return tuple(hashed[page] for page in identifying_pages(hashed))

    @property
    def compared_as_written(self) -> list[HashedPage]:
        """The listed pages that only their plain form identifies."""
        return [each for each in self.pages if each.page.is_compared_as_written]

    @cached_property
    def persona_hashes(self) -> set[str]:
        """The hashes of the record's names and birth date."""
        return persona_hashes(self.key, self.evidence)

    @property
    def evidence_hashes(self) -> set[str]:
        """All hashes by which another record can link to this one: ids, identifying pages, names with dates."""
        further_ids = (*self.evidence.merged_ids, *self.evidence.other_ids)
        ids = {record_hash(self.key, self.evidence.source, each) for each in further_ids}
        pages = {digest for each in (*self.identifying, *self.own_pages) for _, digest in each.kept}
        unknown = {each.plain_hash for each in self.compared_as_written}
        return {self.own_hash} | ids | pages | unknown | self.persona_hashes

    def _hashed(self, urls: Iterable[str]) -> tuple[HashedPage, ...]:
        pages = [parse_url(url) for url in urls]
        return tuple([HashedPage(page, page_digests(self.key, page)) for page in pages])


def digests_of(pages: Iterable[HashedPage]) -> set[str]:
    """The hashes of all kinds of these pages."""
    return {digest for each in pages for _, digest in each.digests}
