"""Data inventory: purpose, origin and release of every stored column; a test fails for a missing one.

A test fails when a column is added without a line here. Before you add a line, check that the task needs the field: to
find the performer on an image, and to name the stage name and the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Origin(StrEnum):
    """Where the content of a field comes from."""

    SOURCE = "the source's record"
    IMAGE = "computed from an image"
    PROGRAM = "this program's own bookkeeping"
    OPERATOR = "the operator"


class Purpose(NamedTuple):
    """Why a field is stored, where its content comes from, and whether a release holds it."""

    why: str
    origin: Origin
    exported: bool = False


def _source(why: str, *, exported: bool = False) -> Purpose:
    return Purpose(why, Origin.SOURCE, exported)


def _image(why: str, *, exported: bool = False) -> Purpose:
    return Purpose(why, Origin.IMAGE, exported)


def _own(why: str, *, exported: bool = False) -> Purpose:
    return Purpose(why, Origin.PROGRAM, exported)


def _operator(why: str) -> Purpose:
    return Purpose(why, Origin.OPERATOR)


def _each(names: str, purpose: Purpose) -> Mapping[str, Purpose]:
    """One purpose for several columns, with their names in one text."""
    return dict.fromkeys(names.split(), purpose)


_SOURCE = _own("the source of the row", exported=True)
_RECORD = _source("finds the record again at its source; the id that users are told", exported=True)
_OF_IMAGE = _source("finds the image again at its source")
_OF_FACE = _own("the face of the row")
_OF_TATTOO = _own("the tattoo of the row")
_OF_PERFORMER = _own("the person of the row", exported=True)
_TELLS_APART = "shown by the sidecar to tell people of one name apart"

PURPOSES: Mapping[str, Mapping[str, Purpose]] = {
    "source_performers": {
        "source": _SOURCE,
        "source_id": _RECORD,
        "name": _source(
            "the stage name that users are told; a tombstone keeps it so that a merge can be explained",
            exported=True,
        ),
        "disambiguation": _source(_TELLS_APART, exported=True),
        "gender": _source(
            "filters of sources; evidence between records; shown by the sidecar", exported=True
        ),
        "birth_date": _source("adults only; evidence between records", exported=True),
        "death_date": _source("a column that the sidecar's reader needs", exported=True),
        "country": _source(f"evidence between records; {_TELLS_APART}", exported=True),
        **_each("ethnicity eye_color hair_color height_cm", _source(_TELLS_APART, exported=True)),
        "career_start_year": _source(f"adults only; {_TELLS_APART}", exported=True),
        "career_end_year": _source(_TELLS_APART, exported=True),
        "created_at": _source("order of reading; since when the source lists the record", exported=True),
        "updated_at": _source(
            "tells which records changed since the last sync; shown by the sidecar", exported=True
        ),
        "deleted_at": _own("the record is deleted at its source: it must not be published again"),
        "merged_into": _source("which record replaced it: old ids of users lead there", exported=True),
        "content_hash": _own("whether the record changed, without keeping its old state"),
        "raw": _source(
            "other ids (slug, number), what the privacy filter keeps, places of tattoos and piercings",
            exported=True,
        ),
        "first_seen_at": _own("since when the record is here: how the catalog grows"),
        "changed_at": _own("which identities must be computed again"),
        **_each(
            "legacy_faces legacy_images", _own("order of fetching after a predecessor's data was taken over")
        ),
    },
    "performer_aliases": {
        "source": _SOURCE,
        "source_id": _RECORD,
        "alias": _source("other stage names: evidence between records, and search", exported=True),
    },
    "performer_urls": {
        "source": _SOURCE,
        "source_id": _RECORD,
        "url": _source(
            "evidence between records; personal accounts are among them, so no release holds them"
        ),
    },
    "source_images": {
        "source": _SOURCE,
        "image_id": _OF_IMAGE,
        "url": _source("where to fetch it; shown with a match by the sidecar", exported=True),
        **_each("width height", _source("which image to fetch first")),
        "state": _own("progress of its processing"),
        "reason": _own("why it was rejected or failed"),
        "attempts": _own("when to stop trying"),
        "next_attempt_at": _own("when to try again"),
        "refusals": _own("on how many days the source refused the image"),
        "sha256": _image("the same bytes are judged once; evidence between records"),
        "picture_hash": _image("copies of one image count as one face"),
        "detector_digest": _own("whether it must be processed again with another detector"),
        "judged_by": _own("whether it must be processed again under other limits"),
        "processed_at": _own("which identities must be computed again"),
        "first_seen_at": _own("which images of a complete performer are new"),
    },
    "performer_images": {"source": _SOURCE, "source_id": _RECORD, "image_id": _OF_IMAGE},
    "faces": {
        "face_id": _own("names the face"),
        "source": _SOURCE,
        "image_id": _OF_IMAGE,
        "face_index": _image("which of several faces in the image"),
        "detection_confidence": _image("quality of the face"),
        **_each("x1 y1 x2 y2", _image("size of the face")),
        "landmarks": _image("how the face was aligned, so that an error can be found"),
        "yaw": _image("choice of diverse faces", exported=True),
        **_each("roll blur", _image("quality of the face")),
        "quality": _image("choice of the best faces", exported=True),
        "pack": _own("vectors of different packs are never compared"),
        "detector_digest": _own("whether the face must be found again with another detector"),
        "created_at": _own("since when the face is here: how the catalog grows"),
        "second": _own("faces of different packs are never in one release"),
    },
    "second_verdicts": {
        "source": _SOURCE,
        "image_id": _OF_IMAGE,
        "detector_digest": _own("whether it must be processed again with another detector"),
        "state": _own("progress of its processing by the second pack"),
        "reason": _own("why the second pack has no face of it"),
        "judged_by": _own("whether it must be processed again under other limits"),
        "processed_at": _own("when the second pack saw it"),
    },
    "aligned_crops": {
        "face_id": _OF_FACE,
        "png": _image("input of the embedders; deleted after them unless keep_aligned_crops is on"),
    },
    "embeddings": {
        "face_id": _OF_FACE,
        "model": _own("which embedder made it"),
        "vector": _image("what the sidecar compares: the purpose of the database", exported=True),
        "pack": _own("vectors of different packs are never compared"),
        "model_digest": _own("whether it must be made again with another network"),
        "created_at": _own("progress of embedding"),
    },
    "tattoo_scans": {
        "face_id": _OF_FACE,
        "detector_digest": _own("whether the picture must be searched again with another detector"),
        "tattoos": _image("of how many people pictures were searched for tattoos", exported=True),
        "scanned_at": _own("progress of the search"),
    },
    "tattoo_detections": {
        "tattoo_id": _own("names the tattoo"),
        "face_id": _OF_FACE,
        "tattoo_index": _image("order of the tattoos of a picture"),
        "x": _image("where the tattoo is; what the sidecar's reader expects", exported=True),
        "y": _image("where the tattoo is; what the sidecar's reader expects", exported=True),
        "width": _image("where the tattoo is; what the sidecar's reader expects", exported=True),
        "height": _image("where the tattoo is; what the sidecar's reader expects", exported=True),
        "confidence": _image("choice of the surest tattoos", exported=True),
        "location_hint": _image("where the tattoo is, as the sidecar compares it", exported=True),
    },
    "tattoo_crops": {
        "tattoo_id": _OF_TATTOO,
        "png": _image("input of the embedder; deleted after it unless keep_aligned_crops is on"),
    },
    "tattoo_embeddings": {
        "tattoo_id": _OF_TATTOO,
        "vector": _image("what the sidecar compares", exported=True),
        "pack": _own("vectors of different packs are never compared"),
        "model_digest": _own("whether it must be made again with another network"),
        "created_at": _own("progress of embedding"),
    },
    "identities": {
        "performer_id": _own("a number that never means another person", exported=True),
        "created_at": _own("since when the number is in use"),
        "retired_at": _own("the number is not used any more"),
        "redirect_to": _own("which number has its members now"),
    },
    "identity_members": {"source": _SOURCE, "source_id": _RECORD, "performer_id": _OF_PERFORMER},
    "identity_evidence": {
        "kind": _own("what the link rests on"),
        **_each("source_a source_id_a source_b source_id_b", _own("the records that it is about")),
        "key": _source("what the two records share, so that the link can be explained and undone"),
        "weight": _own("how much it counts"),
        "verdict": _own("whether it linked them"),
        "reason": _own("why it was refused"),
        "first_seen_at": _own("since when"),
    },
    "identity_log": {
        "entry": _own("order of events"),
        "at": _own("when"),
        "performer_id": _OF_PERFORMER,
        "event": _own("what happened, so that it can be explained and undone"),
        "detail": _own("the records that it happened to, and what caused it"),
    },
    "identity_runs": {
        "run": _own("order of runs"),
        "at": _own("when"),
        "rules": _own("whether everything must be computed anew"),
        "records": _own("whether records were erased since"),
        "detail": _own(
            "counts, the thresholds of faces, and the match weights with digests of common name words"
        ),
    },
    "identity_records": {
        "source": _SOURCE,
        "source_id": _RECORD,
        "seen": _own("whether the record changed since identity last saw it"),
        "pictures": _own("whether its pictures and faces changed since identity last saw them"),
        "key_digests": _own("which records share a page, name, date or picture, without holding it again"),
    },
    "identity_hubs": {
        "digest": _own("a page on too many records to identify a person"),
        "key": _source("which page that is, for review"),
        "holders": _own("on how many records"),
    },
    "face_templates": {
        "source": _SOURCE,
        "source_id": _RECORD,
        "faces": _own("how much the template rests on"),
        "models": _own("vectors of different networks are never compared"),
        "vector": _image("the mean of a record's faces: agreement between records of different sources"),
    },
    "face_collisions": {
        "face_id": _OF_FACE,
        "performer_id": _OF_PERFORMER,
        "source": _SOURCE,
        "source_id": _RECORD,
        "nearer_to": _own("the other person, for review"),
        **_each("similarity nearer_similarity", _image("how sure it is")),
        "found_at": _own("when"),
    },
    "face_exclusions": {
        "face_id": _OF_FACE,
        "performer_id": _OF_PERFORMER,
        "source": _SOURCE,
        "source_id": _RECORD,
        "reason": _own("why the face is not in the release, for review"),
        "people": _image("how many other people the face is near, for review"),
        "found_at": _own("when"),
    },
    "trusted_faces": {
        "face_id": _own("the face is in the release", exported=True),
        "performer_id": _OF_PERFORMER,
        "source": _SOURCE,
        "source_id": _RECORD,
        "rank": _own("order of a person's faces", exported=True),
    },
    "second_trusted_faces": {
        "face_id": _own("the face is in a release of the second pack", exported=True),
        "performer_id": _OF_PERFORMER,
        "source": _SOURCE,
        "source_id": _RECORD,
        "rank": _own("order of a person's faces", exported=True),
    },
    "suppressions": {
        "kind": _own("what kind of key is suppressed"),
        "key_hash": _own(
            "recognises the record, URL or picture when a source sends it again; useless without the key"
        ),
        "reason": _operator("why, without names"),
        "added_at": _operator("since when"),
        "degree": _own("how far a suppression spreads"),
        "applied_at": _own("whether the catalog was searched for it"),
        "block_face": _operator("whether to keep a template: only where the person wants it"),
    },
    "suppressed_faces": {
        "template_id": _own("names the template"),
        "model": _own("which embedder made it"),
        "model_digest": _own("vectors of different networks are never compared"),
        "person": _own("a random word that joins the templates of one person"),
        "sealed": _image("refuses the face under a new record; encrypted, and only where that was asked for"),
        "radius": _image("the distance within which a face is refused"),
        "added_at": _own("since when"),
    },
    "held_evidence": {
        "evidence_id": _own("names the note"),
        "owner_hash": _own("the held record of the evidence; useless without the key"),
        "key_hash": _own("recognises a record that links to a held one; useless without the key"),
    },
    "pending_purges": {
        "purge_id": _own("names the note"),
        "requested_at": _own("since when deleted bytes wait to be overwritten"),
    },
    "withheld_records": {
        "source": _SOURCE,
        "id_hash": _own("a run need not read the record again; useless without the key"),
        "updated_at": _source("which version was read"),
        "checked_at": _own("when to read it again"),
        "reason": _own("why it is withheld"),
        "source_id": _source(
            "lets the operator review a held record, or one that is withheld for its dates; empty for suppressed records"
        ),
    },
    "site_visits": {
        "source": _SOURCE,
        "mode": _own("how the site was asked"),
        "item_hash": _own("which item was asked for; useless without the key"),
        "outcome": _own("what the site answered"),
        "visited_at": _own("when"),
        "next_visit_at": _own("when to ask again"),
        "missing_since": _own("a profile that is missing twice is removed"),
        **_each("etag last_modified", _source("asks for changes only")),
    },
    "site_rejections": {
        "source": _SOURCE,
        "source_id": _source("a wrong record is not stored again at once"),
        "performer_id": _own("the person with other faces than the record's"),
        **_each("faces reference_faces distance agreement", _own("the grounds of the rejection")),
        "rejected_at": _own("when to accept the record again"),
    },
    "claimed_releases": {
        "release_id": _own("names the release"),
        **_each("version manifest_digest", _own("which release the operator took over")),
        "state": _own("whether its faces may be used"),
        "reason": _own("why its faces are not used"),
        **_each("pack detector_digest models", _own("vectors of different packs are never compared")),
        "proof": _own("what the sample found, in counts"),
        **_each("taken_at judged_at", _own("when")),
    },
    "claimed_records": {
        "release_id": _own("what an undo of the release removes"),
        "source": _SOURCE,
        "source_id": _RECORD,
        "added": _own("what an undo of the release removes"),
    },
    "claimed_faces": {
        "claim_id": _own("names the claimed face"),
        "release_id": _own("what an undo of the release removes"),
        "position": _own("finds its vectors in the release, so that an interrupted import goes on"),
        "source": _SOURCE,
        "url": _source("finds the image of the source that the face is of"),
        "box": _own("the person of the face, so that an erasure removes it"),
        "box_id": _source("the person of the face, so that an erasure removes it"),
        "quality": _image("choice of the best faces"),
        "yaw": _image("choice of diverse faces"),
        "rounded": _own("its vectors are less exact"),
        "cosines": _own("the proof of the release"),
        "face_id": _OF_FACE,
        **_each("used_at asked_at", _own("when its image is looked at again")),
    },
    "claimed_vectors": {
        "claim_id": _own("the claimed face of the row"),
        "model": _own("which embedder made it"),
        "vector": _image("becomes a vector of the face once it is proven"),
    },
    "sense2_performers": {
        "number": _own("a number of sense2 releases that never means another record", exported=True),
        "source": _SOURCE,
        "source_id": _RECORD,
        **_each("digest published", _own("what a delta must change")),
    },
    "sense2_faces": {
        "embedding_index": _own("an index of sense2 releases that never means another face", exported=True),
        "source": _SOURCE,
        **_each("image_id face_index", _own("the face of the index")),
        **_each("owner digest published", _own("what a delta must change")),
    },
    "sense2_releases": {
        "version": _own("which release the numbers describe", exported=True),
        "published_at": _own("when"),
        **_each(
            "detector_digest model model_digest links_digest aliases_digest",
            _own("whether a delta is possible, and what changed"),
        ),
    },
    "sync_state": {
        "source": _SOURCE,
        **_each("updated_watermark edits_watermark", _source("what was read already")),
        "backfilled_at": _own("whether the source was ever read in full"),
        **_each("last_sync_at last_sweep_at", _own("freshness")),
        **_each("last_outcome last_message", _own("what the operator must know")),
        "server_version": _source("which questions the server understands"),
        "detail": _own(
            "the connector's progress: ids that are missing or could not be read, and how often fields were found"
        ),
    },
}
