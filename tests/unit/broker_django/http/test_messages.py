from __future__ import annotations

import copy
import pickle
import string
import uuid
from http.cookies import Morsel
from io import BytesIO

import pytest
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.http import (
    FileResponse,
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponsePermanentRedirect,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.http.request import RawPostDataException
from django.test import AsyncRequestFactory, RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from broker_core.errors import BodyTooLargeError, DispatchNotFoundError, ResponseTooLargeError, UnavailableError
from broker_core.http.hop_by_hop import HOP_BY_HOP
from broker_core.message import RequestMessage, ResponseMessage
from broker_django.context import REPLAY_KEY, Replay, replay_of
from broker_django.http import (
    ProtectedCookies,
    problem,
    raw_body,
    requests,
    to_message,
    to_request,
    to_response,
    to_response_message,
)

LIMIT = 10_000
PATHS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
HEADERS = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20)
COOKIE_NAMES = st.text(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~:", min_size=1, max_size=8).filter(
    lambda name: not Morsel().isReservedKey(name)
)
COOKIE_VALUES = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc", "Cs"]), max_size=20)
factories = pytest.mark.parametrize("factory", [RequestFactory(), AsyncRequestFactory()], ids=["wsgi", "asgi"])


def replay():
    return Replay(uuid.uuid4(), "bulk", 1, None)


def carried(request, cookies=None, user=None):
    """The request as a worker rebuilds it, from the bytes of its message."""
    message = to_message(request, raw_body(request, LIMIT), user, cookies or {})
    return to_request(RequestMessage.decode(message.encode()), replay())


def stored(response):
    """The response as a client gets it, from the bytes that were stored."""
    return to_response(ResponseMessage.decode(to_response_message(response, LIMIT).encode()))


def facts(request):
    return {
        "method": request.method,
        "path": request.path,
        "path_info": request.path_info,
        "full": request.get_full_path(),
        "absolute": request.build_absolute_uri(),
        "script": request.META.get("SCRIPT_NAME"),
        "query": list(request.GET.lists()),
        "cookies": request.COOKIES,
        "headers": dict(request.headers),
        "type": (request.content_type, request.content_params, request.encoding),
        "client": request.META.get("REMOTE_ADDR"),
        "server": (request.META.get("SERVER_NAME"), request.get_port()),
        "secure": request.is_secure(),
        "body": request.body,
        "post": list(request.POST.lists()),
        "texts": {key: value for key, value in request.META.items() if type(value) is str},
    }


@given(
    path=PATHS,
    query=st.binary(max_size=20),
    header=HEADERS,
    body=st.binary(max_size=50),
    secure=st.booleans(),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PROPFIND"]),
)
@factories
def test_a_request_is_rebuilt_as_it_was(factory, path, query, header, body, secure, method):
    request = factory.generic(
        method, "/" + path.lstrip("/"), body, "text/plain; charset=utf-8", secure=secure, headers={"x-any": header}
    )
    request.META["QUERY_STRING"] = query.decode("latin-1")
    rebuilt = carried(request)
    assert type(rebuilt) is type(request)
    assert facts(rebuilt) == facts(request)


@factories
def test_forms_and_files_are_parsed_again(factory):
    upload = BytesIO(b"\x00\xff" * 100)
    upload.name = "übersicht.bin"
    request = factory.post("/", {"name": "Zoë", "upload": upload})
    rebuilt = carried(request)
    assert rebuilt.POST.dict() == {"name": "Zoë"}
    assert rebuilt.FILES["upload"].name == "übersicht.bin"
    assert rebuilt.FILES["upload"].read() == b"\x00\xff" * 100


def test_a_path_that_is_not_utf_8_is_rebuilt():
    request = WSGIRequest({**RequestFactory().get("/").environ, "PATH_INFO": "/\xff\xc3\xa9/"})
    assert request.path == "/%FFé/"
    assert facts(carried(request)) == facts(request)


def test_a_script_name_is_rebuilt_as_it_was():
    wsgi = RequestFactory(SCRIPT_NAME="/caf\xc3\xa9").get("/menü/")
    assert wsgi.path == "/café/menü/"
    assert facts(carried(wsgi)) == facts(wsgi)
    scope = {**AsyncRequestFactory().get("/").scope, "path": "/café/menü/", "root_path": "/café"}
    asgi = ASGIRequest(scope, BytesIO())
    assert asgi.path_info == "/menü/"
    assert facts(carried(asgi)) == facts(asgi)


