"""What an operator can do about a source that gave no usable answer: one sentence for each outcome."""

from __future__ import annotations

from stash_sense_pipeline.foundation.errors import CIRCUIT_OPEN, KEY_REFUSED, Outcome


def next_step(source: str, outcome: Outcome, message: str) -> str | None:
    """The next step after a run of `source` with this outcome and message; None when there is none.

    It names the environment variable or the key of sources.yaml that decides.
    """
    if KEY_REFUSED in message:
        return f"put a valid key into {source.upper()}_API_KEY or the file of {source.upper()}_API_KEY_FILE"
    if CIRCUIT_OPEN in message:
        return "the next run tries again; is the server up?"
    return _STEPS[outcome].format(source=source) if outcome in _STEPS else None


_STEPS = {
    Outcome.BLOCKED: "it is asked again later; if it goes on, lower rate_limit of {source} in sources.yaml and check"
    " global.user_agent_contact",
    Outcome.RATE_LIMITED: "lower rate_limit of {source} in sources.yaml",
    Outcome.TIMEOUT: "the next run goes on; check url of {source} in sources.yaml if the server is up",
    Outcome.DISALLOWED: "set fetch: false or enabled: false for {source} in sources.yaml",
    Outcome.PARSE_ERROR: "the source changed its answers; see stash-sense status --unread, and report it",
    Outcome.AMBIGUOUS: "if the source really lost them, the next full sweep removes them: stash-sense build"
    " --full-sweep --sources {source}",
}
