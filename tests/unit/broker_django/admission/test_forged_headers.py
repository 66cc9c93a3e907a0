"""No header field makes a request look like what only the broker makes it."""

from __future__ import annotations

from io import BytesIO

import pytest
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from broker_django.admission import replays
from broker_django.context import REPLAY_KEY, RequestContext, replay_of
from broker_django.http import to_message
from broker_django.routing.proxies import PROXIED_KEY

NAMES = st.sampled_from(
    [
        REPLAY_KEY,
        PROXIED_KEY,
        "Request-Broker.Replay",
        "Request_Broker.Replay",
        "HTTP_REQUEST_BROKER.REPLAY",
        "Broker",
        "Broker-Replayed",
        "Csrf-Cookie",
        "CSRF_COOKIE",
        "Csrf-Cookie-Needs-Update",
        "Remote-User",
        "REMOTE_USER",
        "Remote-Addr",
        "Script_Name",
        "Wsgi.Url_Scheme",
        "Request-Method",
    ]
) | st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,24}", fullmatch=True)
OWN = {"content-type", "content-length"}


def asgi(headers):
    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return ASGIRequest({"type": "http", "method": "GET", "path": "/", "headers": fields}, BytesIO())


def wsgi(headers):
    """As PEP 3333 has servers hand them on."""
    plain = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}
    named = {name: f"HTTP_{name.upper().replace('-', '_')}" for name in headers}
    environ = {plain.get(name.lower(), named[name]): value for name, value in headers.items()}
    return WSGIRequest({**RequestFactory()._base_environ(), **environ})


def own(meta):
    """What no header field is named after."""
    return {key: repr(value) for key, value in meta.items() if not key.startswith(("HTTP_", "wsgi.input", "wsgi.err"))}


@pytest.mark.parametrize("server", [wsgi, asgi])
@given(headers=st.dictionaries(NAMES.filter(lambda name: name.lower() not in OWN), st.sampled_from(["1", "Replay()"])))
def test_no_header_field_sets_values_of_the_broker(server, headers):
    request = server(headers)
    assert own(request.META) == own(server({}).META)
    assert replays.enter(request) is None
    assert (replay_of(request), request.broker) == (None, RequestContext())
    assert not {REPLAY_KEY, PROXIED_KEY} & to_message(request, b"", None, {}).environ.keys()


@pytest.mark.parametrize("name", ["Idempotency_Key", "X_Forwarded_For", "Remote_User"])
def test_under_asgi_an_underscore_is_not_a_hyphen(name):
    assert f"HTTP_{name.upper()}" not in asgi({name: "1"}).META
    assert f"HTTP_{name.upper()}" in asgi({name.replace("_", "-"): "1"}).META