def test_a_body_without_a_length_gets_one():
    request = RequestFactory().post("/", b"a=1", "application/x-www-form-urlencoded")
    request.META["CONTENT_LENGTH"] = ""
    message = to_message(request, b"a=1", None, {})
    assert to_request(message, replay()).POST.dict() == {"a": "1"}


@factories
def test_the_user_and_the_mark_travel(factory):
    request = factory.get("/")
    message = to_message(request, b"", "7", {})
    mark = replay()
    assert message.user == "7"
    assert replay_of(request) is None
    assert replay_of(to_request(message, mark)) is mark


@factories
@pytest.mark.parametrize("attribute", ["csrf_processing_done", "_dont_enforce_csrf_checks"])
def test_a_csrf_check_that_was_made_or_waived_is_not_made_again(factory, attribute):
    request = factory.get("/")
    assert not hasattr(carried(request), attribute)
    setattr(request, attribute, True)
    assert getattr(carried(request), attribute)


@factories
def test_no_client_can_mark_a_request(factory):
    request = factory.get("/", headers={"request_broker.replay": "1", "request-broker.replay": "1"})
    assert replay_of(request) is None
    request.META[REPLAY_KEY] = "1"
    assert replay_of(request) is None
    assert isinstance(carried(request).META[REPLAY_KEY], Replay)


def test_the_environment_of_the_process_is_not_sent(monkeypatch):
    monkeypatch.setitem(requests.PROCESS_ENVIRONMENT, "DATABASE_PASSWORD", "secret")
    monkeypatch.setitem(requests.PROCESS_ENVIRONMENT, "SERVER_PORT", "80")
    monkeypatch.setitem(requests.PROCESS_ENVIRONMENT, "REMOTE_USER", "root")
    request = RequestFactory().get("/", DATABASE_PASSWORD="secret", REMOTE_USER="ada")
    environ = to_message(request, b"", None, {}).environ
    assert "DATABASE_PASSWORD" not in environ
    assert (environ["SERVER_PORT"], environ["REMOTE_USER"]) == ("80", "ada")


HOPS = {
    "Keep-Alive": "timeout=5",
    "Proxy-Authorization": "Basic Og==",
    "Proxy-Connection": "close",
    "TE": "trailers",
    "Trailer": "X-Sum",
    "Transfer-Encoding": "chunked",
    "Upgrade": "h2c",
    "X-Foo": "1",
}


@factories
def test_hop_by_hop_fields_are_removed(factory):
    request = factory.get("/", headers={"Connection": "close, X-Foo", **HOPS, "X-Bar": "2"})
    assert HOPS.keys() <= request.headers.keys()
    headers = carried(request).headers
    assert not {"Connection", *HOPS} & headers.keys()
    assert headers["X-Bar"] == "2"


@factories
def test_no_client_can_have_the_fields_dropped_that_the_site_relies_on(factory, settings):
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_MY_PROTO", "https")
    settings.CSRF_HEADER_NAME = "HTTP_MY_CSRF"
    essential = {
        "Authorization": "Bearer 1",
        "Content-Type": "text/plain",
        "Cookie": "a=1",
        "Host": "testserver",
        "My-Csrf": "x",
        "My-Proto": "https",
        "X-Forwarded-For": "203.0.113.9",
    }
    listed = ", ".join([*essential, *(name.lower().replace("-", "_") for name in essential)])
    sent = factory.get("/", headers={"Connection": listed, **essential})
    assert essential.keys() <= sent.headers.keys()
    request = carried(sent)
    assert {**request.headers, "Connection": listed} == {**sent.headers}
    assert (request.scheme, request.COOKIES) == ("https", sent.COOKIES)


def test_hop_by_hop_fields_are_not_stored_with_a_response():
    response = HttpResponse("x", headers={"Connection": "close, X-Foo, Content-Type", **HOPS, "X-Bar": "2"})
    stored = to_response_message(response, LIMIT)
    assert sorted(stored.headers) == [("Content-Type", "text/html; charset=utf-8"), ("X-Bar", "2")]


def test_a_header_that_middleware_set_to_any_text_travels():
    request = AsyncRequestFactory().get("/")
    request.META["HTTP_X_CITY"] = "東京"
    assert carried(request).META["HTTP_X_CITY"] == "東京"


COOKIE_FIELDS = ["a=1", 'a="x\\073 y"; b=2', "a=\xe6\x97\xa5; b", "=1;; a = 2 ;b=3=4", 'a="unclosed; b=1', ""]


