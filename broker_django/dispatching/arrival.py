"""Give a request made by code the URL that a client would be redirected to, because a replay follows no redirects.

SecurityMiddleware redirects to TLS, CommonMiddleware to a slash or `www.`, LocaleMiddleware to a language prefix.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.conf.urls.i18n import is_language_prefix_patterns_used
from django.http import HttpRequest, parse_cookie
from django.http.request import split_domain_port, validate_host
from django.middleware.locale import LocaleMiddleware
from django.urls import Resolver404, resolve
from django.utils import translation
from django.utils.module_loading import import_string

from broker_core.errors import MessageError
from broker_django.dispatching.urlconfs import urlconf_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from django.urls import ResolverMatch

    from broker_core.message import RequestMessage

LOCALE = "django.middleware.locale.LocaleMiddleware"
LOGIN_REQUIRED = "django.contrib.auth.middleware.LoginRequiredMiddleware"

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
LOCAL_HOSTS = (".localhost", "127.0.0.1", "[::1]")
"""What Django allows in DEBUG if ALLOWED_HOSTS is empty."""


def redirected(message: RequestMessage) -> tuple[RequestMessage, ResolverMatch | None]:
    """Returns the message after all redirects, and the URL that it resolves to; None if no URL matches.

    Code needs no CSRF token. Raises MessageError if the host is not allowed.
    """
    prefix = (settings.FORCE_SCRIPT_NAME or "").rstrip("/")
    environ = {"SCRIPT_NAME": prefix, **message.environ}
    environ[_host_field(environ)] = _host(environ)
    scheme = _scheme(environ, message.scheme)
    path, match = _resolve(environ, urlconf_of(environ[_host_field(environ)], message.tenant))
    environ["PATH_INFO"] = path
    csrf = "waived" if message.csrf == "unchecked" else message.csrf
    return replace(message, environ=environ, scheme=scheme, csrf=csrf), match


# Hosts


def is_allowed(host: str) -> bool:
    domain, _port = split_domain_port(host)
    return bool(domain) and validate_host(domain, _allowed_hosts())


def _allowed_hosts() -> list[str]:
    return list(settings.ALLOWED_HOSTS) or (list(LOCAL_HOSTS) if settings.DEBUG else [])


def _host_field(environ: Mapping[str, str]) -> str:
    """Returns the CGI variable that contains the host."""
    forwarded = settings.USE_X_FORWARDED_HOST and environ.get("HTTP_X_FORWARDED_HOST")
    return "HTTP_X_FORWARDED_HOST" if forwarded else "HTTP_HOST"


def _host(environ: Mapping[str, str]) -> str:
    """Returns the host in that field, or the site's default. Raises MessageError if it is not allowed."""
    host = environ.get(_host_field(environ), "")
    if not host:
        server = environ.get("SERVER_NAME", "")
        host = server if server and is_allowed(server) else usual_host()
    if settings.PREPEND_WWW and not host.startswith("www."):
        host = f"www.{host}"
    if not is_allowed(host):
        raise MessageError(f"the host {host!r} is not allowed: see ALLOWED_HOSTS")
    return host


def usual_host() -> str:
    """Returns the first non-local name in ALLOWED_HOSTS, else the first name; `localhost` if all are allowed."""
    names = [name.removeprefix(".") for name in _allowed_hosts() if "*" not in name]
    return next((name for name in names if name not in LOOPBACK), names[0] if names else "localhost")


# TLS


def _scheme(environ: dict[str, str], scheme: str) -> str:
    """Returns `https` if SecurityMiddleware would redirect to it, and corrects a proxy's header field accordingly."""
    path = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).lstrip("/")
    if settings.SECURE_SSL_REDIRECT and not any(re.search(each, path) for each in settings.SECURE_REDIRECT_EXEMPT):
        scheme = "https"
    if scheme == "https" and settings.SECURE_PROXY_SSL_HEADER:
        field, value = settings.SECURE_PROXY_SSL_HEADER
        environ[field] = value
    if scheme == "https" and environ.get("SERVER_PORT") == "80":
        environ["SERVER_PORT"] = "443"
    return scheme


# The URL


def _resolve(environ: Mapping[str, str], urlconf: Any) -> tuple[str, ResolverMatch | None]:
    """Returns the path that has a view: unchanged, with a slash, or with a language prefix, in the redirects' order."""
    path = environ.get("PATH_INFO", "/")
    language = language_of(environ, path)
    with translation.override(language):
        for candidate in _candidates(path, language):
            match = _match(candidate, urlconf)
            if match is not None and (candidate in {path, f"/{language}{path}"} or _allows_slash(match)):
                return candidate, match
    return path, None


def _candidates(path: str, language: str) -> Iterator[str]:
    redirects = is_installed(LOCALE) and is_language_prefix_patterns_used(settings.ROOT_URLCONF)[0]
    prefixed = [path, f"/{language}{path}"] if redirects else [path]
    for each in prefixed:
        yield each
        if settings.APPEND_SLASH and not each.endswith("/"):
            yield f"{each}/"


def _allows_slash(match: ResolverMatch) -> bool:
    return bool(getattr(match.func, "should_append_slash", True))


def _match(path: str, urlconf: Any) -> ResolverMatch | None:
    try:
        return resolve(path, urlconf)
    except Resolver404:
        return None


def language_of(environ: Mapping[str, str], path: str) -> str:
    """Returns the language that the replay will use."""
    if not is_installed(LOCALE):
        return settings.LANGUAGE_CODE
    request = HttpRequest()
    request.META, request.path_info = dict(environ), path
    request.COOKIES = parse_cookie(environ.get("HTTP_COOKIE", ""))
    with translation.override(settings.LANGUAGE_CODE):
        LocaleMiddleware(lambda _request: None).process_request(request)  # type: ignore[arg-type]
        return translation.get_language() or settings.LANGUAGE_CODE


# Users


def requires_login(match: ResolverMatch) -> bool:
    """Whether LoginRequiredMiddleware would send an anonymous request to the login page."""
    return bool(getattr(match.func, "login_required", True)) and is_installed(LOGIN_REQUIRED)


def is_installed(middleware: str) -> bool:
    """Whether MIDDLEWARE contains this class or a subclass. Imports MIDDLEWARE, but not the class."""
    found = (import_string(path) for path in settings.MIDDLEWARE)
    kinds = (kind for each in found if isinstance(each, type) for kind in each.__mro__)
    return any(f"{kind.__module__}.{kind.__qualname__}" == middleware for kind in kinds)
