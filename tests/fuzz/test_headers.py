"""Any header fields: no request becomes a replay, none makes the broker fail, and a replay sees them all."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes, unquote

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.http import parse_cookie
from django.test import AsyncClient, Client, override_settings
from django.test.client import FakePayload
from hypothesis import example
from hypothesis import strategies as st

from broker_core.http.hop_by_hop import connection_options
from broker_django.http.requests import with_cookies
from broker_django.models import DispatchRecord
from broker_django.tracking import views
from tests.fuzz import site
from tests.fuzz.examples import fuzz

if TYPE_CHECKING:
    from collections.abc import Iterator

Headers = dict[str, str]

NAMES = [
    "Accept-Language",
    "Authorization",
    "Connection",
    "Content-Encoding",
    "Cookie",
    "Expect",
    "Forwarded",
    "Idempotency-Key",
    "If-None-Match",
    "Prefer",
    "Range",
    "Request-Broker.Replay",
    "Request_Broker_Replay",
    "Request-Broker-Replay",
    "request_broker.replay",
    "Traceparent",
    "Tracestate",
    "Transfer-Encoding",
    "Upgrade",
    "X-Csrftoken",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Proto",
    "X-Http-Method-Override",
    "X-Replay",
    "X-Requested-With",
    "X-Script-Name",
]
VALUES = [
    "respond-async, wait=5",
    'respond-async; wait="5',
    "wait=99999999999999999999",
    "wait=\u00b2",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "sessionid=0123456789abcdef; csrftoken=" + "a" * 32,
    "sessionid=; csrftoken=; messages=; =; ;;",
    "Bearer \u00e4\u00ff",
    "Token 0123456789",
    "Basic Og==",
    "close, X-Replay",
    "https",
    "example.org:99999",
    "1, 2, 3",
    "Replay(id=1)",
    "1",
    "",
]
# Field values as servers hand them on (RFC 9110, section 5.5), one character for each byte.
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)
TOKENS = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,24}", fullmatch=True)
ANY_HEADERS = st.dictionaries(st.sampled_from(NAMES) | TOKENS, st.sampled_from(VALUES) | TEXT, max_size=8)
HOSTS = st.sampled_from(["testserver", "testserver:8000", "[::1]:80", "a b", "..", "\u00e4", "x" * 300, ""]) | TEXT
LENGTHS = st.sampled_from(["", "0", "3", "8", "9", "99", "-1", "+8", "8 ", "1e3", "abc", "9" * 30, "\u00b2"]) | TEXT
TYPES = (
    st.sampled_from(
        [
            "application/x-www-form-urlencoded",
            "application/x-www-form-urlencoded; charset=latin-1",
            "application/json; charset=utf-7",
            "text/plain; charset=nonsense",
            "text/plain; charset=utf-16",
            "multipart/form-data",
            "multipart/form-data; boundary=x",
            "multipart/form-data; boundary=" + "x" * 300,
            "multipart/mixed; boundary",
            ";",
            "",
        ]
    )
    | TEXT
)
METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"]) | TOKENS
PATHS = st.just(b"") | st.binary(max_size=30) | st.sampled_from([b"\x00", b"\xff", b"x" * 3000, b"%2e", b"..//"])
QUERIES = st.sampled_from(["", "a=1&a=2", "wait=1", "%00=%ff", "&&==", "a[]=;"]) | TEXT.map(lambda text: text[:30])
BODIES = st.sampled_from([b"", b"amount=5", b'{"a": 1}', b"--x\r\n\r\n--x--"]) | st.binary(max_size=40)

CONDITIONS = [
    'request.headers["prefer"].matches("^(a+)+$")',
    'request.headers["x-forwarded-for"].startsWith("10.") && request.cookies["sessionid"].size() > 100',
    'int(request.headers["x-forwarded-port"]) > 70000 || duration(request.headers["prefer"]) > duration("1h")',
    'timestamp(request.headers["idempotency-key"]) > now',
    'request.query["wait"] == "no" || request.content_type == "none/none" || request.size > 999999999',
    'request.full_path.contains("\u00fe\u00ff") && request.host == "nowhere" && request.remote_addr == ""',
]


@pytest.fixture(autouse=True)
def noting_site(db: None) -> Iterator[None]:
    """Requests are queued and replayed eagerly, while the client is held."""
    rules = [{"when": condition, "queue": "payment"} for condition in CONDITIONS]
    broker = {
        "MAX_WAIT": 0.01,
        "QUEUES": {"bulk": {"wait": 1}, "payment": {"wait": 1}},
        "RULES": [*rules, {"when": "true", "queue": "bulk"}],
    }
    with override_settings(
        ROOT_URLCONF="tests.fuzz.site",
        MIDDLEWARE=["tests.fuzz.site.door", *settings.MIDDLEWARE],
        USE_X_FORWARDED_HOST=True,
        SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
        REQUEST_BROKER=broker,
    ):
        yield


def send_wsgi(method: str, path: str, query: str, headers: Headers, body: bytes) -> Any:
    """As a WSGI server would: the fields as CGI variables, and a stream that ends with the body."""
    plain = {"content-length": "CONTENT_LENGTH", "content-type": "CONTENT_TYPE"}
    environ: dict[str, Any] = {
        plain.get(name.lower(), f"HTTP_{name.upper().replace('-', '_')}"): value for name, value in headers.items()
    }
    environ |= {"QUERY_STRING": query, "wsgi.input": BytesIO(body)}
    return Client(raise_request_exception=False).generic(method, path, **environ)


def send_asgi(method: str, path: str, query: str, headers: Headers, body: bytes) -> Any:
    """As an ASGI server would: it frames the body itself."""
    fields = {"host": "testserver", **{name.lower(): value for name, value in headers.items()}}
    fields.pop("content-length", None)
    scope = {
        "method": method,
        "path": unquote(path),
        "query_string": query.encode("ascii", "ignore"),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
        "_body_file": FakePayload(body),
    }
    return async_to_sync(AsyncClient(raise_request_exception=False).request)(**scope)


SENDERS = st.sampled_from([send_wsgi, send_asgi])
ASKED = {
    "send": SENDERS,
    "method": METHODS,
    "path": PATHS.map(lambda path: "/seen/" + quote_from_bytes(path)),
    "query": QUERIES,
    "headers": st.builds(
        lambda headers, special: headers | {name: value for name, value in special.items() if value is not None},
        ANY_HEADERS,
        st.fixed_dictionaries(
            {"Host": st.none() | HOSTS, "Content-Length": st.none() | LENGTHS, "Content-Type": st.none() | TYPES}
        ),
    ),
    "body": BODIES,
}


def hop_by_hop(meta: dict[str, str]) -> set[str]:
    names = connection_options(meta.get("HTTP_CONNECTION", ""), {"x-csrftoken", "x-forwarded-proto"})
    return {f"HTTP_{name.upper().replace('-', '_')}" for name in names}


def texts(meta: dict[str, str], *, body: bool) -> dict[str, str]:
    """Returns what the client sent: without hop-by-hop fields, and with the length if there is a body."""
    noted = {"CSRF_COOKIE", "CONTENT_LENGTH" if body else "", *hop_by_hop(meta)}
    return {key: value for key, value in meta.items() if key not in noted}


def with_new_cookie(sent: Any, response: Any) -> Any:
    """Returns what the replay must see: Django sets a new CSRF cookie if the client sent an invalid one."""
    new = response.cookies.get("csrftoken")
    if new is None:
        return sent
    field = with_cookies(sent.meta.get("HTTP_COOKIE", ""), {"csrftoken": new.value})
    assert parse_cookie(field)["csrftoken"] == new.value
    return replace(sent, cookies=parse_cookie(field), meta={**sent.meta, "HTTP_COOKIE": field})


@example(send_wsgi, "GET", "/seen/", "", {"Cookie": f"a=b; csrftoken={'a' * 32},"}, b"")
@fuzz(**ASKED)
def test_a_queued_request_is_replayed_as_it_was_sent(
    send: Any, method: str, path: str, query: str, headers: Headers, body: bytes
) -> None:
    site.forget()
    response = send(method, path, query, headers, body)
    assert response.status_code < 500
    assert not site.at_door[0].replayed
    if response.status_code < 300:
        sent, seen = with_new_cookie(site.at_door[0], response), site.at_view[0]
        assert (len(site.at_view), seen.replayed) == (1, True)
        assert (seen.method, seen.path, seen.cookies) == (sent.method, sent.path, sent.cookies)
        assert texts(seen.meta, body=bool(seen.body)) == texts(sent.meta, body=bool(seen.body))
        assert body.startswith(seen.body or b"")
        fits(DispatchRecord.objects.latest("accepted_at"))
    else:
        assert not site.at_view


def fits(record: DispatchRecord) -> None:
    """Assert that every database would accept the row: SQLite checks neither lengths nor NUL."""
    for field in record._meta.concrete_fields:
        value = field.value_from_object(record)
        if isinstance(value, str):
            assert field.max_length is None or len(value) <= field.max_length, field.name
            assert "\x00" not in value, field.name


@pytest.fixture
def no_rules() -> Iterator[None]:
    with override_settings(REQUEST_BROKER={}):
        yield


@fuzz(**ASKED)
def test_a_request_that_runs_now_is_not_a_replay(
    no_rules: None, send: Any, method: str, path: str, query: str, headers: Headers, body: bytes
) -> None:
    site.forget()
    send(method, path, query, headers, body)
    assert not any(seen.replayed for seen in site.at_door + site.at_view)
    assert not DispatchRecord.objects.exists()


@pytest.fixture
def location(monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns the status path of a waiting dispatch."""
    monkeypatch.setattr(views, "EVENTS_LIFETIME", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr("broker_django.admission.handover.run_eagerly", lambda *_args, **_kwargs: None)
        links = Client().post("/seen/").json()["links"]
    return str(links["self"]).removeprefix("http://testserver")


WAITS = (
    st.integers().map(str) | TEXT | st.sampled_from(["1", "0", "1e9", "\u00b2", "9" * 5000, "1&wait=2", "%00", "%ff"])
)


@fuzz(
    **{key: ASKED[key] for key in ("send", "headers", "body")},
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    endpoint=st.sampled_from(["", "response/", "events/", "../../health/", "../../openapi.json"]),
    wait=WAITS,
)
def test_the_endpoints_do_not_fail(
    location: str, send: Any, method: str, endpoint: str, wait: str, headers: Headers, body: bytes
) -> None:
    path = location + endpoint if ".." not in endpoint else "/broker/" + endpoint.removeprefix("../../")
    response = send(method, path, f"wait={wait}", headers, body)
    assert response.status_code < 500
    if response.streaming:
        assert_ends(response)


def assert_ends(response: Any) -> None:
    if not response.is_async:
        assert b"".join(response.streaming_content).startswith(b"event: state\n")
        return

    async def read() -> bytes:
        return b"".join([chunk async for chunk in response.streaming_content])

    assert async_to_sync(read)().startswith(b"event: state\n")
