"""A stored response in the coding of one client, and what another gets of it."""

from __future__ import annotations

import gzip
import random
import time
import zlib

import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from broker_core.errors import NotAcceptableError
from broker_django.http import content_codings
from broker_django.http.content_codings import CODED_FOR, GROWTH, MOST_MEMBERS, PIECE, decode_for

TEXT = b"once upon a time " * 100
NONE, UNKNOWN = (", ".join(f"{coding};q={weight}" for coding in ("gzip", "x-gzip", "deflate")) for weight in ("0", "x"))
RAW = zlib.compress(TEXT, wbits=-zlib.MAX_WBITS)
CODED = {"gzip": gzip.compress(TEXT, mtime=0), "x-gzip": gzip.compress(TEXT, mtime=0), "deflate": zlib.compress(TEXT)}


def fitted(accepts, coding="gzip", content=None, limit=10_000, status=200, coded_for="", **headers):
    """A response that was encoded for all clients that accept it, unless `Vary` differs."""
    fields = {"Vary": "Accept-Encoding", **headers}
    response = HttpResponse(CODED.get(coding, b"?") if content is None else content, headers=fields, status=status)
    response["Content-Encoding"] = coding
    setattr(response, CODED_FOR, coded_for)
    request = RequestFactory().get("/", headers={} if accepts is None else {"accept-encoding": accepts})
    decode_for(request, response, limit)
    return response


@pytest.mark.parametrize("accepts", ["gzip", "br, gzip;q=0.5", "*", "identity, *;q=0.1", "GZIP"])
def test_a_client_that_accepts_the_coding_gets_the_stored_response(accepts):
    response = fitted(accepts)
    assert (response["Content-Encoding"], response.content) == ("gzip", CODED["gzip"])
    assert "Accept-Encoding" in response["Vary"]


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("accepts", [None, "", "identity", "br", NONE, "*;q=0, identity;q=0.1", UNKNOWN])
def test_a_client_that_does_not_accept_it_gets_the_decoded_response(accepts, coding):
    response = fitted(accepts, coding, ETag='"1"')
    assert response.content == TEXT
    assert "Content-Encoding" not in response
    assert (response["Content-Length"], response["ETag"]) == (str(len(TEXT)), 'W/"1"')


@pytest.mark.parametrize("accepts", ["identity;q=0", "br, identity;q=0.0", "*;q=0", "gzip;q=0, *;q=0"])
def test_a_client_that_accepts_neither_gets_nothing(accepts):
    with pytest.raises(NotAcceptableError):
        fitted(accepts)


@pytest.mark.parametrize("accepts", ["br", "identity", "compress;q=0, br", "identity;q=0"])
def test_a_client_with_the_field_of_the_request_gets_the_stored_response(accepts):
    """It does not depend on the view."""
    response = fitted(accepts, coded_for=accepts)
    assert (response["Content-Encoding"], response.content) == ("gzip", CODED["gzip"])


@pytest.mark.parametrize("accepts", ["gzip;q=0", "br, GZIP; q=0.000", "identity, *;q=0", "deflate, gzip;q=0, *;q=1"])
def test_a_client_that_refuses_the_coding_does_not_get_it_even_if_the_request_refused_it(accepts):
    """Django's middleware overlooks that, and codes for any field that names gzip."""
    response = fitted(accepts, coded_for=accepts)
    assert ("Content-Encoding" in response, response.content) == (False, TEXT)


def test_one_coding_of_several_may_be_refused():
    twice = gzip.compress(zlib.compress(TEXT))
    assert fitted("gzip, deflate;q=0", "deflate, gzip", twice, coded_for="gzip, deflate;q=0").content == TEXT


@pytest.mark.parametrize("status", [206, 226])
@pytest.mark.parametrize("accepts", [None, "", "identity", "br", "gzip;q=0"])
def test_a_part_is_not_decoded(status, accepts):
    """It is a part of the bytes in their coding (RFC 9110, section 14.2), or what has changed in them (RFC 3229)."""
    part = {"Content-Range": f"bytes 0-{len(CODED['gzip']) - 1}/1000"}
    with pytest.raises(NotAcceptableError, match="partial, in the content coding gzip"):
        fitted(accepts, status=status, coded_for="gzip", **part)
    response = fitted("gzip", status=status, **part)
    assert (response.content, response["Content-Range"]) == (CODED["gzip"], part["Content-Range"])
    assert fitted(None, status=status, Vary="Cookie", **part).content == CODED["gzip"]


