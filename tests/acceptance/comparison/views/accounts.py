"""Sessions, log-ins, messages, languages, mails and caches."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth import aauthenticate, alogin, authenticate, login, logout, update_session_auth_hash
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.core.cache import cache
from django.core.mail import send_mail
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.middleware.csrf import get_token, rotate_token
from django.shortcuts import redirect, render
from django.utils import timezone, translation
from django.views.decorators.csrf import csrf_exempt

from tests.acceptance.comparison.middleware import TENANT


def _said(request: HttpRequest) -> JsonResponse:
    kept = {key: value for key, value in request.session.items() if key != "_auth_user_hash"}
    return JsonResponse({"session": kept, "user": request.user.get_username()})


def _set(request: HttpRequest) -> None:
    request.session["color"] = "grün"


def _nested(request: HttpRequest) -> None:
    request.session.setdefault("cart", {"items": []})["items"].append("book")
    request.session.modified = True


def _unsaved(request: HttpRequest) -> None:
    request.session["cart"]["items"].append("lost, as nobody says that it was modified")


def _read(request: HttpRequest) -> None:
    request.session.get("seed")


def _delete(request: HttpRequest) -> None:
    del request.session["seed"]


def _pop_all(request: HttpRequest) -> None:
    request.session.clear()


def _flush(request: HttpRequest) -> None:
    request.session.flush()


def _flush_and_set(request: HttpRequest) -> None:
    request.session.flush()
    request.session["after"] = "flush"


def _cycle(request: HttpRequest) -> None:
    request.session.cycle_key()


def _short(request: HttpRequest) -> None:
    request.session.set_expiry(300)


def _until_closed(request: HttpRequest) -> None:
    request.session.set_expiry(0)


def _test_cookie(request: HttpRequest) -> None:
    request.session.set_test_cookie()


def _save(request: HttpRequest) -> None:
    request.session["color"] = "saved"
    request.session.save()


def _log_in(request: HttpRequest) -> None:
    login(request, User.objects.get(username="grace"))


def _log_in_again(request: HttpRequest) -> None:
    login(request, User.objects.get(username="ada"))


def _log_out(request: HttpRequest) -> None:
    logout(request)


def _change_password(request: HttpRequest) -> None:
    request.user.set_password("changed")
    request.user.save()


def _change_own_password(request: HttpRequest) -> None:
    _change_password(request)
    update_session_auth_hash(request, request.user)


def _change_password_behind(_request: HttpRequest) -> None:
    """Changes the password without reading the user before."""
    user = User.objects.get(username="ada")
    user.set_password("changed")
    user.save()


def _deactivate(request: HttpRequest) -> None:
    User.objects.filter(pk=request.user.pk).update(is_active=False)


def _new_csrf(request: HttpRequest) -> None:
    rotate_token(request)


def _csrf(request: HttpRequest) -> None:
    get_token(request)


ACTS = {
    "set": _set,
    "nested": _nested,
    "unsaved": _unsaved,
    "read": _read,
    "delete": _delete,
    "clear": _pop_all,
    "flush": _flush,
    "flush-and-set": _flush_and_set,
    "cycle": _cycle,
    "short": _short,
    "until-closed": _until_closed,
    "test-cookie": _test_cookie,
    "save": _save,
    "log-in": _log_in,
    "log-in-again": _log_in_again,
    "log-out": _log_out,
    "change-password": _change_password,
    "change-own-password": _change_own_password,
    "change-password-behind": _change_password_behind,
    "deactivate": _deactivate,
    "rotate-csrf": _new_csrf,
    "csrf": _csrf,
}


@csrf_exempt
def act(request: HttpRequest, case: str) -> HttpResponse:
    ACTS[case](request)
    return _said(request) if "said" in request.GET else HttpResponse(case)


@csrf_exempt
def fail_after_session(request: HttpRequest) -> HttpResponse:
    """Django saves no session with a 500."""
    request.session["color"] = "never"
    raise RuntimeError("a secret")


def log_in_page(request: HttpRequest) -> HttpResponse:
    form = AuthenticationForm(request, request.POST or None)
    if request.method == "POST" and form.is_valid():
        login(request, form.get_user())
        messages.success(request, "Welcome.")
        return redirect("echo")
    return render(request, "form.html", {"errors": form.errors}, status=422 if form.is_bound else 200)


@csrf_exempt
def bad_log_in(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(authenticate(request, username="ada", password="wrong")))


@csrf_exempt
async def alog_in(request: HttpRequest) -> HttpResponse:
    user = await aauthenticate(request, username="grace", password="correct horse")
    await alogin(request, user)
    await request.session.aset("color", "async")
    return HttpResponse((await request.auser()).get_username())


@csrf_exempt
def add_messages(request: HttpRequest) -> HttpResponse:
    messages.debug(request, "not shown")
    messages.info(request, "grüße")
    messages.error(request, "<b>no</b>", extra_tags="big red")
    return redirect("echo") if "redirect" in request.GET else HttpResponse("added")


@csrf_exempt
def many_messages(request: HttpRequest) -> HttpResponse:
    """More than the cookie holds: the rest goes into the session."""
    for number in range(60):
        messages.info(request, f"{number} " + "long " * 30)
    return HttpResponse("added")


@csrf_exempt
def read_messages(request: HttpRequest) -> HttpResponse:
    texts = [f"{message.tags} {message}" for message in get_messages(request)]
    if "again" in request.GET:
        messages.warning(request, "one more")
    return HttpResponse("; ".join(texts))


@csrf_exempt
def activate(request: HttpRequest) -> JsonResponse:
    """A view that changes language and time zone for what follows."""
    translation.activate("pt-br")
    timezone.activate("America/Sao_Paulo")
    TENANT.set("of the view")
    return JsonResponse({"yes": translation.gettext("Yes"), "zone": timezone.get_current_timezone_name()})


@csrf_exempt
def mail(_request: HttpRequest) -> HttpResponse:
    send_mail("Hello", "Text", "shop@shop.example", ["ada@shop.example"])
    return HttpResponse("sent")


@csrf_exempt
def count(_request: HttpRequest) -> HttpResponse:
    cache.set("comparison", cache.get("comparison", 0) + 1)
    return HttpResponse(str(cache.get("comparison")))
