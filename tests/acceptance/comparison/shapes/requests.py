"""Requests: methods, bodies, encodings, header fields, addresses, uploads."""

import random

from tests.acceptance.comparison.shape import (
    BOUNDARY,
    FORM,
    JSON,
    Shape,
    as_json,
    field_part,
    file_part,
    form,
    get,
    multipart,
    send,
)

BYTES = bytes(range(256))
LARGE = random.Random(1).randbytes(400_000)
"""Above what travels inside a message, and what Django keeps of an upload in memory."""

METHODS = [
    *[Shape(f"method/{name}", "/echo/", name) for name in ("GET", "HEAD", "OPTIONS", "DELETE", "PROPFIND", "get")],
    *[Shape(f"method/{name}-with-body", "/body/", name, body=b"x=1") for name in ("GET", "DELETE", "OPTIONS")],
    *[send(f"method/{name}", "/body/", b"x=1", method=name) for name in ("POST", "PUT", "PATCH", "QUERY")],
]

QUERIES = {
    "none": "?",
    "blank": "?a=&b&=c&&",
    "repeated": "?a=1&a=2&a=3",
    "utf-8": "?gr%C3%B6%C3%9Fe=%E2%82%AC",
    "latin-1": "?gr%F6%DFe=%E4",
    "plus": "?a=b+c%20d%2Be",
    "percent": "?a=%zz%&b=%00%0a",
    "delimiters": "?a=b;c=d&e=[f]{g}|h^`i\"<>'",
    "semicolon": "?a=1;b=2",
    "long": "?" + "&".join(f"k{number}={'v' * 20}" for number in range(150)),
    "url": "?next=https://www.shop.example/?a=b%26c=d#frag",
}

PATHS = {
    "utf-8": "/echo/gr%C3%B6%C3%9Fe/",
    "latin-1": "/echo/gr%F6%DFe/",
    "slash": "/echo/a%2Fb/",
    "percent": "/echo/100%25/",
    "space": "/echo/a%20b+c/",
    "double-slash": "/echo-path/a//b",
    "dots": "/echo-path/a/../b/./c",
    "symbols": "/echo/~!$&'()*,;=:@-._/",
    "question": "/echo/a%3Fb%23c/",
    "regex": "/echo-re/42/",
    "no-slash": "/echo",
    "unknown": "/there/is/no/such/page/",
    "unknown-no-slash": "/there",
    "encoded-twice": "/echo/%2525/",
}