def test_a_decoded_response_has_no_digests_of_the_stored_one():
    digests = dict.fromkeys(("Content-Digest", "Repr-Digest", "Digest", "Content-MD5"), "sha-256=:?:")
    assert digests.items() <= dict(fitted("gzip", **digests).items()).items()
    assert not digests.keys() & fitted("identity", **digests).headers.keys()


def test_deflate_without_its_header_is_decoded():
    """As some senders understand it."""
    assert fitted("identity", "deflate", RAW).content == TEXT
    assert fitted("identity", "deflate, gzip", gzip.compress(RAW)).content == TEXT


def test_a_client_without_the_field_gets_a_response_coded_for_all():
    assert fitted(None, Vary="Cookie").content == CODED["gzip"]
    assert fitted("", Vary="Cookie").content == TEXT


def test_members_and_codings_in_a_row_are_decoded():
    members = gzip.compress(TEXT[:7]) + gzip.compress(TEXT[7:]) + b"\0" * 8
    assert fitted("identity", content=members).content == TEXT
    twice = gzip.compress(zlib.compress(TEXT))
    assert fitted("gzip", "deflate, gzip", twice).content == TEXT
    assert fitted("gzip, deflate", "deflate, gzip", twice).content == twice


@pytest.mark.parametrize("size", [1, 7, 17, PIECE])
def test_members_end_anywhere(monkeypatch, size):
    monkeypatch.setattr(content_codings, "PIECE", size)
    members = CODED["gzip"] + b"\0" * 20 + gzip.compress(b"") + CODED["gzip"] + b"\0" * 3
    assert fitted("identity", content=members).content == TEXT * 2
    for cut in (1, len(CODED["gzip"]) - 1, len(members) - 5):
        with pytest.raises(NotAcceptableError):
            fitted("identity", content=members[:cut])


def test_so_many_members_take_no_long_time():
    large = random.Random(7).randbytes(8_000_000)
    coded = gzip.compress(b"") * (MOST_MEMBERS - 1) + gzip.compress(large, 0)
    began = time.process_time()
    assert fitted("identity", content=coded, limit=len(large)).content == large
    assert time.process_time() - began < 1
    with pytest.raises(NotAcceptableError):
        fitted("identity", content=gzip.compress(b"") * (MOST_MEMBERS + 1))


@pytest.mark.parametrize(
    ("coding", "content"),
    [("br", b"?"), ("gzip, br", b"?"), ("gzip", b"no gzip"), ("gzip", CODED["gzip"][:-9]), ("deflate", b"\0\0")],
)
def test_a_response_that_cannot_be_decoded_is_not_acceptable(coding, content):
    with pytest.raises(NotAcceptableError):
        fitted("identity", coding, content)


def test_a_response_that_would_become_too_long_is_not_acceptable():
    with pytest.raises(NotAcceptableError):
        fitted("identity", content=gzip.compress(b"0" * 100 * GROWTH), limit=99)
    assert len(fitted("identity", content=gzip.compress(b"0" * 100 * GROWTH), limit=100).content) == 100 * GROWTH


def test_a_response_without_a_body_does_not_say_how_long_it_would_be():
    response = fitted("identity", content=b"", **{"Content-Length": "42"})
    assert response.content == b""
    assert not {"Content-Length", "Content-Encoding"} & response.headers.keys()
    assert fitted("gzip", content=b"", **{"Content-Length": "42"})["Content-Length"] == "42"


def test_identity_is_not_a_coding():
    assert fitted("identity", "identity, gzip", CODED["gzip"]).content == TEXT
    assert fitted("identity;q=0, gzip", "gzip, identity", CODED["gzip"]).content == CODED["gzip"]


@pytest.mark.parametrize("coding", [None, "identity", ""])
def test_a_response_without_a_coding_is_left_alone(coding):
    plain = HttpResponse(b"plain", headers={"Digest": "?"} if coding is None else {"Content-Encoding": coding})
    before = dict(plain.items())
    decode_for(RequestFactory().get("/", headers={"accept-encoding": "br"}), plain, 10)
    assert (plain.content, dict(plain.items())) == (b"plain", before)
