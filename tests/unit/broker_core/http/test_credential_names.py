from __future__ import annotations

import pytest

from broker_core.http.credential_names import (
    identifies_user,
    is_secret_parameter,
    looks_like_credential,
    may_identify,
)

CREDENTIALS = [
    "authorization",
    "proxy-authorization",
    "x-authorization",
    "x-auth",
    "authentication",
    "token",
    "x-token",
    "x-access-token",
    "x-authtoken",
    "accesstoken",
    "private-token",
    "x-session-token",
    "x-sessiontoken",
    "api-key",
    "x-api-key",
    "apikey",
    "x-apikey",
    "x-goog-api-key",
    "ocp-apim-subscription-key",
    "x-client-secret",
    "x-password",
    "x-passcode",
    "x-pin",
    "cf-access-jwt-assertion",
    "x-bearer",
    "x-session-id",
    "access_token",
    "refresh-token",
    "jwt",
    "phpsessid",
    "auth_token",
]
PROXIES = [
    "remote-user",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-auth-request-email",
    "x-ms-client-principal-id",
    "tailscale-user-login",
    "x-goog-authenticated-user-id",
    "x-amzn-oidc-identity",
    "x-consumer-username",
    "x-user-uuid",
    "x-userinfo",
    "eppn",
    "x-arr-clientcert",
    "x-client-certificate",
    "x-ssl-client-fingerprint",
    "oidc-claim-sub",
    "x-account-id",
]
OF_NOBODY = [
    "accept",
    "accept-language",
    "cache-control",
    "content-type",
    "dnt",
    "host",
    "origin",
    "referer",
    "user-agent",
    "via",
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-real-ip",
    "x-requested-with",
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "uber-trace-id",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-varnish",
    "x-azure-ref",
    "x-arr-log-id",
    "client-ip",
    "x-vercel-id",
    "fly-request-id",
    "request-id",
    "x-unique-id",
    "x-timer",
    "date",
    "digest",
    "x-signature",
    "x-timestamp",
    "x-http-method-override",
    "alt-used",
    "true-client-ip",
    "x-csrftoken",
    "x-xsrf-token",
    "x-antiforgery-token",
    "x-recaptcha-token",
    "idempotency-key",
    "sec-websocket-key",
    "x-continuation-token",
    "x-partition-key",
    "x-sort-key",
    "x-dedup-key",
    "x-device-token",
    "x-request-token",
    "x-nonce",
]


@pytest.mark.parametrize("name", [*CREDENTIALS, *PROXIES])
def test_a_credential_looks_like_one(name):
    assert looks_like_credential(name)
    assert may_identify(name)
    assert identifies_user(name) is (name in PROXIES)


@pytest.mark.parametrize("name", OF_NOBODY)
def test_a_field_that_does_not_identify_its_sender_is_no_credential(name):
    assert not looks_like_credential(name)
    assert not may_identify(name)


@pytest.mark.parametrize("name", ["x-partner", "x-on-behalf-of", "x-shop", "x-account"])
def test_an_unknown_name_may_identify_its_sender(name):
    assert may_identify(name)
    assert not looks_like_credential(name)


@pytest.mark.parametrize(
    "name", ["token", "api_key", "apiKey", "access_token", "X-Amz-Security-Token", "password", "jwt"]
)
def test_a_secret_in_the_query_looks_like_one(name):
    assert is_secret_parameter(name)


@pytest.mark.parametrize("name", ["page", "key", "q", "page_token", "continuation_token", "sync-token", "csrf_token"])
def test_other_parameters_are_not_secrets(name):
    assert not is_secret_parameter(name)


def test_a_long_name_is_checked_only_once():
    assert looks_like_credential("x-" + "a-" * 50_000 + "token")
    assert not looks_like_credential("x-" + "a-" * 50_000)
