"""Hop-by-hop header fields (RFC 9110, section 7.6.1): they belong to one connection and are not forwarded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

END_TO_END = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "allow",
        "authorization",
        "b3",
        "baggage",
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-range",
        "content-security-policy",
        "content-type",
        "cookie",
        "date",
        "etag",
        "expires",
        "forwarded",
        "host",
        "idempotency-key",
        "last-modified",
        "location",
        "origin",
        "prefer",
        "preference-applied",
        "range",
        "referer",
        "referrer-policy",
        "remote-user",
        "retry-after",
        "sentry-trace",
        "set-cookie",
        "strict-transport-security",
        "traceparent",
        "tracestate",
        "true-client-ip",
        "uber-trace-id",
        "user-agent",
        "vary",
        "via",
        "www-authenticate",
        "x-api-key",
        "x-client-ip",
        "x-cloud-trace-context",
        "x-content-type-options",
        "x-correlation-id",
        "x-csrftoken",
        "x-frame-options",
        "x-http-method-override",
        "x-original-url",
        "x-real-ip",
        "x-remote-user",
        "x-request-id",
        "x-requested-with",
        "x-rewrite-url",
    }
)
_END_TO_END_PREFIXES = (
    "access-control-",
    "cf-",
    "cross-origin-",
    "if-",
    "sec-",
    "x-amz",
    "x-auth-",
    "x-b3-",
    "x-forwarded-",
    "x-goog-",
    "x-ms-",
    "x-ssl-",
)


def connection_options(connection: str, kept: Collection[str] = ()) -> frozenset[str]:
    """Returns the names, in lower case, of all hop-by-hop fields, including those that this Connection field lists.

    Names that others rely on are not removed, nor those in `kept`. Otherwise a client that sends
    `Connection: close, X-Forwarded-For` would remove what a proxy in front has set, or the credential of the request
    (as in CVE-2022-31813). An underscore counts as a hyphen, as in CGI variables.
    """
    listed = {name.strip().lower().replace("_", "-") for name in connection.split(",") if name.isascii()}
    return HOP_BY_HOP | {name for name in listed if name and name not in kept and not _is_end_to_end(name)}


def _is_end_to_end(name: str) -> bool:
    return name in END_TO_END or name.startswith(_END_TO_END_PREFIXES)
