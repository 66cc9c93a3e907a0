"""Content codings (RFC 9110, section 8.4.1): what was coded for one client may be asked for by another."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from django.utils.cache import has_vary_header, patch_vary_headers
from django.utils.http import parse_header_parameters

from broker_core.errors import NotAcceptableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

GROWTH = 20
"""How many times as long as the limit of stored responses a response may be once it is decoded."""

DIGESTS = ("Content-Digest", "Repr-Digest", "Digest", "Content-MD5")
"""Fields that are about the bytes in their coding: RFC 9530, and before it RFC 3230 and RFC 2616."""

CODED_FOR = "request_broker_coded_for"
"""The attribute of a stored response with the Accept-Encoding field of the request that it was coded for."""
PIECE = 16 * 1024
"""Bytes that are decoded at once."""
MOST_MEMBERS = 1_000

_WINDOW = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


def fit(request: HttpRequest, response: HttpResponseBase, limit: int) -> None:
    """Decode a stored response for a client that does not accept its coding. `limit` is in bytes.

    A client that says nothing accepts what is coded for everybody, but not what was coded for those that accept it, as
    `Vary` tells. Raises NotAcceptableError for a coding that cannot be undone here.
    """
    given = [coding.strip().lower() for coding in response.get("Content-Encoding", "").split(",")]
    codings = [coding for coding in given if coding not in {"", "identity"}]
    if not codings:
        return
    accepted = request.META.get("HTTP_ACCEPT_ENCODING")
    if accepted is None and not has_vary_header(response, "Accept-Encoding"):
        return
    if accepted and accepted == getattr(response, CODED_FOR, ""):
        return  # Django's middleware overlooks `gzip;q=0`, and the client would have got the same directly
    patch_vary_headers(response, ("Accept-Encoding",))
    if all(_accepts(accepted or "", coding) for coding in codings):
        return
    stored: Any = response
    if not _WINDOW.keys() >= set(codings) or not _accepts_none(accepted or ""):
        raise NotAcceptableError(f"the response is stored in the coding {', '.join(codings)}")
    if stored.content:
        for coding in reversed(codings):
            stored.content = _decoded(stored.content, coding, limit * GROWTH)
        stored["Content-Length"] = str(len(stored.content))
    else:
        del stored["Content-Length"]  # of a HEAD: how long it would be is not known
    for name in ("Content-Encoding", *DIGESTS):
        del stored[name]
    etag = stored.get("ETag", "")
    if etag.startswith('"'):
        stored["ETag"] = f"W/{etag}"  # the same response in another form (RFC 9110, section 8.8.1)


def _decoded(content: bytes, coding: str, most: int) -> bytes:
    """A gzip file may have several members, which are one text (RFC 1952, section 2.2), and zeros behind them."""
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
                    raise NotAcceptableError(f"the response is too long to be decoded from {coding}")
                rest = decoder.unused_data
    except zlib.error as error:
        raise NotAcceptableError(f"the response cannot be decoded from {coding}") from error
    if not decoder.eof:
        raise NotAcceptableError(f"the response ends in the middle of its {coding}")
    return b"".join(parts)


def _pieces(content: bytes) -> Iterator[bytes]:
    """What is behind a member is copied each time: no more than the rest of a piece."""
    return (content[start : start + PIECE] for start in range(0, len(content), PIECE))


def _window(content: bytes, coding: str) -> int:
    """Some senders leave out the header that `deflate` has (RFC 9110, section 8.4.1.2; RFC 1950, section 2.2)."""
    is_zlib = len(content) > 1 and content[0] & 15 == zlib.DEFLATED and not int.from_bytes(content[:2]) % 31
    return -zlib.MAX_WBITS if coding == "deflate" and not is_zlib else _WINDOW[coding]


def _accepts(field: str, coding: str) -> bool:
    """RFC 9110, section 12.5.3."""
    weights = _weights(field)
    return weights.get(coding, weights.get("*", False))


def _accepts_none(field: str) -> bool:
    """Whether a response without a coding is acceptable, as it is unless the client says otherwise."""
    weights = _weights(field)
    return weights.get("identity", weights.get("*", True))


def _weights(field: str) -> dict[str, bool]:
    """By coding, whether it is acceptable."""
    parts = (parse_header_parameters(part) for part in field.split(","))
    return {name.strip(): _is_positive(parameters.get("q", "1")) for name, parameters in parts}


def _is_positive(weight: str) -> bool:
    try:
        return float(weight) > 0
    except ValueError:
        return False
