from __future__ import annotations

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.middleware import SessionMiddleware
from django.contrib.sessions.models import Session
from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.test import RequestFactory, override_settings

from broker_django.identity import sessions

pytestmark = pytest.mark.django_db


@pytest.fixture
def request_():
    request = RequestFactory().get("/")
    request.session = SessionStore()
    return request


def kept(key):
    return dict(SessionStore(key).items())


def test_a_new_session_is_saved_and_replay_and_client_get_its_cookie(request_):
    request_.session["basket"] = 3
    cookies, carrier = sessions.save_early(request_)
    key = request_.session.session_key
    assert cookies == {"sessionid": key}
    assert carrier.cookies["sessionid"].value == key
    assert not request_.session.modified
    assert kept(key) == {"basket": 3}


def test_an_unchanged_session_is_not_saved(request_, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert sessions.save_early(request_)[0] == {}
    assert sessions.save_early(RequestFactory().get("/"))[0] == {}


def test_an_emptied_session_is_deleted_for_the_client_and_not_sent_to_the_replay(request_):
    request_.session["basket"] = 3
    request_.session.save()
    request_.COOKIES["sessionid"] = request_.session.session_key
    request_.session.flush()
    cookies, carrier = sessions.save_early(request_)
    assert cookies == {}
    assert carrier.cookies["sessionid"]["max-age"] == 0
    assert not Session.objects.exists()


def test_a_new_csrf_secret_is_sent_to_the_replay_once(request_):
    assert sessions.save_early(request_)[0] == {}
    get_token(request_)
    assert sessions.save_early(request_)[0] == {"csrftoken": request_.META["CSRF_COOKIE"]}
    with override_settings(CSRF_USE_SESSIONS=True):
        assert sessions.save_early(request_)[0] == {}


@pytest.mark.parametrize("always", [False, True])
def test_after_a_202_the_outer_copy_of_the_session_is_not_saved(request_, always):
    request_.session["basket"] = 3
    request_.session.save()
    key = request_.session.session_key
    with override_settings(SESSION_SAVE_EVERY_REQUEST=always):
        sessions.detach(request_)
        replayed = SessionStore(key)
        replayed["basket"] = 4
        replayed.save()
        SessionMiddleware(lambda _: None).process_response(request_, HttpResponse())
    assert kept(key) == {"basket": 4}
    sessions.detach(RequestFactory().get("/"))


@pytest.mark.parametrize(("cookie", "key"), [("new-session", "new-session"), ("", None), (None, "old-session")])
def test_after_a_replay_the_outer_middleware_continues_with_its_session(request_, cookie, key):
    request_.session = SessionStore("old-session")
    request_.META["CSRF_COOKIE_NEEDS_UPDATE"] = True
    response = HttpResponse()
    if cookie is not None:
        response.set_cookie("sessionid", cookie)
        response.set_cookie("csrftoken", "x")
    sessions.adopt(request_, response)
    assert request_.session.session_key == key
    assert request_.META["CSRF_COOKIE_NEEDS_UPDATE"] is (cookie is None)
