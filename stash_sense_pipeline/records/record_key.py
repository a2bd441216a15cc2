"""The key of a record (source, id) and of an image (source, image id), and a record's other ids."""

from __future__ import annotations

# (source, id of the record at that source)
RecordKey = tuple[str, str]
# (source, id of the image at that source)
ImageKey = tuple[str, str]

# Raw fields that hold other ids of a record. ThePornDB has a slug, which its URLs contain, and a number.
OTHER_IDS = ("slug", "_id")
