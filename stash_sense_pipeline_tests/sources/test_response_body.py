"""Response bodies: for each content coding the pieces are small and join to the encoded data."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.sources.http.response_body import LongBodyError, body_pieces, read_body

PIECE = 64 * 1024


def response(coding: str | None, chunks: Sequence[bytes]) -> httpx.Response:
    """A response with a body that arrives in these chunks."""

    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return httpx.Response(200, headers={"Content-Encoding": coding} if coding else {}, content=stream())


def pieces(coding: str | None, *chunks: bytes) -> list[bytes]:
    """All pieces of such a response body."""

    async def read() -> list[bytes]:
        return [piece async for piece in body_pieces(response(coding, chunks), 2**40)]

    return asyncio.run(read())


def raw_deflate(data: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(data) + encoder.flush()


CODINGS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "Deflate": raw_deflate}


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.slow
@given(
    st.sampled_from(sorted(CODINGS)), st.binary(max_size=2000), st.integers(1, 300), st.lists(st.integers(0))
)
def test_a_body_is_decoded_for_any_split_into_chunks(coding, data, times, places):
    data *= times
    got = pieces(coding, *cut(CODINGS[coding](data), places))
    assert b"".join(got) == data
    assert all(len(piece) <= PIECE for piece in got)


@pytest.mark.slow
@given(st.lists(st.binary(max_size=100), min_size=1, max_size=5), st.lists(st.integers(0)))
def test_several_gzip_members_are_one_body(parts, places):
    encoded = b"".join(map(gzip.compress, parts))
    assert b"".join(pieces("gzip", *cut(encoded, places))) == b"".join(parts)


def test_a_body_without_a_coding_is_not_decoded():
    assert b"".join(pieces(None, b"ab", b"c")) == b"abc"
    assert b"".join(pieces("identity", b"abc")) == b"abc"


def test_bytes_after_the_end_of_a_gzip_body_are_ignored():
    assert b"".join(pieces("gzip", gzip.compress(b"whole") + bytes(512))) == b"whole"


@pytest.mark.parametrize(
    "coding", ["gzip, gzip", "gzip,deflate", "br", "zstd", "compress", "gzip, identity, gzip"]
)
def test_several_codings_and_other_codings_are_refused(coding):
    with pytest.raises(httpx.DecodingError):
        pieces(coding, gzip.compress(gzip.compress(b"x")))


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_body_that_ends_early_is_refused(coding):
    encoded = CODINGS[coding](bytes(range(256)) * 40)
    with pytest.raises(httpx.DecodingError):
        pieces(coding, encoded[:-5])


@pytest.mark.slow
def test_a_compressed_body_that_expands_is_decoded_in_small_pieces():
    bomb = gzip.compress(bytes(200_000_000))

    async def read_a_megabyte() -> int:
        size = 0
        async for piece in body_pieces(response("gzip", [bomb]), 2**40):
            size += len(piece)
            if size > 1_000_000:
                break
        return size

    tracemalloc.start()
    try:
        assert asyncio.run(read_a_megabyte()) < 1_000_000 + 2 * PIECE
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_a_body_that_decodes_to_nothing_is_refused_at_its_limit():
    empty = gzip.compress(b"")
    sent = 0

    async def chunks():
        nonlocal sent
        while True:
            sent += 1
            yield empty * 1000

    endless = httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=chunks())
    with pytest.raises(LongBodyError):
        asyncio.run(read_body(endless, 100_000))
    assert sent < 20
