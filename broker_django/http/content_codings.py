"""Content codings (RFC 9110, section 8.4.1): decodes a stored response for a client that does not accept its coding."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from django.utils.cache import has_vary_header, patch_vary_headers

from broker_core.errors import NotAcceptableError
from broker_core.http.content_codings import Coded, codings_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

GROWTH = 20
"""The maximum size of a decoded response, as a multiple of MAX_RESPONSE_SIZE."""

DIGESTS = ("Content-Digest", "Repr-Digest", "Digest", "Content-MD5")
"""Fields that are computed from the encoded bytes: RFC 9530, and before it RFC 3230 and RFC 2616."""

CODED_FOR = "request_broker_coded_for"
"""The attribute of a stored response that contains the Accept-Encoding field of its own request."""
PIECE = 16 * 1024
"""The number of bytes that are decoded at once."""
MOST_MEMBERS = 1_000

_WINDOW = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


def decode_for(request: HttpRequest, response: HttpResponseBase, limit: int) -> None:
    """Decode a stored response if the client does not accept its coding. `limit` is in bytes.

    Raises NotAcceptableError if the broker cannot decode it.
    """
    codings = codings_in(response.get("Content-Encoding", ""))
    if not codings:
        return
    stored = Coded(
        codings,
        response.status_code,
        coded_for=getattr(response, CODED_FOR, ""),
        varies=has_vary_header(response, "Accept-Encoding"),
    )
    patch_vary_headers(response, ("Accept-Encoding",))
    if stored.has_to_be_decoded(request.META.get("HTTP_ACCEPT_ENCODING")):
        _decode(response, codings, limit * GROWTH)


def _decode(response: Any, codings: Sequence[str], most: int) -> None:
    if response.content:
        for coding in reversed(codings):
            response.content = _decoded(response.content, coding, most)
        response["Content-Length"] = str(len(response.content))
    else:
        del response["Content-Length"]  # a HEAD response: the decoded length is unknown
    for name in ("Content-Encoding", *DIGESTS):
        del response[name]
    etag = response.get("ETag", "")
    if etag.startswith('"'):
        response["ETag"] = f"W/{etag}"  # the same response in another representation (RFC 9110, section 8.8.1)


def _decoded(content: bytes, coding: str, most: int) -> bytes:
    """A gzip file may contain several members, which form one text (RFC 1952, section 2.2), and zeros after them."""
    parts: list[bytes] = []
    window, members = _window(content, coding), 1
    decoder = zlib.decompressobj(window)
    try:
        for piece in _pieces(content):
            rest = piece
            while rest := rest.lstrip(b"\0") if decoder.eof else rest:
                if decoder.eof:
                    decoder, members = zlib.decompressobj(window), members + 1
                parts.append(decoder.decompress(rest, most + 1))
                most -= len(parts[-1])
                if most < 0 or members > MOST_MEMBERS:
                    raise NotAcceptableError(f"the response is too large to be decoded from {coding}")
                rest = decoder.unused_data
    except zlib.error as error:
        raise NotAcceptableError(f"the response cannot be decoded from {coding}") from error
    if not decoder.eof:
        raise NotAcceptableError(f"the response ends in the middle of its {coding} data")
    return b"".join(parts)


def _pieces(content: bytes) -> Iterator[bytes]:
    """Split the content: the rest after a member is copied each time, so it must be small."""
    return (content[start : start + PIECE] for start in range(0, len(content), PIECE))


def _window(content: bytes, coding: str) -> int:
    """Some servers omit the header of `deflate` data (RFC 9110, section 8.4.1.2; RFC 1950, section 2.2)."""
    is_zlib = len(content) > 1 and content[0] & 15 == zlib.DEFLATED and not int.from_bytes(content[:2]) % 31
    return -zlib.MAX_WBITS if coding == "deflate" and not is_zlib else _WINDOW[coding]
