"""The key of a record (source, id) and of an image (source, image id), and a record's other ids."""

from __future__ import annotations

# (source, id of the record there).
RecordKey = tuple[str, str]
# (source, id of the image there).
ImageKey = tuple[str, str]

# Other ids of a record, in its raw fields: ThePornDB has a slug, of which its addresses are made, and a number.
OTHER_IDS = ("slug", "_id")
