"""The staging directory of a run, and the notes that its steps leave there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import make_directory, write_atomically
from stash_sense_pipeline.foundation.json_file import LARGE, read_json
from stash_sense_pipeline.release.contract import Flavour


@dataclass(frozen=True)
class Staging:
    """Under `root` are `release/`, with exactly the files to publish, and `parts/`, with the JSON report of each step.

    Another flavour than full has directories of its own there, `release.small/` and `parts.small/`.
    """

    root: Path
    flavour: Flavour = Flavour.FULL

    def of(self, flavour: Flavour) -> Staging:
        """The same staging directory, for the files of another flavour."""
        return replace(self, flavour=flavour)

    @property
    def release(self) -> Path:
        """The directory that becomes the release."""
        return self._own("release")

    def _own(self, name: str) -> Path:
        return self.root / (name if self.flavour is Flavour.FULL else f"{name}.{self.flavour}")

    def _part(self, name: str) -> Path:
        return self._own("parts") / f"{name}.json"

    def write_part(self, name: str, note: Mapping[str, Any]) -> None:
        """Writes the report of a step, for the steps after it."""
        write_atomically(self._part(name), json.dumps(note, sort_keys=True, indent=2))

    @property
    def report(self) -> Path:
        """The directory that becomes the quality report of the release."""
        return self.root / "report"

    def has_part(self, name: str) -> bool:
        """True when that step has written its report."""
        return self._part(name).is_file()

    def read_part(self, name: str) -> dict[str, Any]:
        """The report of a step. ReleaseError when that step has not run in this staging directory."""
        path = self._part(name)
        try:
            note = read_json(path, LARGE)
        except FileNotFoundError:
            raise ReleaseError(
                f"the release step {name} has not run yet in {self.root}; run it first"
            ) from None
        except ValueError as error:
            raise ReleaseError(
                f"{path} is damaged ({error}); remove {self.root} and publish again"
            ) from error
        return dict(note)

    def discard(self) -> None:
        """Removes everything that this run has staged."""
        shutil.rmtree(self.root, ignore_errors=True)


def open_staging(data_dir: Path, run: str) -> Staging:
    """The staging directory of a run, created when missing. It is beside `releases`, so that a rename publishes it."""
    staging = Staging(data_dir / "staging" / run)
    with disk_errors(f"stage a release in {staging.root}"):
        make_directory(staging.release)
    return staging


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turns an OSError (disk full, read-only, no permission) into a ReleaseError of one line: "cannot `doing`: ..."."""
    try:
        yield
    except OSError as error:
        raise ReleaseError(f"cannot {doing}: {error.strerror or error}") from error
