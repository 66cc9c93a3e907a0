"""How a view is written: decorators of Django and of django-csp, classes, coroutines."""

from tests.acceptance.comparison.shape import Shape, form, get, send
from tests.acceptance.comparison.views import decorated

MODIFIED = "Sat, 29 Feb 2020 12:00:00 GMT"

POSTED = ["plain", "async", "xframe-exempt", "never-cache", "cache-control-public", "cache-page", "gzip", "condition"]
POSTED += ["require-post", "require-safe", "login", "atomic", "sensitive", "requires-csrf-token", "csp-exempt"]
GUARDED = ["login", "permission", "test", "staff", "async-login", "permission-login", "vary-cookie", "cache-page"]

SHAPES = [
    *[get(f"decorated/{case}", f"/decorated/{case}/") for case in decorated.DECORATED],
    *[send(f"decorated/{case}-post", f"/decorated/{case}/", b"password=secret") for case in POSTED],
    *[get(f"decorated/{case}-user", f"/decorated/{case}/", user="ada") for case in GUARDED],
    get("decorated/staff-root", "/decorated/staff/", user="root"),
    get("decorated/gzip-accepted", "/decorated/gzip/", {"Accept-Encoding": "gzip"}),
    get("decorated/etag-match", "/decorated/etag/", {"If-None-Match": '"v1"'}),
    get("decorated/etag-other", "/decorated/etag/", {"If-None-Match": '"v0"'}),
    send("decorated/etag-put-failed", "/decorated/etag/", b"x", method="PUT", headers={"If-Match": '"v0"'}),
    get("decorated/last-modified-since", "/decorated/last-modified/", {"If-Modified-Since": MODIFIED}),
    get("decorated/condition-both", "/decorated/condition/", {"If-None-Match": '"v1"', "If-Modified-Since": MODIFIED}),
    get("decorated/async-condition-match", "/decorated/async-condition/", {"If-None-Match": '"v1"'}),
    get("decorated/from-middleware-match", "/decorated/from-middleware/", {"If-None-Match": "*"}),
    Shape("decorated/require-safe-head", "/decorated/require-safe/", "HEAD"),
    send("decorated/require-methods-put", "/decorated/require-methods/", b"x", method="PUT"),
    get("decorated/no-append-slash-missing", "/decorated/no-append-slash"),
    get("class/get", "/class/methods/"),
    Shape("class/head", "/class/methods/", "HEAD"),
    Shape("class/options", "/class/methods/", "OPTIONS"),
    send("class/not-allowed", "/class/methods/", b"x", csrf=True),
    Shape("class/delete", "/class/methods/", "DELETE", csrf=True),
    get("class/async", "/class/async/"),
    form("class/async-post", "/class/async/", {"text": "ü"}),
    send("class/async-404", "/class/async/", b"x", method="PUT"),
    send("class/async-not-allowed", "/class/async/", b"x", method="PATCH"),
    get("class/template", "/class/page/", {"X-Tenant": "acme"}),
    get("class/redirect", "/class/away/%C3%BC/?a=1"),
    get("class/list-anonymous", "/class/notes/"),
    get("class/list", "/class/notes/", user="ada"),
    get("class/list-no-page", "/class/notes/?page=9", user="ada"),
    form("class/create", "/class/new/", {"text": "made"}, user="ada"),
    form("class/create-invalid", "/class/new/", {"text": ""}, user="ada"),
    form("class/create-denied", "/class/new/", {"text": "made"}, user="grace"),
    form("class/create-anonymous", "/class/new/", {"text": "made"}),
]
