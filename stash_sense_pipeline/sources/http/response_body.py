"""Response bodies: read in bounded pieces, with one content coding at most."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator

import httpx

# The Accept-Encoding of the requests. Each further coding would need another decoder with limits.
ACCEPT_ENCODING = "gzip, deflate"

_PIECE_BYTES = 64 * 1024
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_GZIP_MAGIC = b"\x1f"


class LongBodyError(Exception):
    """A body is longer than its limit. The rest of it was not read."""


async def read_body(response: httpx.Response, max_bytes: int) -> bytes:
    """The decoded body, of at most `max_bytes`. Raises LongBodyError, or httpx.DecodingError as body_pieces does."""
    pieces: list[bytes] = []
    size = 0
    async for piece in body_pieces(response, max_bytes):
        size += len(piece)
        if size > max_bytes:
            raise LongBodyError(f"a body of more than {max_bytes} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def body_pieces(response: httpx.Response, max_bytes: int) -> AsyncIterator[bytes]:
    """Yields the decoded body in pieces of at most 64 KiB, whatever the compression ratio.

    Raises LongBodyError when more than `max_bytes` and 64 KiB arrived, before they are decoded: a body may decode to
    nothing. Raises httpx.DecodingError for a coding that was not requested, for several codings, and for a body that is
    truncated or not in its coding.
    """
    decoder = _decoder(response)
    received = 0
    async for chunk in response.aiter_raw(_PIECE_BYTES):
        received += len(chunk)
        if received > max_bytes + _PIECE_BYTES:
            raise LongBodyError(f"a body of more than {max_bytes} bytes")
        if decoder is None:
            yield chunk
            continue
        for piece in decoder.decode(chunk):
            yield piece
    if decoder is not None:
        decoder.finish()


class _Inflater:
    """Decodes gzip (also of several members) or deflate (with or without its zlib header)."""

    def __init__(self, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._window = _GZIP_WINDOW if is_gzip else zlib.MAX_WBITS
        self._zlib = zlib.decompressobj(self._window)
        self._began = False
        self._ended = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Decodes the next bytes of the body."""
        if not self._began and data and not self._is_gzip and not _has_zlib_header(data):
            self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)
        self._began = self._began or bool(data)
        while not self._ended:
            try:
                piece = self._zlib.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise httpx.DecodingError(str(error)) from error
            if piece:
                yield piece
            data = self._zlib.unconsumed_tail
            if self._zlib.eof:
                data = self._next_member()
            if not data and len(piece) < _PIECE_BYTES:
                return

    def finish(self) -> None:
        """Raises httpx.DecodingError when the body is truncated."""
        if self._began and not self._ended and not self._zlib.eof:
            raise httpx.DecodingError("the compressed body is truncated")

    def _next_member(self) -> bytes:
        """The bytes of the next gzip member. Other bytes after a member are ignored, as browsers do."""
        rest = self._zlib.unused_data
        if self._is_gzip and rest.startswith(_GZIP_MAGIC):
            self._zlib = zlib.decompressobj(self._window)
            return rest
        self._ended = bool(rest) or not self._is_gzip
        return b""


def _decoder(response: httpx.Response) -> _Inflater | None:
    named = response.headers.get_list("content-encoding", split_commas=True)
    codings = [coding for each in named if (coding := each.strip().lower()) not in ("", "identity")]
    if not codings:
        return None
    if codings in (["gzip"], ["x-gzip"]):
        return _Inflater(is_gzip=True)
    if codings == ["deflate"]:
        return _Inflater(is_gzip=False)
    raise httpx.DecodingError("the body has a content coding that was not requested")


def _has_zlib_header(data: bytes) -> bool:
    # RFC 1950 2.2: method 8, and the first two bytes are a multiple of 31.
    return data[0] & 0x0F == 8 and (len(data) < 2 or int.from_bytes(data[:2], "big") % 31 == 0)
