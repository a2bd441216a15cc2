"""Which rows a sense2 release is made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.release.sense2.content import read_numbered_content
from stash_sense_pipeline_tests.release.worlds import BEGIN, HOSTS, make_catalog

DEMO = Path(__file__).parents[3] / "stash_sense_pipeline" / "sandbox" / "demo_pack"
# usearch 2.25 crashes a process that loads onnxruntime after it.
TOGETHER = """
import sys, numpy, importlib
for name in sys.argv[2:]:
    importlib.import_module(name)
import onnxruntime, voyager
from usearch.index import Index
index = Index(ndim=8, metric="cos", dtype="bf16")
index.add(numpy.arange(5), numpy.eye(5, 8, dtype=numpy.float32), threads=1)
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
print(len(index), len(session.get_inputs()), index.search(numpy.eye(1, 8, dtype=numpy.float32)[0], 1).keys)
"""


def test_a_yaw_that_a_release_taken_over_does_not_state_is_none(tmp_path: Path) -> None:
    """The claim says 0; a measured 0 stays 0."""
    engine = make_catalog(tmp_path / "catalog.db")
    with writing(engine) as connection:
        release = {
            "release_id": 1,
            "version": "1",
            "manifest_digest": "d",
            "state": "proven",
            "models": {},
            "taken_at": BEGIN,
        }
        claim = {
            "release_id": 1,
            "source": "stashdb",
            "box": "stashdb",
            "box_id": "st-00000",
            "rounded": False,
        }
        connection.execute(sa.insert(schema.claimed_releases).values(release))
        for face, yaw in ((1, 0.0), (2, 1.0)):
            values = {
                **claim,
                "face_id": face,
                "yaw": yaw,
                "position": face,
                "url": f"u{face}",
                "quality": 0.5,
            }
            connection.execute(sa.insert(schema.claimed_faces).values(values))
    content = read_numbered_content(engine, HOSTS)
    engine.dispose()
    yaw = dict(zip(content.order.face_ids.tolist(), [face.yaw for face in content.faces], strict=True))
    # The faces 1 and 5 are the first of their performers: a yaw of 0 was measured.
    assert (yaw[1], yaw[2], yaw[5]) == (None, 1.0, 0.0)


def test_numbers_are_given_by_person_and_stay_when_the_catalog_is_read_again(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db")
    first, second = read_numbered_content(engine, HOSTS), read_numbered_content(engine, HOSTS)
    engine.dispose()
    assert first.performers == second.performers
    assert first.faces == second.faces
    assert [row.number for row in first.performers] == list(range(1, 41))
    assert [face.embedding_index for face in first.faces] == list(range(160))
    assert first.performers[0].name == "Person & 39"


@pytest.mark.slow
@pytest.mark.parametrize(
    "order", [("usearch", "onnxruntime", "voyager"), ("voyager", "onnxruntime", "usearch")]
)
def test_usearch_works_beside_onnxruntime_and_voyager(order: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", TOGETHER, str(DEMO / "arcface.onnx"), *order]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "5 1 [0]\n"), done.stderr
