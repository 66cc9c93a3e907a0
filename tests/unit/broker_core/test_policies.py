from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_core.conditions import Condition
from broker_core.errors import ConfigurationError
from broker_core.http.preferences import NO_PREFERENCES, Preferences
from broker_core.policies import Annotation, Classifier, Mode, QueuePolicy, Rule, policies_from

QUEUES = policies_from({"bulk": {"wait": 4}})
ASYNC = Preferences(respond_async=True)

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["payment", "weight", "wait", "delivery", "max_depth", 1, "", None]), inner)
    ),
    max_leaves=8,
)


def classifier(*entries):
    return Classifier([Rule.from_mapping(entry, QUEUES) for entry in entries], QUEUES)


def classified(rules, values, preferences=NO_PREFERENCES):
    return rules.classify(lambda names: {name: values[name] for name in names if name in values}, preferences)


def test_there_are_three_queues_without_any_configuration():
    queues = policies_from({})
    assert {name: policy.weight for name, policy in queues.items()} == {"payment": 6, "realtime": 3, "bulk": 1}
    assert (queues["payment"].max_attempts, queues["realtime"].expires, queues["bulk"].max_depth) == (5, 30, 100_000)


def test_a_partial_entry_keeps_the_rest_of_a_shipped_queue():
    queues = policies_from({"payment": {"weight": 60}, "reports": {"celery_queue": "slow"}})
    assert queues["payment"] == QueuePolicy(weight=60, max_attempts=5, celery_queue="payment")
    assert queues["reports"] == QueuePolicy(celery_queue="slow")
    assert list(queues) == ["payment", "realtime", "bulk", "reports"]


@pytest.mark.parametrize(
    "entries",
    [
        {"payment": {"wieght": 1}},
        {"payment": {1: 1, "two": 2}},
        {"payment": {"weight": 0}},
        {"payment": {"weight": 1.5}},
        {"payment": {"weight": True}},
        {"payment": {"weight": "6"}},
        {"payment": {"weight": None}},
        {"payment": {"wait": -1}},
        {"payment": {"wait": float("nan")}},
        {"payment": {"expires": float("inf")}},
        {"payment": {"time_limit": 0}},
        {"payment": {"max_attempts": 0}},
        {"payment": {"delivery": "exactly_once"}},
        {"payment": {"delivery": ["at_least_once"]}},
        {"payment": {"celery_queue": 1}},
        {"payment": 6},
        {"payment": None},
        {"": {}},
        {1: {}},
        [],
        None,
    ],
)
def test_a_policy_that_cannot_mean_anything_is_refused(entries):
    with pytest.raises(ConfigurationError):
        policies_from(entries)


@given(ANYTHING)
def test_any_value_gives_queues_or_a_configuration_error(entries):
    try:
        queues = policies_from(entries)
    except ConfigurationError:
        return
    assert {"payment", "realtime", "bulk"} <= set(queues)
    assert all(policy.weight > 0 and policy.celery_queue for policy in queues.values())


@given(ANYTHING | st.fixed_dictionaries({"when": ANYTHING, "queue": ANYTHING}, optional={"mode": ANYTHING}))
def test_any_value_gives_a_rule_or_a_configuration_error(entry):
    try:
        rule = Rule.from_mapping(entry, QUEUES)
    except ConfigurationError:
        return
    assert rule.queue in QUEUES


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"queue": "bulk"}, "'when' and 'queue'"),
        ({"when": "true", "queue": "bulk", "if": "x"}, "'when' and 'queue'"),
        ({"when": True, "queue": "bulk"}, "text of a condition"),
        ({"when": "true", "queue": "bluk"}, "there is no queue 'bluk'; there are payment, realtime, bulk"),
        ({"when": "true", "queue": ["bulk"]}, "there is no queue"),
        ({"when": "true", "queue": "bulk", "mode": "later"}, "there is no mode 'later'"),
        ({"when": "request.pth", "queue": "bulk"}, "request.pth does not exist"),
    ],
)
def test_a_rule_that_cannot_mean_anything_is_refused(entry, reason):
    with pytest.raises(ConfigurationError, match=reason):
        Rule.from_mapping(entry, QUEUES)


