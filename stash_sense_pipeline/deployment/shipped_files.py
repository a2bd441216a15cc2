"""Finds the configuration files that are installed with the package."""

from __future__ import annotations

from pathlib import Path

from stash_sense_pipeline.foundation.errors import ConfigurationError


def shipped_file(name: str) -> Path:
    """The path of a shipped file: in the installed package, or in the repository for an editable installation.

    Raises ConfigurationError when the installation is incomplete.
    """
    package = Path(__file__).parents[1]
    for candidate in (package / "shipped" / name, package.parent / name):
        if candidate.is_file():
            return candidate
    raise ConfigurationError(f"the installation lacks {name}; install stash-sense-pipeline again")