FIELDS = {
    "latin-1": {"X-Name": "Jürgen"},
    "utf-8": {"X-Name": "€".encode().decode("latin-1")},
    "empty": {"X-Empty": ""},
    "spaces": {"X-Spaces": "a   b\tc"},
    "symbols": {"X-Symbols": "!#$%&'*+-.^_`|~;=\"()<>@:\\/[]?{},"},
    "case": {"x-lOWER": "kept?"},
    "long": {"X-Long": "v" * 6000},
    "many": {f"X-Field-{number}": str(number) for number in range(60)},
    "user-agent": {"User-Agent": "Mozilla/5.0 (ü; rv:1)", "Referer": "https://www.shop.example/?q=ü"},
    "accept": {"Accept": "text/html;q=0.9, application/json;q=0.8, */*;q=0.1", "Accept-Charset": "utf-8"},
    "forwarded": {
        "X-Forwarded-For": "203.0.113.7, 10.0.0.1",
        "X-Forwarded-Host": "www.shop.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Port": "8443",
        "Forwarded": 'for=203.0.113.7;proto=https;host="www.shop.example"',
    },
    "host": {"Host": "www.shop.example:8080"},
    "host-bad": {"Host": "evil.example"},
    "host-malformed": {"Host": "a b"},
    "https": {"X-Forwarded-Proto": "https"},
    "trace": {"Traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
    "tenant": {"X-Tenant": "acme", "X-Timezone": "Asia/Kathmandu"},
    "authorization": {"Authorization": "Basic YWRhOnNlY3JldA=="},
    "cookie-like": {"Cookie": 'a=1; b="q \\"x"; c; =d; e=ü; a=2; f=%C3%BC'},
    "hop-by-hop": {
        "Connection": "keep-alive, X-Private",
        "Keep-Alive": "timeout=5",
        "TE": "trailers",
        "X-Private": "1",
    },
    "connection-close": {"Connection": "close"},
    "expect-nothing": {"Upgrade-Insecure-Requests": "1", "DNT": "1", "Sec-Fetch-Mode": "navigate", "Via": "1.1 cache"},
    "content-type-of-get": {"Content-Type": "application/json", "Content-Encoding": "identity"},
    "method-override": {"X-HTTP-Method-Override": "DELETE", "X-Requested-With": "XMLHttpRequest"},
}

BODIES = [
    form("body/form", "/echo/", {"a": ["1", "2"], "ü": "grüße", "empty": ""}),
    form("body/form-read-first", "/body/", {"a": "1"}),
    send("body/form-charset", "/echo/", b"a=gr%FC%DFe", f"{FORM}; charset=iso-8859-1"),
    send("body/form-charset-utf-8", "/echo/", "a=größe".encode(), f"{FORM}; charset=utf-8"),
    send("body/form-raw-latin-1", "/echo/", "a=größe".encode("latin-1")),
    send("body/form-unknown-charset", "/echo/", b"a=1", f"{FORM}; charset=klingon"),
    send("body/form-set-encoding", "/encoding/?encoding=latin-1&q=%E4", b"a=%E4"),
    send("body/form-many", "/echo/", b"&".join(b"k%d=v" % number for number in range(900))),
    send("body/form-too-many", "/echo/", b"&".join(b"k%d=v" % number for number in range(1100))),
    send("body/form-blank", "/echo/", b"&&a&=b&c=&"),
    send("body/form-percent", "/echo/", b"a=%zz%&b=%00%0D%0A"),
    send("body/form-upper-case-type", "/echo/", b"a=1", "APPLICATION/X-WWW-FORM-URLENCODED"),
    as_json("body/json", "/body/", {"a": "ü", "b": [1, None]}),
    send("body/json-charset", "/body/", '{"a": "ü"}'.encode("latin-1"), f"{JSON}; charset=latin-1; version=1"),
    send("body/json-broken", "/body/", b'{"a": '),
    send("body/bytes", "/mirror/", BYTES, "application/octet-stream"),
    send("body/nul", "/mirror/", b"\x00" * 100, "text/plain"),
    send("body/xml", "/mirror/", '<?xml version="1.0"?><a>ü</a>'.encode(), "application/xml"),
    send("body/no-type", "/body/", b"x", ""),
    send("body/empty", "/body/", b""),
    send("body/empty-no-type", "/body/", b"", ""),
    send("body/empty-json", "/body/", b"", JSON),
    send("body/odd-type", "/body/", b"x", "text/plain; a=b; c=\"d; e\"; f*=utf-8''%C3%BC"),
    send("body/malformed-type", "/body/", b"x", "nonsense;;="),
    send("body/large", "/mirror/", LARGE, "application/octet-stream"),
    send("body/large-digest", "/body/", LARGE, "application/octet-stream"),
    send("body/stream", "/read/", b"one\ntwo\nthree", "text/plain"),
    send("body/stream-large", "/read/", LARGE, "application/octet-stream"),
    send("body/chunked", "/body/", b"chunked " * 500, "text/plain", chunked=True, only="asgi"),
    send("body/gzip", "/mirror/", b"\x1f\x8b\x08 not really", "application/gzip", headers={"Content-Encoding": "gzip"}),
    send("body/put-form", "/body/", b"a=1", method="PUT"),
    send("body/get-form", "/echo/", b"a=1", method="GET"),
]

UPLOADS = [
    multipart("upload/one", "/echo/", [field_part("name", "Zoë"), file_part("file", "a.txt", b"content")]),
    multipart(
        "upload/several",
        "/echo/",
        [file_part("f", "a.txt", b"1"), file_part("f", "b.txt", b"22"), file_part("g", "a.txt", b"333")],
    ),
    multipart("upload/name-utf-8", "/echo/", [file_part("file", "Rechnung März €.pdf", BYTES, "application/pdf")]),
    multipart("upload/name-path", "/echo/", [file_part("file", "../../etc/passwd", b"x")]),
    multipart("upload/name-backslash", "/echo/", [file_part("file", "C:\\temp\\a.txt", b"x")]),
    multipart("upload/name-quote", "/echo/", [file_part("file", "a%22b;c.txt", b"x")]),
    multipart("upload/name-empty", "/echo/", [file_part("file", "", b"x")]),
    multipart("upload/name-long", "/echo/", [file_part("file", "n" * 300 + ".txt", b"x")]),
    multipart(
        "upload/name-rfc-5987",
        "/echo/",
        [("Content-Disposition: form-data; name=\"f\"; filename*=UTF-8''%e2%82%ac.txt\r\nContent-Type: a/b", b"x")],
    ),
    multipart("upload/empty-file", "/echo/", [file_part("file", "a.txt", b"")]),
    multipart("upload/type-charset", "/echo/", [file_part("file", "a.txt", b"x", "text/plain; charset=koi8-r; a=b")]),
    multipart("upload/large", "/echo/", [file_part("file", "a.bin", LARGE, "application/octet-stream")]),
    multipart("upload/to-disk", "/echo/", [file_part("file", "a.bin", LARGE[:100_000])]),
    multipart("upload/body-first", "/body/", [field_part("a", "1"), file_part("file", "a.txt", b"x")]),
    multipart("upload/stream", "/read/", [field_part("a", "1"), file_part("file", "a.txt", b"x")]),
    multipart("upload/async", "/aecho/", [field_part("a", "1"), file_part("file", "a.txt", b"x")]),
    multipart("upload/kept", "/keep/", [file_part("file", "kept ü.txt", b"keep me"), file_part("g", "b.txt", b"too")]),
    multipart("upload/kept-large", "/keep/", [file_part("file", "large.bin", LARGE)]),
    multipart("upload/chunked", "/echo/", [file_part("file", "a.txt", b"x" * 5000)], chunked=True, only="asgi"),
    multipart(
        "upload/base64",
        "/echo/",
        [
            (
                'Content-Disposition: form-data; name="f"; filename="a"\r\nContent-Transfer-Encoding: base64',
                b"aGVsbG8=",
            )
        ],
    ),
    multipart("upload/field-charset", "/encoding/?encoding=latin-1", [field_part("a", "grüße")]),
    send("upload/cut-short", "/echo/", f"--{BOUNDARY}\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"),
    send("upload/no-boundary", "/echo/", b"x", "multipart/form-data"),
    send("upload/empty", "/echo/", b"", f"multipart/form-data; boundary={BOUNDARY}"),
    multipart("upload/put", "/body/", [field_part("a", "1")], method="PUT"),
]

SHAPES = [
    *METHODS,
    *[get(f"query/{name}", f"/echo/{query}") for name, query in QUERIES.items()],
    *[get(f"path/{name}", path) for name, path in PATHS.items()],
    get("path/raw-utf-8", "/echo/größe/".encode().decode("latin-1"), only="wsgi"),
    get("query/raw-utf-8", "/echo/?größe=ä".encode().decode("latin-1"), only="wsgi"),
    send("path/no-slash-post", "/echo", b"a=1"),
    *[get(f"field/{name}", "/echo/", fields) for name, fields in FIELDS.items()],
    Shape("field/twice", "/echo/", headers=(("X-Twice", "1"), ("X-Twice", "2"), ("Accept", "a/b"), ("Accept", "c/d"))),
    Shape("field/cookie-twice", "/echo/", headers=(("Cookie", "a=1"), ("Cookie", "b=2"))),
    Shape("field/underscore", "/echo/", headers=(("X_Under_Score", "spoofed"), ("X-Under-Score", "real"))),
    *BODIES,
    *UPLOADS,
    get("number/own", "/number/"),
    get("number/of-the-proxy", "/number/", {"X-Request-Id": "of-the-proxy"}),
    get("async/get", "/aecho/?a=1"),
    form("async/form", "/aecho/", {"a": "ü"}),
    get("async/user", "/aecho/", user="ada"),
]
