"""Keyed hashes of records, URLs, images and likenesses."""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache

from stash_sense_pipeline.privacy.url_forms import ParsedUrl, parse_url, plain_url
from stash_sense_pipeline.records import profile_urls

RECORD, URL, IMAGE, PICTURE, LIKENESS = "record", "url", "image", "picture", "likeness"
# Names of suppressed people with the birth date, and their pages on unknown sites: see intake/persona_texts.
PERSONA = "persona"
# Records that the operator has declared other people.
OTHER = "other"
# URLs of images that no source showed when they were added. Once a source does, the entry means the person that alone
# shows the image.
AWAITED_IMAGE = "awaited"
# One row that identifies the key of all other rows.
KEY_CHECK = "key"
# Kind of the hashes of withheld records, which are in another table.
WITHHELD = "withheld"
# (kind, hash)
Digest = tuple[str, str]


def record_hash(key: bytes, source: str, source_id: str) -> str:
    """Hex digest of a record. Ids are compared without case, as an operator may paste a uuid in capitals."""
    return keyed_hash(key, RECORD, f"{source}:{source_id.casefold()}")


def image_hash(key: bytes, sha256: str) -> str:
    """Hex digest of image bytes with this SHA-256."""
    return keyed_hash(key, IMAGE, sha256.lower())


def image_id_hash(key: bytes, source: str, image_id: str) -> str:
    """Hex digest of an image's id at a source."""
    return keyed_hash(key, PICTURE, f"{source}:{image_id.casefold()}")


def likeness(key: bytes, picture_hash: str) -> str:
    """A perceptual hash (64 bits, 16 hex digits) with its bits shuffled and flipped by the key.

    Perceptual hashes of copies differ in a few bits, so that an HMAC would not match them. Two likenesses differ in as
    many bits as their perceptual hashes; only the key tells which bit is which.
    """
    order, flips = shuffle(key)
    bits = int(picture_hash, 16)
    shuffled = sum((bits >> source & 1) << place for place, source in enumerate(order))
    return f"{shuffled ^ flips:016x}"


@lru_cache(maxsize=4)
def shuffle(key: bytes) -> tuple[tuple[int, ...], int]:
    """The order of the 64 bits of a likeness, and the mask of the bits that are flipped."""
    order = sorted(range(64), key=lambda bit: hmac.digest(key, f"{LIKENESS}\0{bit}".encode(), "sha256"))
    return tuple(order), int(keyed_hash(key, LIKENESS, "flips")[:16], 16)


def plain_url_hash(key: bytes, url: str) -> str:
    """Hex digest of a URL's plain form: without scheme, query and other decoration."""
    return keyed_hash(key, URL, plain_url(url))


def url_hashes(key: bytes, url: str) -> tuple[str, ...]:
    """Hex digests of a URL: of its plain form, and of the profile that it names on a known site.

    Both, so that a list still matches when the table of profile sites grows.
    """
    return tuple(digest for kind, digest in url_digests(key, url) if kind == URL)


def url_digests(key: bytes, url: str) -> tuple[Digest, ...]:
    """The (kind, hash) pairs of a URL that was not parsed before: see page_digests."""
    return page_digests(key, parse_url(url))


def page_digests(key: bytes, page: ParsedUrl) -> tuple[Digest, ...]:
    """The (kind, hash) pairs of a page: of its plain form first, of its profile, and of the record it is the page of."""
    plain = (URL, keyed_hash(key, URL, page.plain))
    if page.profile is None:
        return (plain,)
    digests = (plain, (URL, profile_hash(key, page.profile)))
    record = page.stash_box_record
    return (*digests, (RECORD, record_hash(key, *record))) if record is not None else digests


def kept_digests(key: bytes, page: ParsedUrl) -> tuple[Digest, ...]:
    """The (kind, hash) pairs of a page to store: page_digests without a plain form that other people's pages share."""
    digests = page_digests(key, page)
    return digests if page.plain_names_profile else digests[1:]


def profile_hash(key: bytes, profile: profile_urls.ProfileKey) -> str:
    """Hex digest of a profile, in whatever form its URL is written."""
    return keyed_hash(key, URL, f"{profile.site} {profile.key}")


def key_fingerprint(key: bytes) -> str:
    """Eight hex digits that distinguish keys and reveal nothing of them."""
    return keyed_hash(key, KEY_CHECK, "")[:8]


def target_hashes(key: bytes, target: str, *, is_url: bool) -> tuple[Digest, ...]:
    """The (kind, hash) pairs of a target: SOURCE:ID of a record, or a URL.

    The stash-box page of a record means that record only, also when other records list the page.
    """
    if is_url:
        digests = kept_digests(key, parse_url(target))
        return tuple(each for each in digests if each[0] == RECORD) or digests
    source, _, source_id = target.partition(":")
    return ((RECORD, record_hash(key, source, source_id)),)


def keyed_hash(key: bytes, kind: str, text: str) -> str:
    """HMAC-SHA256 of `kind`, a null character and `text`.

    Two hashes of the padded key, as RFC 2104 defines them, are cached: an intake computes some thirty digests a record,
    and copying an object of the module hmac takes as long as the digest itself.
    """
    inner, outer = _padded(key)
    inner, outer = inner.copy(), outer.copy()
    inner.update(f"{kind}\0{text}".encode(errors="surrogatepass"))
    outer.update(inner.digest())
    return outer.hexdigest()


@lru_cache(maxsize=4)
def _padded(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """The inner and the outer hash of HMAC-SHA256 after the padded key. A block has 64 bytes."""
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner, outer = (bytes(byte ^ pad for byte in block) for pad in (0x36, 0x5C))
    return hashlib.sha256(inner), hashlib.sha256(outer)
