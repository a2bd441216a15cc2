"""Progress on the terminal: a bar for each subject, or a line a minute when the output is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from stash_sense_pipeline.cli.common import echo
from stash_sense_pipeline.foundation.progress import Progress, Rate, progress_text

_BETWEEN_LINES_SECONDS = 60.0

# (subject, stage, items done, items in all or None, counts)
Report = Callable[[str, str, int, int | None, Mapping[str, int]], None]


@contextmanager
def progress_display() -> Iterator[Report]:
    """Shows reports on standard error while the block runs: bars on a terminal, else a line a minute for each subject.

    Other output of the block appears above the bars.
    """
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Bars(
        *columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty(), refresh_per_second=4
    ) as bars:
        yield _Bars(bars)


@contextmanager
def progress_of(subject: str) -> Iterator[Progress]:
    """Shows the progress of one subject on standard error while the block runs."""
    with progress_display() as display:

        def report(stage: str, done: int, total: int | None, /, **counts: int) -> None:
            display(subject, stage, done, total, counts)

        yield report


class _Stage:
    """The rate of the stage that a subject is in."""

    def __init__(self, name: str, done: int) -> None:
        self.name = name
        self.rate = Rate(done)

    def text(self, done: int, total: int | None, counts: Mapping[str, int]) -> str:
        return progress_text(self.name, done, total, counts, self.rate.per_second(done))


class _Bars:
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._stages: dict[str, _Stage] = {}

    def __call__(
        self, subject: str, stage: str, done: int, total: int | None, counts: Mapping[str, int]
    ) -> None:
        if not stage:
            return
        if subject not in self._stages or self._stages[subject].name != stage:
            self._stages[subject] = _Stage(stage, done)
        text = self._stages[subject].text(done, total, counts)
        if subject not in self._tasks:
            self._tasks[subject] = self._bars.add_task(subject, text=text)
        self._bars.update(
            self._tasks[subject],
            total=total,
            completed=done,
            text=text,
            visible=total is None or done < total,
        )


class _Lines:
    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = {}
        self._printed: dict[str, float] = {}

    def __call__(
        self, subject: str, stage: str, done: int, total: int | None, counts: Mapping[str, int]
    ) -> None:
        if not stage:
            return
        now = time.monotonic()
        if subject not in self._stages or self._stages[subject].name != stage:
            self._stages[subject] = _Stage(stage, done)
            self._printed.setdefault(subject, now)
        if now - self._printed[subject] < _BETWEEN_LINES_SECONDS:
            return
        self._printed[subject] = now
        echo(f"{subject}: {self._stages[subject].text(done, total, counts)}", err=True)
