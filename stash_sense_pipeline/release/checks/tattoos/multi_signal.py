"""The sidecar's multi-signal rule: how tattoos change the score of a person with a face that is near."""

from __future__ import annotations

from collections.abc import Mapping

# The score of a person without an entry in the tattoo index, when the picture shows a tattoo.
_NO_ENTRY = 0.7
# The score of a person with an entry, when the picture shows none.
_NOT_SHOWN = 0.95
_ALIKE, _SIMILAR = 0.7, 0.5
_FACTOR_OF_ALIKE, _MORE_AT_ONE, _FACTOR_OF_SIMILAR = 1.3, 0.2, 1.1


def face_score(distance: float) -> float:
    """The score of a face at a fused distance."""
    return 1 / (1 + distance)


def tattoo_factor(person: int, similar: Mapping[int, float] | None, has_entry: bool) -> float:
    """The factor of a person's score.

    `similar`: the greatest similarity of each person among the entries that the tattoo index returned; None when the
    picture shows no tattoo. `has_entry`: the person has an entry in the tattoo index.
    """
    if similar is None:
        return _NOT_SHOWN if has_entry else 1.0
    if not has_entry:
        return _NO_ENTRY
    similarity = similar.get(person, 0.0)
    if similarity > _ALIKE:
        return _FACTOR_OF_ALIKE + _MORE_AT_ONE * (similarity - _ALIKE) / (1 - _ALIKE)
    return _FACTOR_OF_SIMILAR if similarity > _SIMILAR else 1.0
