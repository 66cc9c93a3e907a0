"""Clients: sessions, logins, messages, languages, time zones, and side effects of views."""

from tests.acceptance.comparison.shape import form, get, send
from tests.acceptance.comparison.views import accounts

GERMAN = {"Accept-Language": "de-AT, de;q=0.8, en;q=0.5"}

LANGUAGES = {
    "german": GERMAN,
    "variant": {"Accept-Language": "pt-BR"},
    "unknown": {"Accept-Language": "tlh, *;q=0.1"},
    "malformed": {"Accept-Language": "ü;q=x,,"},
    "none": {},
}

SEED = {"seed": "ü", "cart": {"items": ["pen"]}}
PASSWORD = "correct horse"

BEGINNINGS = [
    "set",
    "read",
    "flush-and-set",
    "cycle",
    "until-closed",
    "test-cookie",
    "save",
    "log-in",
    "log-out",
    "csrf",
]
CHANGES = ["nested", "unsaved", "delete", "clear", "flush", "flush-and-set", "cycle", "short", "log-in", "rotate-csrf"]
WAITING = {"_messages": '[["__json_message", 0, 20, "grüße"], ["__json_message", 1, 40, "<b>", "big"]]'}

SHAPES = [
    *[send(f"session/anonymous-{case}", f"/act/{case}/") for case in BEGINNINGS],
    *[send(f"session/seeded-{case}", f"/act/{case}/", session=SEED) for case in CHANGES],
    *[send(f"session/user-{case}", f"/act/{case}/?said", user="ada", session=SEED) for case in accounts.ACTS],
    send("session/failed", "/fail-after-session/", user="ada"),
    send("session/failed-anonymous", "/fail-after-session/"),
    form("log-in/page", "/log-in-page/", {"username": "ada", "password": PASSWORD}, csrf=True),
    form("log-in/page-session", "/log-in-page/", {"username": "ada", "password": PASSWORD}, csrf=True, session=SEED),
    form("log-in/page-wrong", "/log-in-page/", {"username": "ada", "password": "x"}, csrf=True),
    form("log-in/page-other", "/log-in-page/", {"username": "grace", "password": PASSWORD}, csrf=True, user="ada"),
    get("log-in/form", "/log-in-page/"),
    send("log-in/bad", "/bad-log-in/"),
    send("log-in/async", "/alog-in/"),
    send("log-in/async-session", "/alog-in/", session=SEED),
    send("messages/add", "/messages/add/"),
    send("messages/add-user", "/messages/add/", user="ada"),
    send("messages/add-redirect", "/messages/add/?redirect", session=SEED),
    send("messages/many", "/messages/many/"),
    send("messages/many-user", "/messages/many/", user="ada"),
    get("messages/read-none", "/messages/read/"),
    get("messages/read", "/messages/read/", session=WAITING),
    get("messages/read-and-add", "/messages/read/?again", session=WAITING),
    get("messages/shown", "/page/", session=WAITING, user="ada"),
    get("messages/left-alone", "/echo/", session=WAITING, user="ada"),
    *[get(f"language/{name}", "/page/", headers) for name, headers in LANGUAGES.items()],
    get("language/user", "/page/", GERMAN, user="ada"),
    get("language/cookie", "/page/", GERMAN, cookies={"django_language": "pt-br"}),
    get("language/prefix", "/de/localized/"),
    get("language/prefix-right-to-left", "/ar/localized/"),
    get("language/no-prefix", "/localized/", GERMAN),
    form("language/set", "/set-language/", {"language": "de", "next": "/echo/"}, csrf=True),
    form("language/set-user", "/set-language/", {"language": "de", "next": "/de/localized/"}, csrf=True, user="ada"),
    get("language/catalog", "/catalog/", GERMAN),
    get("language/404", "/error/404/", GERMAN),
    send("context/activate", "/activate/", headers={"X-Tenant": "acme", "X-Timezone": "Asia/Tokyo"}),
    get("context/after-activate", "/echo/"),
    get("context/tenant", "/page/", {"X-Tenant": "acme"}),
    send("effect/mail", "/mail/"),
    send("effect/cache", "/count/"),
]
