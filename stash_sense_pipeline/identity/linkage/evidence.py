"""Weighted evidence for and against two records being one person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Final, NamedTuple

from stash_sense_pipeline.records.record_key import RecordKey

Pair = tuple[RecordKey, RecordKey]


class Kind:
    """The kinds of evidence. Plain strings, because they are keys of some hundred thousand rows."""

    OVERRIDE: Final = "override"
    MERGE: Final = "merge"
    CROSS_LINK: Final = "cross_link"
    PROFILE: Final = "profile"
    IMAGE: Final = "image"
    NAME_AND_BIRTH_DATE: Final = "name_birth_date"
    FACE: Final = "face"
    ATTRIBUTES: Final = "attributes"


@dataclass(frozen=True)
class NameFrequencies:
    """How probable a name is among strangers, and so how much an equal name proves.

    `common`: digest of a word to its share of all words at its place in names; other words have the share `rare`.
    `homonyms`: the share of pairs of strangers that have one name for other reasons than chance. `sizes`: live records of
    each source. `agreeing`: share of the pairs of one person with equal main names. `countries`: weight of an equal country
    by its code in lower case; equal rare countries prove more. `people_of_both`: how many people have a record in both of
    two sources, by the names of the sources in order, with a space between.
    """

    common: Mapping[str, float]
    rare: float
    homonyms: float
    sizes: Mapping[str, int]
    agreeing: float
    countries: Mapping[str, float] = field(default_factory=dict)
    people_of_both: Mapping[str, int] = field(default_factory=dict)

    def probability(self, words: Iterable[str]) -> float:
        """The probability that a stranger has the name with these digests of words."""
        return prod(self.common.get(word, self.rare) for word in words) + self.homonyms


@dataclass(frozen=True)
class Weights:
    """The weight of each observation, about the decimal logarithm of the odds that it is right.

    The score of a pair is the sum; it links when the score reaches `link`. So one shared profile page links two records
    that disagree in the name only. Any further disagreement (country, another page on the same site, another birth
    date) needs further support. The weights of links, pictures and faces were chosen on generated populations with known
    truth (stash_sense_pipeline_tests/identity/invented_population.py), where the precision must hold with 5 % of all URLs
    wrong. Those of the fields are learned (`learned_weights.py`); the values here hold for catalogs too small for that.
    """

    override: float = 100.0
    merge: float = 90.0
    cross_link: float = 4.4
    profile: float = 4.0
    # A page that two records of one source list: one of them is wrong, or they are a couple.
    shared_profile: float = 2.0
    # The same bytes with one face; at most two of them count. Not enough alone: sources copy pictures from each other,
    # and sometimes the wrong ones.
    image: float = 1.5
    name_equal: float = 2.0
    name_in_aliases: float = 1.5
    # Main names differ: duos, studios and series are aliases too. Only a face or a picture makes it enough.
    alias_in_common: float = 0.5
    # One word that both have as an alias, or one as an alias: it proves next to nothing.
    one_word_alias: float = -0.5
    name_similar: float = 0.8
    # More than one letter differs: twins may be called so.
    name_alike: float = 0.2
    # A further shared name of two words or more: stage names are chosen, so two equal ones are not a coincidence.
    further_name: float = 2.0
    # Both list other names too, and none of these is in common.
    no_other_name: float = -0.5
    # A single word is a first name, which many people have.
    single_word: float = -0.8
    name_differs: float = -1.5
    birth_date_equal: float = 2.5
    birth_month_equal: float = 1.5
    birth_year_equal: float = 0.8
    # One of year, month and day differs, or day and month are swapped: more often an error than a coincidence.
    birth_date_nearly_equal: float = 0.5
    birth_date_differs: float = -1.0
    # Name and birth date together, at most: what is wrong then is not chance, but a namesake with the same date.
    name_and_birth_date_most: float = 4.5
    country_equal: float = 0.4
    country_differs: float = -0.9
    # Most performers are women: an equal gender proves next to nothing.
    gender_equal: float = 0.0
    gender_differs: float = -0.4
    ethnicity_equal: float = 0.2
    ethnicity_differs: float = -0.8
    eye_color_equal: float = 0.2
    eye_color_differs: float = -0.4
    # Within 2 cm; over 8 cm.
    height_equal: float = 0.4
    height_differs: float = -1.2
    # A birth date without a name or a page in common, at most: twins share it.
    birth_date_alone_most: float = 0.9
    # Different pages on a site where a person has one page; counted for at most two sites.
    other_page: float = -1.5
    # Both list one, two, or three and more pages of sites that prove identity, and share none of them.
    no_shared_page_of_1: float = -0.1
    no_shared_page_of_2: float = -0.7
    no_shared_page_of_3: float = -1.1
    # Names that do not agree, and pages that only one record lists: then one shared page is not enough. A link to the
    # other record is enough, unless each record lists pages that the other lacks.
    unshared_pages: float = -0.5
    # Faces that match in every model, each the other's nearest in its source by a margin: one pair in 1000 is wrong.
    # Below `link`, so that a name or a page must support them; less when a record has a single face.
    face: float = 2.4
    face_single: float = 1.4
    # Added when a name agrees: one wrong pair in 1000 is the score 3, and with a name it need not stay below `link`.
    face_and_name: float = 0.6
    # Each other's nearest, but somewhat below the threshold: enough with an equal full name, else listed for review.
    face_borderline: float = 0.8
    # Two or more faces on both sides that match in no model: true of one in 200 pairs of one person.
    face_differs: float = -2.5
    link: float = 2.5
    # How common names are; None in a catalog that is too small to tell.
    names: NameFrequencies | None = None


WEIGHTS = Weights()


class Evidence(NamedTuple):
    """One observation about two records; `a` sorts before `b`. A negative weight speaks against the pair."""

    kind: str
    a: RecordKey
    b: RecordKey
    key: str
    weight: float


class FaceComparison(NamedTuple):
    """The comparison of the faces of two records: the name of a weight, and the similarities as text."""

    how: str
    text: str


@dataclass(frozen=True)
class Faces:
    """Comparisons of faces: pairs with matching faces, and pairs with faces that do not match."""

    matches: Mapping[Pair, FaceComparison] = field(default_factory=dict)
    mismatches: Mapping[Pair, FaceComparison] = field(default_factory=dict)

    def comparison(self, pair: Pair) -> FaceComparison | None:
        """The comparison of a pair (in order); None when neither matches nor mismatches contain it."""
        return self.matches.get(pair) or self.mismatches.get(pair)


NO_FACES = Faces()
