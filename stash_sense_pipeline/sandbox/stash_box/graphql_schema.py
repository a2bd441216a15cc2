"""The part of the stash-box GraphQL schema that concerns performers.

Names, types, nullability, enum values and defaults are those of the servers. Fields that the pipeline does not need are
left out.
"""

from __future__ import annotations

from functools import lru_cache

from graphql import GraphQLSchema, build_schema

_SCALARS_AND_ENUMS = """
"A moment in RFC 3339 with up to nanoseconds"
scalar Time
"A calendar day, or only its year, or its year and month"
scalar Date

enum SortDirectionEnum { ASC DESC }
enum GenderEnum { MALE FEMALE TRANSGENDER_MALE TRANSGENDER_FEMALE INTERSEX NON_BINARY }
enum GenderFilterEnum { UNKNOWN MALE FEMALE TRANSGENDER_MALE TRANSGENDER_FEMALE INTERSEX NON_BINARY }
enum EthnicityEnum { CAUCASIAN BLACK ASIAN INDIAN LATIN MIDDLE_EASTERN MIXED OTHER }
enum EthnicityFilterEnum { UNKNOWN CAUCASIAN BLACK ASIAN INDIAN LATIN MIDDLE_EASTERN MIXED OTHER }
enum EyeColorEnum { BLUE BROWN GREY GREEN HAZEL RED }
enum HairColorEnum { BLONDE BRUNETTE BLACK RED AUBURN GREY BALD VARIOUS WHITE OTHER }
enum BreastTypeEnum { NATURAL FAKE NA }
enum DateAccuracyEnum { YEAR MONTH DAY }
enum ValidSiteTypeEnum { PERFORMER SCENE STUDIO }
enum RoleEnum { READ VOTE EDIT MODIFY MODERATE ADMIN INVITE MANAGE_INVITES BOT READ_ONLY EDIT_TAGS }
enum OperationEnum { CREATE MODIFY DESTROY MERGE }
enum TargetTypeEnum { SCENE STUDIO PERFORMER TAG }
enum VoteStatusEnum { ACCEPTED REJECTED PENDING FAILED CANCELED IMMEDIATE_ACCEPTED IMMEDIATE_REJECTED }
enum EditSortEnum { CREATED_AT UPDATED_AT CLOSED_AT }
enum UserVotedFilterEnum { ABSTAIN ACCEPT REJECT NOT_VOTED }
enum PerformerSortEnum {
  NAME BIRTHDATE DEATHDATE SCENE_COUNT CAREER_START_YEAR DEBUT LAST_SCENE POPULARITY CREATED_AT UPDATED_AT
}
enum CriterionModifier {
  EQUALS NOT_EQUALS GREATER_THAN LESS_THAN IS_NULL NOT_NULL INCLUDES_ALL INCLUDES EXCLUDES
}
"""

_PERFORMER = """
type FuzzyDate { date: Date! accuracy: DateAccuracyEnum! }
type Measurements { cup_size: String band_size: Int waist: Int hip: Int }
type BodyModification { location: String! description: String }
type Image { id: ID! url: String! width: Int! height: Int! }
type SiteCategory { id: ID! name: String! description: String }
type Site {
  id: ID!
  name: String!
  description: String
  url: String
  regex: String
  valid_types: [ValidSiteTypeEnum!]!
  icon: String!
  category: SiteCategory
  highlighted: Boolean!
  created: Time!
  updated: Time!
}
type URL {
  url: String!
  site: Site!
  type: String! @deprecated(reason: "use the site")
}

"A performer as this server knows them"
type Performer {
  id: ID!
  name: String!
  disambiguation: String
  aliases: [String!]!
  gender: GenderEnum
  urls: [URL!]!
  birthdate: FuzzyDate @deprecated(reason: "use birth_date")
  birth_date: String
  death_date: String
  age: Int
  ethnicity: EthnicityEnum
  country: String
  eye_color: EyeColorEnum
  hair_color: HairColorEnum
  height: Int
  measurements: Measurements! @deprecated(reason: "use the four sizes")
  cup_size: String
  band_size: Int
  waist_size: Int
  hip_size: Int
  breast_type: BreastTypeEnum
  career_start_year: Int
  career_end_year: Int
  tattoos: [BodyModification!]
  piercings: [BodyModification!]
  images: [Image!]!
  deleted: Boolean!
  merged_ids: [ID!]!
  merged_into_id: ID
  is_favorite: Boolean!
  scene_count: Int!
  created: Time!
  updated: Time!
}
type QueryPerformersResultType { count: Int! performers: [Performer!]! }

input StringCriterionInput { value: String! modifier: CriterionModifier! }
input IntCriterionInput { value: Int! modifier: CriterionModifier! }
input DateCriterionInput { value: Date! modifier: CriterionModifier! }
input EyeColorCriterionInput { value: EyeColorEnum modifier: CriterionModifier! }
input HairColorCriterionInput { value: HairColorEnum modifier: CriterionModifier! }
input BreastTypeCriterionInput { value: BreastTypeEnum modifier: CriterionModifier! }
input BodyModificationCriterionInput { location: String description: String modifier: CriterionModifier! }

input PerformerQueryInput {
  "Part of the name or of the disambiguation, whatever the case"
  names: String
  "Part of the name, whatever the case"
  name: String
  "The whole of one of the links"
  url: String
  gender: GenderFilterEnum
  ethnicity: EthnicityFilterEnum
  birth_year: IntCriterionInput
  age: IntCriterionInput
  birthdate: DateCriterionInput
  deathdate: DateCriterionInput
  disambiguation: StringCriterionInput
  country: StringCriterionInput
  is_favorite: Boolean
  performed_with: ID
  studio_id: ID
  "This and what follows is accepted and has no effect"
  alias: String
  eye_color: EyeColorCriterionInput
  hair_color: HairColorCriterionInput
  height: IntCriterionInput
  cup_size: StringCriterionInput
  band_size: IntCriterionInput
  waist_size: IntCriterionInput
  hip_size: IntCriterionInput
  breast_type: BreastTypeCriterionInput
  career_start_year: IntCriterionInput
  career_end_year: IntCriterionInput
  tattoos: BodyModificationCriterionInput
  piercings: BodyModificationCriterionInput
  page: Int! = 1
  per_page: Int! = 25
  direction: SortDirectionEnum! = DESC
  sort: PerformerSortEnum! = CREATED_AT
}
input PerformerSearchFilter { gender: GenderEnum }
"""

