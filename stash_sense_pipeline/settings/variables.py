"""The environment variables of the program: default and meaning of each, for the documentation and `settings show`."""

from __future__ import annotations

from collections.abc import Mapping

# Name → (default, meaning), in Markdown.
VARIABLES: Mapping[str, tuple[str, str]] = {
    "DATA_DIR": ("`./data`", "everything the program writes"),
    "STASH_SENSE_SOURCES": ("`./sources.yaml`", "the sources file"),
    "STASH_SENSE_CATALOG_URL": (
        "SQLite in `DATA_DIR`",
        "SQLAlchemy URL of the catalog; PostgreSQL: `postgresql+psycopg2://user:password@host/database`",
    ),
    "STASH_SENSE_MODEL_PACK": (
        "`stash-sense-v1`",
        "name of an installed pack, or a path to a pack directory",
    ),
    "STASH_SENSE_DEVICE": ("`cpu`", "where faces are embedded: `cpu` or `cuda`"),
    "STASH_SENSE_GPUS": (
        "`1`",
        "how many embedding steps run at once; `prepare` and `serve` set the pool `gpu` to it",
    ),
    "STASH_SENSE_EXECUTOR": (
        "`in_process`",
        "`in_process`: the steps of a run one after the other; `docker`, `k8s`: a container or a pod for each step",
    ),
    "STASH_SENSE_AUTOMATION": (
        "`off` (`on` in compose)",
        "whether schedules and sensors begin switched on; what is switched in the UI holds from then on",
    ),
    "STASH_SENSE_ALERT_URL": (
        "-",
        "where alerts go: an ntfy topic, a Discord webhook, an address that takes JSON, or any address of Apprise",
    ),
    "STASH_SENSE_ALERT_AFTER": ("`2`", "how many runs of a source fail in a row before that is told"),
    "STASH_SENSE_OVERRIDES": (
        "`$DATA_DIR/identity_overrides.yaml`",
        "records that are, or are not, one person",
    ),
    "STASH_SENSE_SUPPRESSIONS": ("`$DATA_DIR/suppressions.yaml`", "people who are left out, for good"),
    "STASH_SENSE_UI_HOSTS": (
        "-",
        "names under which the UI is opened, beside loopback and its own address: `pipeline.example,tower.local`",
    ),
    "STASH_SENSE_UI_PATH_PREFIX": ("-", "path under which a proxy offers the UI: `/pipeline`"),
    "STASH_SENSE_UI_PASSWORD_FILE": (
        "-",
        "file of mode 600 with the password of the UI in its one line; any user name goes with it",
    ),
    "<NAME>_API_KEY": ("-", "key of a stash-box, its name in upper case: `STASHDB_API_KEY`"),
    "<NAME>_API_KEY_FILE": ("-", "path of a file that holds the key instead"),
    "GITHUB_TOKEN": ("-", "for `releases upload`; or `GITHUB_TOKEN_FILE`, path of a file that holds it"),
    "FLARESOLVERR_URL": ("-", "fetcher for sites behind a challenge page; unset: those sites are skipped"),
    "CHROME_CDP_URL": ("-", "a Chrome for the sites that need one; unset: those sites are skipped"),
    "DAGSTER_HOME": (
        "`$DATA_DIR/dagster`",
        "run history and `dagster.yaml`; Dagster's own commands want it set",
    ),
}