@factories
@pytest.mark.parametrize("field", COOKIE_FIELDS)
def test_cookies_are_rebuilt_as_they_were_sent_beside_new_ones(factory, field):
    request = factory.get("/", headers={"cookie": field})
    sent = dict(request.COOKIES)
    rebuilt, with_new = (carried(request, new).COOKIES for new in ({}, {"sessionid": "new", "a": '"x\\054y"'}))
    assert rebuilt == sent
    assert with_new == {**sent, "sessionid": "new", "a": "x,y"}


@factories
def test_an_old_cookie_of_the_name_is_not_sent_on(factory):
    request = factory.get("/", headers={"cookie": "sessionid=old; a=1; sessionid=older"})
    message = to_message(request, b"", None, {"sessionid": "new"})
    assert message.environ["HTTP_COOKIE"] == "a=1; sessionid=new"


@factories
def test_a_body_is_left_readable(factory):
    request = factory.post("/", {"a": "1"})
    body = raw_body(request, LIMIT)
    assert raw_body(request, LIMIT) == body == request.body
    assert request.POST["a"] == "1"


@factories
@pytest.mark.parametrize("declared", ["", "0", "²", "none", "11"])
def test_a_body_above_the_limit_is_refused_with_any_declared_length(factory, declared):
    request = factory.post("/", b"x" * 11, "text/plain")
    if isinstance(request, WSGIRequest):
        request = WSGIRequest({**request.environ, "wsgi.input": BytesIO(b"x" * 11)})
    request.META["CONTENT_LENGTH"] = declared
    with pytest.raises(BodyTooLargeError):
        raw_body(request, 10)


def test_a_declared_length_above_the_limit_is_refused_before_anything_is_read():
    request = RequestFactory().post("/", b"x" * 11, "text/plain")
    with pytest.raises(BodyTooLargeError):
        raw_body(request, 10)
    assert not request._read_started


@pytest.mark.parametrize("length", ["9" * 19, "9" * 30, "9" * 5_000])
def test_a_length_that_no_stream_can_count_is_above_every_limit(length):
    request = RequestFactory().get("/", CONTENT_LENGTH=length)
    with pytest.raises(BodyTooLargeError):
        raw_body(request, 10)


def test_a_body_of_the_limit_is_taken_and_one_read_before_is_measured():
    request = RequestFactory().post("/", b"x" * 10, "text/plain")
    assert raw_body(request, 10) == b"x" * 10
    with pytest.raises(BodyTooLargeError):
        raw_body(request, 9)


def test_a_body_that_was_consumed_is_not_there():
    request = RequestFactory().post("/", {"a": "1"})
    _ = request.POST
    with pytest.raises(RawPostDataException):
        raw_body(request, LIMIT)


@given(
    status=st.integers(200, 599),
    reason=st.text(string.ascii_letters + " '", max_size=10),
    headers=st.dictionaries(
        st.from_regex(r"[A-Za-z][A-Za-z-]{0,8}", fullmatch=True).filter(
            lambda name: name.lower() not in HOP_BY_HOP | {"location"}
        ),
        HEADERS.filter(lambda value: "\x7f" not in value),
    ),
    body=st.binary(max_size=50),
)
def test_a_response_is_stored_verbatim(status, reason, headers, body):
    response = HttpResponse(body, status=status, reason=reason, headers=headers)
    again = stored(response)
    assert (again.status_code, again.reason_phrase, again.content) == (status, reason, body)
    assert list(again.items()) == list(response.items())


@pytest.mark.parametrize("body", [b"", b"not modified"])
def test_a_304_is_stored_with_the_body_that_the_view_gave_it(body):
    assert stored(HttpResponse(body, status=304)).content == body


def test_a_response_without_a_content_type_gets_none():
    response = HttpResponse(status=204)
    del response["Content-Type"]
    assert dict(stored(response).items()) == {}


def test_header_values_that_are_not_latin_1_are_stored_as_django_sends_them():
    response = HttpResponse(headers={"X-City": "東京", "X-Name": "Zoë"})
    assert dict(stored(response).items()) == dict(response.items())


