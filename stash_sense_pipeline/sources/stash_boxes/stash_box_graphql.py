"""GraphQL requests to a stash-box server, and the failures that it reports in its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stash_sense_pipeline.foundation.errors import HttpStatusError, Outcome, SourceError
from stash_sense_pipeline.privacy.redaction.log_redaction import redacted
from stash_sense_pipeline.sources import json_fields as json
from stash_sense_pipeline.sources.cleaning.text import clean_text
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.http.retry_policy import MayRetry

# Data and errors of an answer.
Answer = tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]

# Longest error message that is read, in characters.
_MAX_MESSAGE = 20_000
_TRIES = 3
_HTTP_UNAUTHORIZED = 401
_KEY_REFUSED = "the server refused the key (expired or wrong)"


class RowsError(SourceError):
    """The server could not resolve single performers of a page."""


class StashBoxGraphQL:
    """The GraphQL endpoint of one stash-box. All methods that send requests raise SourceError."""

    def __init__(self, url: str, api_key: str, client: PoliteClient, source: str) -> None:
        self.url = url
        self._api_key = api_key
        self._client = client
        self._source = source
        self._headers = {"Accept": "application/json", **({"ApiKey": api_key} if api_key else {})}

    async def ask(self, query: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """The data of an answer without errors. An answer with errors is asked for again, up to three times in all.

        Raises RowsError at once when the errors are about single performers of a page.
        """
        for attempt in range(1, _TRIES + 1):
            data, errors = await self.exchange(query, variables)
            if not errors:
                return data
            if any(path_of(error)[:2] == ("queryPerformers", "performers") for error in errors):
                raise RowsError(
                    self._source, Outcome.PARSE_ERROR, f"the server failed: {self._message(errors[0])}"
                )
            if attempt == _TRIES:
                raise self.failure(errors)
        raise AssertionError("unreachable")

    async def exchange(
        self, query: str, variables: Mapping[str, Any], may_retry: MayRetry | None = None
    ) -> Answer:
        """The data (empty when null) and errors of one query. Raises SourceError (blocked) for a refused key."""
        payload = {"query": query, "variables": variables}
        try:
            response = await self._client.post_json(
                self.url, payload, headers=self._headers, may_retry=may_retry
            )
        except HttpStatusError as error:
            raise self._status(error) from error
        answer = response.json()
        if not isinstance(answer, dict) or not ("data" in answer or "errors" in answer):
            raise self.parse_error(f"{self.url} did not give a GraphQL answer; is it a stash-box?")
        with json.reading(self._source):
            found = json.sequence(answer, "errors", "the answer") if answer.get("errors") is not None else ()
            errors = [json.mapping(error, "an error") for error in found]
            data = json.mapping(answer.get("data") or {}, "data")
        if any(_text_of(error).lower() == "not authorized" for error in errors):
            raise SourceError(self._source, Outcome.BLOCKED, _KEY_REFUSED)
        if not data and not errors:
            raise self.parse_error("the server answered neither data nor errors")
        return data, errors

    def failure(self, errors: Sequence[Mapping[str, Any]]) -> SourceError:
        """The SourceError (parse_error) for the errors of an answer."""
        return self.parse_error(f"the server failed: {self._message(errors[0])}")

    def parse_error(self, message: str) -> SourceError:
        """A SourceError (parse_error) with this message."""
        return SourceError(self._source, Outcome.PARSE_ERROR, message)

    def _status(self, error: HttpStatusError) -> SourceError:
        if error.status == _HTTP_UNAUTHORIZED:
            return SourceError(self._source, Outcome.BLOCKED, _KEY_REFUSED)
        if error.outcome.is_answer or error.outcome is Outcome.PARSE_ERROR:
            return self.parse_error(
                f"{self.url} did not accept a stash-box query (status {error.status}); is it a stash-box?"
            )
        return error

    def _message(self, error: Mapping[str, Any]) -> str:
        """The message of an error, without the API key, which some servers repeat.

        The key is removed before the message is truncated, which could leave a part of it.
        """
        return redacted(_text_of(error), [self._api_key])[:200]


def path_of(error: Mapping[str, Any]) -> tuple[str, ...]:
    """The path of a GraphQL error without list positions; empty when it has none."""
    path = error.get("path")
    return tuple(step for step in path if isinstance(step, str)) if isinstance(path, list) else ()


def _text_of(error: Mapping[str, Any]) -> str:
    return clean_text(str(error.get("message"))[:_MAX_MESSAGE])
