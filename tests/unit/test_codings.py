"""A stored response in the coding of one client, and what another gets of it."""

from __future__ import annotations

import gzip
import zlib

import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from broker_core.errors import NotAcceptableError
from broker_django.http.codings import GROWTH, fit

TEXT = b"once upon a time " * 100
NONE, UNKNOWN = (", ".join(f"{coding};q={weight}" for coding in ("gzip", "x-gzip", "deflate")) for weight in ("0", "x"))
CODED = {"gzip": gzip.compress(TEXT, mtime=0), "x-gzip": gzip.compress(TEXT, mtime=0), "deflate": zlib.compress(TEXT)}


def fitted(accepts, coding="gzip", content=None, limit=10_000, **headers):
    """Of a response that was coded for whoever accepts it, unless `Vary` says otherwise."""
    fields = {"Vary": "Accept-Encoding", **headers}
    response = HttpResponse(CODED.get(coding, b"?") if content is None else content, headers=fields)
    response["Content-Encoding"] = coding
    request = RequestFactory().get("/", headers={} if accepts is None else {"accept-encoding": accepts})
    fit(request, response, limit)
    return response


@pytest.mark.parametrize("accepts", ["gzip", "br, gzip;q=0.5", "*", "identity, *;q=0.1", "GZIP"])
def test_who_accepts_the_coding_gets_it_as_stored(accepts):
    response = fitted(accepts)
    assert (response["Content-Encoding"], response.content) == ("gzip", CODED["gzip"])
    assert "Accept-Encoding" in response["Vary"]


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("accepts", [None, "", "identity", "br", NONE, "*;q=0", UNKNOWN])
def test_who_does_not_gets_it_decoded(accepts, coding):
    response = fitted(accepts, coding, ETag='"1"')
    assert response.content == TEXT
    assert "Content-Encoding" not in response
    assert (response["Content-Length"], response["ETag"]) == (str(len(TEXT)), 'W/"1"')


def test_who_says_nothing_gets_what_is_coded_for_everybody():
    assert fitted(None, Vary="Cookie").content == CODED["gzip"]
    assert fitted("", Vary="Cookie").content == TEXT


def test_members_and_codings_in_a_row_are_decoded():
    members = gzip.compress(TEXT[:7]) + gzip.compress(TEXT[7:]) + b"\0" * 8
    assert fitted("identity", content=members).content == TEXT
    twice = gzip.compress(zlib.compress(TEXT))
    assert fitted("gzip", "deflate, gzip", twice).content == TEXT
    assert fitted("gzip, deflate", "deflate, gzip", twice).content == twice


@pytest.mark.parametrize(
    ("coding", "content"),
    [("br", b"?"), ("gzip, br", b"?"), ("gzip", b"no gzip"), ("gzip", CODED["gzip"][:-9]), ("deflate", b"\0\0")],
)
def test_what_cannot_be_decoded_is_not_acceptable(coding, content):
    with pytest.raises(NotAcceptableError):
        fitted("identity", coding, content)


def test_a_response_that_would_become_too_long_is_not_acceptable():
    with pytest.raises(NotAcceptableError):
        fitted("identity", content=gzip.compress(b"0" * 100 * GROWTH), limit=99)
    assert len(fitted("identity", content=gzip.compress(b"0" * 100 * GROWTH), limit=100).content) == 100 * GROWTH


def test_a_response_without_a_body_or_a_coding_is_left_alone():
    assert fitted("identity", content=b"").content == b""
    plain = HttpResponse(b"plain")
    fit(RequestFactory().get("/"), plain, 10)
    assert "Vary" not in plain