@pytest.mark.parametrize(
    "redirect",
    [
        HttpResponseRedirect("/echo/?a=ü"),
        HttpResponsePermanentRedirect("https://shop.example/"),
        HttpResponse(status=302, headers={"Location": "//x"}),
    ],
)
def test_a_redirect_is_one_of_djangos_own(redirect):
    again = stored(redirect)
    assert again.url == again["Location"] == redirect["Location"]
    assert again.status_code == redirect.status_code
    assert dict(again.items()) == dict(redirect.items())


@pytest.mark.parametrize(
    "location", ["", "javascript:alert(1)", "http://[", "https://[::1", "x" * 100_000, "http://\xfc/"]
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 201])
def test_any_location_is_stored_verbatim(status, location):
    again = to_response(ResponseMessage(status, "Elsewhere", (("Location", location),)))
    assert (again.status_code, again.reason_phrase, again["Location"]) == (status, "Elsewhere", location)


def test_a_redirect_without_a_location_is_a_plain_response():
    assert type(to_response(ResponseMessage(302))) is HttpResponse


@given(COOKIE_NAMES, COOKIE_VALUES, st.sampled_from(["/", "/a b", "/ü", "/a,b", ""]), st.sampled_from([None, 0, 60]))
def test_any_cookie_is_stored_verbatim(name, value, path, age):
    response = HttpResponse()
    response.set_cookie(name, value, max_age=age, path=path, domain="shop.example", secure=True, httponly=True)
    again = stored(response).cookies
    assert [morsel.OutputString() for morsel in again.values()] == [response.cookies[name].OutputString()]
    assert again[name].value == value


def test_cookies_keep_their_attributes_and_deletions():
    response = HttpResponse()
    response.set_cookie("a", "1", max_age=60, samesite="Strict", httponly=True)
    response.delete_cookie("b", path="/shop", domain="shop.example")
    again = stored(response).cookies
    assert (again["a"]["max-age"], again["a"]["samesite"], again["a"]["httponly"]) == (60, "Strict", True)
    assert (again["b"].value, str(again["b"]["max-age"]), again["b"]["path"]) == ("", "0", "/shop")
    assert again.output() == response.cookies.output()


def test_protected_cookies_are_final_and_others_can_be_set():
    response = stored(HttpResponse())
    response.cookies = ProtectedCookies(["sessionid=replayed; Path=/; HttpOnly"])
    response.set_cookie("sessionid", "outer", max_age=5)
    response.delete_cookie("sessionid")
    response.cookies["sessionid"]["path"] = "/elsewhere"
    response.set_cookie("language", "de", max_age=60)
    response.delete_cookie("language")
    assert response.cookies["sessionid"].OutputString() == "sessionid=replayed; HttpOnly; Path=/"
    assert response.cookies["language"]["max-age"] == 0


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda cookies: pickle.loads(pickle.dumps(cookies))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_protected_cookies_can_be_copied_and_cached(duplicate):
    cookies = ProtectedCookies(["a=1; Path=/", 'b="x\\054"'])
    cookies["c"] = "2"
    again = duplicate(cookies)
    again["a"] = "other"
    assert again.output() == cookies.output()


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
def test_a_response_above_the_limit_is_refused(size):
    async def chunks():
        for _ in range(size):
            yield b"x"

    read = 0

    def counted():
        nonlocal read
        for _ in range(size * 10 if size > LIMIT else size):
            read += 1
            yield b"x"

    for response in (
        HttpResponse(b"x" * size),
        StreamingHttpResponse(counted()),
        StreamingHttpResponse(chunks()),
        FileResponse(BytesIO(b"x" * size)),
    ):
        if size > LIMIT:
            with pytest.raises(ResponseTooLargeError):
                to_response_message(response, LIMIT)
        else:
            assert to_response_message(response, LIMIT).body == b"x" * size
    assert read == size


def test_a_streamed_response_is_stored_whole():
    response = StreamingHttpResponse(["ü", b"\xff", "z"], content_type="text/plain")
    assert stored(response).content == "ü".encode() + b"\xffz"


def test_an_error_is_a_problem_document():
    response = problem(DispatchNotFoundError("no such dispatch"))
    assert isinstance(response, JsonResponse)
    assert (response.status_code, response["Content-Type"]) == (404, "application/problem+json")
    assert response["Cache-Control"] == "private, no-store"
    assert "Retry-After" not in response
    assert problem(UnavailableError()).headers["Retry-After"] == "5"
    assert b'"detail": "no such dispatch"' in response.content


def test_a_reason_of_ones_own_is_kept():
    assert stored(HttpResponseBadRequest(reason="I'm a teapot")).reason_phrase == "I'm a teapot"
