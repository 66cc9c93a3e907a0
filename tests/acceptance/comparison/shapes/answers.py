"""Responses: statuses, header fields, cookies, bodies, streams, files, redirects, errors, conditions."""

from django.core.signing import get_cookie_signer

from tests.acceptance.comparison.shape import Shape, form, get, send
from tests.acceptance.comparison.views import answers

STATUSES = [200, 201, 202, 203, 204, 205, 206, 226, 299, 300, 304, 305, 400, 401, 402, 405, 409, 410, 412, 413, 416]
STATUSES += [418, 422, 425, 426, 428, 429, 451, 499, 500, 501, 502, 503, 504, 511, 599]

LAST_MODIFIED = "Sat, 29 Feb 2020 12:00:00 GMT"

SIGNED = get_cookie_signer(salt="signeds").sign("of the client")

CONDITIONS = {
    "none-match": {"If-None-Match": '"strong"'},
    "none-match-star": {"If-None-Match": "*"},
    "none-match-other": {"If-None-Match": '"other", W/"another"'},
    "match-other": {"If-Match": '"other"'},
    "modified-since": {"If-Modified-Since": LAST_MODIFIED},
    "unmodified-since": {"If-Unmodified-Since": "Sat, 29 Feb 2000 12:00:00 GMT"},
}

SHAPES = [
    *[send(f"status/{code}", f"/status/{code}/") for code in STATUSES],
    *[get(f"answer/{case}", f"/answer/{case}/") for case in answers.BODIES],
    Shape("answer/head", "/answer/text/", "HEAD"),
    Shape("answer/head-long", "/answer/long/", "HEAD"),
    get("answer/reason-lazy-german", "/answer/reason-lazy/", {"Accept-Language": "de"}),
    *[get(f"answer-field/{case}", f"/fields/{case}/") for case in answers.FIELDS],
    *[send(f"answer-field-of-post/{case}", f"/fields/{case}/") for case in ("plain", "cache-public", "etag", "vary")],
    *[get(f"cookie/{case}", f"/cookies/{case}/") for case in answers.COOKIES],
    get("cookie/partitioned", "/cookies/partitioned/"),
    get("cookie/delete", "/cookies/delete/", cookies={"a": "1", "b": "2"}),
    get("cookie/sign", "/cookies/signed/?set"),
    get("cookie/signed", "/cookies/signed/", cookies={"signed": SIGNED}),
    get("cookie/signed-wrong", "/cookies/signed/", cookies={"signed": "x:y:z"}),
    get("cookie/with-session", "/cookies/order/", user="ada"),
    *[get(f"stream/{case}", f"/stream/{case}/") for case in answers.STREAMS],
    send("stream/of-post", "/stream/lines/"),
    Shape("stream/head", "/stream/lines/", "HEAD"),
    Shape("stream/head-file", "/stream/file/", "HEAD"),
    get("stream/range", "/stream/file/", {"Range": "bytes=0-99"}),
    get("stream/gzip", "/stream/large/", {"Accept-Encoding": "gzip"}),
    get("stream/async-view", "/astream/"),
    *[
        get(f"redirect/{code}-{case}", f"/redirect/{code}/{case}/")
        for code in (301, 302, 303, 307, 308)
        for case in ("relative", "absolute")
    ],
    *[
        get(f"redirect/302-{case}", f"/redirect/302/{case}/")
        for case in answers.TARGETS
        if case not in {"relative", "absolute"}
    ],
    send("redirect/of-post", "/redirect/303/absolute-path/", b"a=1"),
    *[get(f"redirect/{case}", f"/shortcut/{case}/") for case in answers.SHORTCUTS],
    *[get(f"error/{case}", f"/error/{case}/") for case in answers.ERRORS],
    get("error/missing-row", "/missing-row/"),
    get("error/no-response", "/no-response/"),
    get("error/after-writing", "/after-writing/"),
    get("error/500-after-writing", "/failing-after-writing/"),
    get("error/403-of-user", "/error/403/", user="ada"),
    Shape("error/404-head", "/error/404/", "HEAD"),
    *[get(f"kind/{case}", f"/kind/{case}/") for case in answers.KINDS],
    *[get(f"condition/{name}", "/fields/etag/", headers) for name, headers in CONDITIONS.items()],
    *[get(f"condition/dated-{name}", "/fields/last-modified/", headers) for name, headers in CONDITIONS.items()],
    get("condition/page", "/answer/text/", {"If-None-Match": '"x"'}),
    send("condition/of-post", "/fields/etag/", headers={"If-None-Match": '"strong"'}),
    get("gzip/long", "/answer/long/", {"Accept-Encoding": "gzip, deflate"}),
    get("gzip/short", "/answer/text/", {"Accept-Encoding": "gzip"}),
    get("gzip/refused", "/answer/long/", {"Accept-Encoding": "br, gzip;q=0"}),
    get("gzip/etag", "/fields/long/", {"Accept-Encoding": "gzip"}),
    Shape("gzip/head", "/answer/long/", "HEAD", (("Accept-Encoding", "gzip"),)),
    get("page/anonymous", "/page/"),
    get("page/user", "/page/?title=<b>", user="ada"),
    get("page/form", "/form/"),
    get("page/form-user", "/form/", user="ada"),
    form("csrf/refused", "/protected/", {"name": "ü"}),
    form("csrf/accepted", "/protected/", {"name": "ü"}, csrf=True),
    form("csrf/accepted-user", "/protected/", {"name": "ü"}, csrf=True, user="ada"),
    form("csrf/wrong-origin", "/protected/", {"name": "ü"}, csrf=True, headers={"Origin": "https://evil.example"}),
    send("csrf/put", "/protected/", b"x", method="PUT", csrf=True),
    get("csrf/get", "/protected/"),
    form("write/note", "/note/", {}, user="ada"),
    form("write/note-csrf-exempt-anonymous", "/note/", {}),
]
