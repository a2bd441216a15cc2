"""Checks of faces.json and performers.json.

Each public function checks one property of an opened release. It returns its finding, or raises an error that
describes the failure.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from stash_sense_pipeline.release.checks.opened_release import (
    OpenedRelease,
    refuse_examples,
)
from stash_sense_pipeline.release.contract import (
    FACES_JSON,
    MANIFEST,
    PERFORMERS_JSON,
    UNIVERSAL_ID_FORM,
)

_MARKUP = re.compile('[<>"]')


def faces_json(release: OpenedRelease, counts: Mapping[str, int | None]) -> str:
    entries = len(release.faces)
    for model, count in counts.items():
        if count != entries:
            held = "cannot be read" if count is None else f"holds {count}"
            raise ValueError(f"{entries} entries, but the {model} index {held}")
    return f"{entries} entries, as many as each index holds"


def faces_json_gaps(release: OpenedRelease) -> str:
    gaps = [position for position, uid in enumerate(release.faces) if uid is None]
    refuse_examples(gaps, "positions without a performer")
    return "no gaps"


def universal_ids(release: OpenedRelease) -> str:
    def well_formed(uid: object) -> bool:
        return isinstance(uid, str) and UNIVERSAL_ID_FORM.fullmatch(uid) is not None

    refuse_examples([uid for uid in release.faces if uid is not None and not well_formed(uid)], "not host:id")
    refuse_examples([uid for uid in release.performers if not well_formed(uid)], "not host:id")
    hosts = sorted({uid.partition(":")[0] for uid in release.performers})
    return f"hosts {', '.join(hosts)}"


def performers_json(release: OpenedRelease) -> str:
    for uid, entry in release.performers.items():
        if not isinstance(entry, dict):
            raise ValueError(f"{uid} is not an object")
        if not isinstance(entry.get("name"), str) or not entry["name"].strip():
            raise ValueError(f"{uid} has no name")
        country = entry.get("country")
        if "country" not in entry or not (country is None or isinstance(country, str)):
            raise ValueError(f"{uid}: country must be text or null")
        count = entry.get("face_count")
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{uid}: face_count must be a number above 0, it is {count!r:.80}")
    return f"{len(release.performers)} performers"


def image_urls(release: OpenedRelease) -> str:
    def filled(entry: Any) -> bool:
        url = entry.get("image_url")
        return isinstance(url, str) and url.startswith(("http://", "https://"))

    refuse_examples([uid for uid, entry in release.performers.items() if not filled(entry)], "no image_url")
    return "filled for every performer"


def names(release: OpenedRelease) -> str:
    """The sidecar's page inserts names, countries and addresses of images into HTML as they are."""
    odd = [uid for uid, entry in release.performers.items() if html.unescape(entry["name"]) != entry["name"]]
    refuse_examples(odd, "HTML entities in the name of")
    for field in ("name", "country", "image_url"):
        marked = [uid for uid, entry in release.performers.items() if _MARKUP.search(str(entry.get(field)))]
        refuse_examples(
            marked, f"a quotation mark or an angle bracket, which a page reads as HTML, in the {field} of"
        )
    return "no HTML in names, countries and addresses of images"


def json_order(release: OpenedRelease) -> str:
    objects: Mapping[str, Mapping[str, Any]] = {
        MANIFEST: release.manifest,
        PERFORMERS_JSON: release.performers,
        **release.performers,
    }
    unsorted = [name for name, content in objects.items() if list(content) != sorted(content)]
    refuse_examples(unsorted, "keys are not sorted in")
    return "keys are sorted"


def closure(release: OpenedRelease) -> str:
    shown = {uid for uid in release.faces if uid is not None}
    known = set(release.performers)
    refuse_examples(sorted(shown - known), f"in {FACES_JSON} but not in {PERFORMERS_JSON}")
    refuse_examples(sorted(known - shown), f"in {PERFORMERS_JSON} but without a face")
    return f"{len(known)} universal ids in both files"


def face_counts(release: OpenedRelease) -> str:
    shown = Counter(uid for uid in release.faces if uid is not None)
    refuse_examples(
        [uid for uid, entry in release.performers.items() if entry["face_count"] != shown[uid]],
        f"face_count differs from {FACES_JSON}",
    )
    return f"{shown.total()} faces"