def test_the_first_rule_that_holds_decides():
    rules = classifier(
        {"when": "request.path == '/pay'", "queue": "payment"},
        {"when": "request.path.startsWith('/')", "queue": "bulk", "mode": "sync"},
        {"when": "true", "queue": "realtime"},
    )
    payment = classified(rules, {"request.path": "/pay"})
    assert (payment.queue, payment.mode, payment.reason) == ("payment", Mode.QUEUE, "rule 0")
    bulk = classified(rules, {"request.path": "/"})
    assert (bulk.queue, bulk.queued, bulk.wait) == ("bulk", False, 4)
    assert classified(rules, {"request.path": "x"}).reason == "rule 2"


def test_a_rule_without_an_answer_does_not_match():
    rules = classifier(
        {"when": "request.headers.nope == ''", "queue": "payment"},
        {"when": "request.size / 0 == 1", "queue": "payment"},
        {"when": "request.path < 1", "queue": "payment"},
        {"when": "request.size.matches('a')", "queue": "payment"},
        {"when": "[1][7] == 1", "queue": "payment"},
        {"when": "user.is_staff", "queue": "payment"},
    )
    assert classified(rules, {"request.headers": {}, "request.size": 1, "request.path": "/"}) is None


def test_only_values_that_rules_read_are_asked_for_and_only_once_a_cheap_comparison_holds():
    rules = classifier(
        {"when": 'request.path == "/pay" && user.is_staff', "queue": "bulk"},
        {"when": 'request.path.startsWith("/p") && request.size > 9', "queue": "bulk"},
    )
    for path, asked_for in (
        ("/", [{"request.path"}]),
        ("/pay", [{"request.path"}, {"request.path", "user.is_staff", "request.size"}]),
    ):
        asked = []
        values = {"request.path": path, "user.is_staff": False, "request.size": 1}
        assert rules.classify(lambda names, asked=asked, values=values: asked.append(names) or values, ASYNC) is None
        assert asked == asked_for
    assert rules.reads_user
    assert not classifier({"when": "request.path == 'user.id'", "queue": "bulk"}).reads_user


def test_without_rules_nothing_is_asked_for():
    assert classifier().classify(lambda names: pytest.fail("asked"), NO_PREFERENCES) is None


@pytest.mark.parametrize(
    ("mode", "preferences", "queued"),
    [
        (Mode.QUEUE, NO_PREFERENCES, True),
        (Mode.SYNC, ASYNC, False),
        (Mode.PREFER, ASYNC, True),
        (Mode.PREFER, NO_PREFERENCES, False),
    ],
)
def test_the_mode_and_the_client_say_when_it_runs(mode, preferences, queued):
    assert classifier().annotated(Annotation("bulk", mode), preferences).queued is queued


@pytest.mark.parametrize(
    ("annotated", "preferred", "wait"), [(None, None, 4), (2, None, 2), (0, None, 0), (2, 9, 9), (2, 0, 0)]
)
def test_the_client_is_held_as_it_prefers_else_as_the_view_says_else_as_the_queue_says(annotated, preferred, wait):
    annotation = Annotation("bulk", Mode.QUEUE, annotated)
    assert classifier().annotated(annotation, Preferences(wait=preferred)).wait == wait


def test_a_view_that_is_never_queued_has_no_decision():
    assert classifier().annotated(Annotation(None, Mode.SYNC), ASYNC) is None


def test_a_view_on_a_queue_that_is_not_there_runs_now_and_is_logged(caplog):
    assert classifier().annotated(Annotation("bluk", Mode.QUEUE), ASYNC) is None
    assert "'bluk', which is not configured" in caplog.text


def test_a_rule_keeps_its_condition():
    assert Rule.from_mapping({"when": "true", "queue": "bulk"}, QUEUES).when.text == Condition("true").text