_EDITS = """
type Scene { id: ID! title: String deleted: Boolean! }
type Studio { id: ID! name: String! deleted: Boolean! }
type Tag { id: ID! name: String! deleted: Boolean! }
union EditTarget = Performer | Scene | Studio | Tag

type PerformerEdit { name: String disambiguation: String gender: GenderEnum country: String }
union EditDetails = PerformerEdit

type Edit {
  id: ID!
  target: EditTarget
  target_type: TargetTypeEnum!
  "The losers of a merge; those that are gone for good are left out"
  merge_sources: [EditTarget!]!
  operation: OperationEnum!
  bot: Boolean!
  details: EditDetails
  old_details: PerformerEdit
  vote_count: Int!
  status: VoteStatusEnum!
  applied: Boolean!
  created: Time!
  updated: Time
  closed: Time
}
type QueryEditsResultType { count: Int! edits: [Edit!]! }

input EditQueryInput {
  user_id: ID
  status: VoteStatusEnum
  operation: OperationEnum
  vote_count: IntCriterionInput
  applied: Boolean
  target_type: TargetTypeEnum
  target_id: ID
  is_favorite: Boolean
  voted: UserVotedFilterEnum
  is_bot: Boolean
  include_user_submitted: Boolean
  page: Int! = 1
  per_page: Int! = 25
  direction: SortDirectionEnum! = DESC
  sort: EditSortEnum! = CREATED_AT
}
"""

_REST = """
type QuerySitesResultType { count: Int! sites: [Site!]! }
type Version { hash: String! build_time: String! build_type: String! version: String! }
type User { id: ID! name: String! roles: [RoleEnum!] }
"""

_QUERY = """
type Query {
  findPerformer(id: ID!): Performer
  queryPerformers(input: PerformerQueryInput!): QueryPerformersResultType!
  searchPerformer(term: String!, limit: Int): [Performer!]! @deprecated(reason: "use searchPerformers")
  searchPerformers(
    term: String!, limit: Int, page: Int, per_page: Int, filter: PerformerSearchFilter
  ): QueryPerformersResultType!
  findEdit(id: ID!): Edit
  queryEdits(input: EditQueryInput!): QueryEditsResultType!
  querySites: QuerySitesResultType!
  me: User
  version: Version!
CHANGELOG
}
"""

_CHANGELOG_TYPE = """
type EntityChange { id: ID! updated_at: Time! deleted: Boolean! redirect_to: ID }
"""
_CHANGELOG_FIELD = "  performerChangelog(since: Time!, after_id: ID, limit: Int = 5000): [EntityChange!]!"


@lru_cache
def stash_box_schema(*, changelog: bool = False, legacy: bool = False) -> GraphQLSchema:
    """The schema of one server.

    `changelog` adds `performerChangelog`, which only some servers have; `legacy` leaves out `death_date` and
    `merged_into_id`, which came at the end of 2024.
    """
    performer = _PERFORMER
    if legacy:
        performer = performer.replace("  death_date: String\n", "").replace("  merged_into_id: ID\n", "")
    parts = [_SCALARS_AND_ENUMS, performer, _EDITS, _REST]
    if changelog:
        parts.append(_CHANGELOG_TYPE)
    parts.append(_QUERY.replace("CHANGELOG", _CHANGELOG_FIELD if changelog else ""))
    return build_schema("\n".join(parts))
