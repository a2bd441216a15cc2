"""Error texts for invalid settings: what was found, what is allowed, the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class SettingsModel(BaseModel):
    """Base of the models of settings: frozen, strict, and without unknown keys."""

    # The description of a field says what is allowed. It is the end of each error text about the value.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def complaints(model: type[SettingsModel], error: ValidationError) -> Iterator[tuple[tuple[str, ...], str]]:
    """Path and text of each error of a model. The rule in the text is the description of the field."""
    for problem in error.errors(include_url=False, include_context=False):
        where = tuple(str(part) for part in problem["loc"])
        owner = model
        for part in where[:-1]:
            inner = owner.model_fields[part].annotation if part in owner.model_fields else None
            if not (isinstance(inner, type) and issubclass(inner, SettingsModel)):
                break
            owner = inner
        key = where[-1]
        if problem["type"] == "extra_forbidden":
            yield where, unknown_key(key, keys(owner))
        elif problem["type"] == "missing":
            yield where, f"is missing; it must be {owner.model_fields[key].description}"
        else:
            rule = next((f.description for part in where if (f := owner.model_fields.get(part))), "valid")
            yield where, f"{shown(problem['input'])} is not {rule}"


def keys(model: type[SettingsModel]) -> tuple[str, ...]:
    """The keys that a mapping of this model may have in sources.yaml."""
    return tuple(key for key in model.model_fields if key != "name")


def unknown_key(key: str, allowed: Iterable[str]) -> str:
    """The error text for an unknown key."""
    return f"is not a known key{hint(key, allowed)}"


def unknown_source(name: str, known: Iterable[str]) -> str:
    """The error text for an unknown name of a source."""
    return f"{name!r} is not a source of sources.yaml{hint(name, known)}"


def hint(word: str, allowed: Iterable[str]) -> str:
    """The end of an error text: the most similar allowed name, if there is one, and all allowed names."""
    names = list(allowed)
    close = difflib.get_close_matches(word, names, n=1)
    guess = f"; did you mean {close[0]}?" if close else ";"
    return f"{guess} allowed: {', '.join(names) or 'none'}"


def shown(value: Any) -> str:
    """A value as an error text may show it: shortened to "the value" when it is long or may hold a secret."""
    if value is None:
        return "nothing"
    text = repr(value)
    # A value that may be an address with a password or a key must not get into a log.
    return "the value" if "@" in text or "?" in text or len(text) > 60 else text
