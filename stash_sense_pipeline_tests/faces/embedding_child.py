"""A worker process of the test with several workers: embeds waiting faces and prints its report."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.faces.embed_waiting import embed_waiting
from stash_sense_pipeline.faces.models.model_packs import load_pack


def main() -> None:
    """Arguments: catalog URL, pack directory, batch size, seconds of rest after each batch, keep crops or not."""
    url, pack, batch_size, rest, keep = sys.argv[1:]
    engine = open_catalog(url)

    def progress(stage: str, done: int, total: int | None) -> None:
        print("batch", done, flush=True)  # noqa: T201
        time.sleep(float(rest))

    report = embed_waiting(
        engine,
        "boxed",
        load_pack(pack, Path("nowhere")),
        batch_size=int(batch_size),
        keep_crops=keep == "keep",
        progress=progress,
        threads=1,
    )
    print("embedded", report.embedded, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
