from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_core.http.hop_by_hop import END_TO_END, HOP_BY_HOP, connection_options

NAMES = st.sampled_from(sorted(END_TO_END | HOP_BY_HOP)) | st.text(max_size=20)


@pytest.mark.parametrize(
    ("connection", "names"),
    [
        ("", []),
        ("close", ["close"]),
        ("close, X-Foo", ["close", "x-foo"]),
        (" ,Keep-Alive\t,, HTTP2-Settings ", ["http2-settings"]),
        ("Cookie, authorization, HOST, Content-Type, X-Forwarded-For, Sec-Fetch-Site, If-Match", []),
        ("X-Mine", []),
        ("X_Forwarded_For, X_Foo, acce\xdf-control-request-method", ["x-foo"]),
    ],
)
def test_the_fields_that_belong_to_the_connection(connection, names):
    assert connection_options(connection, {"x-mine"}) == HOP_BY_HOP | set(names)


@given(st.lists(NAMES).map(", ".join) | st.text())
def test_a_client_cannot_remove_fields_that_others_rely_on(connection):
    dropped = connection_options(connection)
    assert dropped >= HOP_BY_HOP
    assert not dropped & END_TO_END
    assert "" not in dropped


def test_no_field_is_both():
    assert not HOP_BY_HOP & END_TO_END
