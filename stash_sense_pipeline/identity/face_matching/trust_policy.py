"""The rules of the choice of trusted faces: distances, similarities and weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from stash_sense_pipeline.catalog.queries.identity.trusted_faces import CandidateRow
from stash_sense_pipeline.identity.linkage.face_verdicts import NO_VERDICTS, FaceVerdicts


@dataclass(frozen=True)
class TrustPolicy:
    """The numbers of the choice. Distances are cosine distances of raw embeddings, similarities are cosines.

    `near_duplicate`: two faces closer than this in every model are the same shot. Re-encoded copies stay below 0.05;
    different photos of one person are rarely below 0.1. The default is a cautious one.
    `crowd`, `crowd_distance`: the sidecar drops the answer of a model when its 20 nearest faces are all about equally
    near (below 0.10, within 0.05), so fewer faces than that may be this close together.
    `outlier_similarity`, `outlier_faces`: among at least so many faces, a face is an outlier when its mean similarity
    to the others is below this in every model. Faces of different people have about 0, photos of one person seldom
    below 0.3.
    `agreement`: (references up to, largest distance) for faces of medium trust, from the predecessor's validator. The
    distance is the mean over the models, as the sidecar combines them. `cluster_distance`, `centroid_distance`: for
    faces without such references, from the predecessor's design for low trust.
    `diversity`, `trust_penalty`: the weights of difference from the chosen faces, and of lower trust, against quality
    (0..1). `pose`, `pose_degrees`: the weight of another head pose, in full from this difference in yaw.
    `collision_margin`: a face collides when, in every model, its cosine to the template of another performer exceeds
    its cosine to the other faces of its own performer by at least this margin.
    `hub_distance`, `hub_people`, `hub_share`: a face is a hub when its distance to the templates of so many other
    people, or of this share of all people if that is more, is at most the sidecar's limit (release.contract). A person
    who stands apart in each of five stash-boxes is near four others, and is no hub.
    """

    near_duplicate: float = 0.03
    crowd: int = 19
    crowd_distance: float = 0.10
    outlier_similarity: float = 0.20
    outlier_faces: int = 3
    agreement: tuple[tuple[int, float], ...] = ((1, 0.35), (3, 0.40), (1_000_000, 0.45))
    cluster_distance: float = 0.40
    centroid_distance: float = 0.45
    diversity: float = 0.5
    trust_penalty: float = 0.1
    pose: float = 0.2
    pose_degrees: float = 30.0
    collision_margin: float = 0.10
    hub_distance: float = 0.5
    hub_people: int = 5
    hub_share: float = 0.001

    def largest_distance(self, references: int) -> float:
        """The largest distance that counts as agreement with so many references."""
        return next(limit for count, limit in self.agreement if references <= count)


@dataclass(frozen=True)
class ChoiceRules:
    """The settings of a run.

    `max_faces` limits the faces of a performer, `source_caps` those from one source. `trust` is high, medium or low, by
    source. `models`: embedder name to the digest of its file. `sites` are the reference sites with records that
    must agree with the performer's other faces. `verdicts` are the operator's.
    """

    max_faces: int
    source_caps: Mapping[str, int]
    trust: Mapping[str, str]
    models: Mapping[str, str]
    policy: TrustPolicy
    sites: Collection[str] = ()
    verdicts: FaceVerdicts = NO_VERDICTS

    def trust_of(self, row: CandidateRow) -> str:
        """The trust in a face: that of its source, and at most medium until the picture of a claimed face was seen."""
        trust = self.trust[row.source]
        return "medium" if row.claimed and trust == "high" else trust
