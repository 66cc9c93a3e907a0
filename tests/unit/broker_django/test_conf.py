from __future__ import annotations

import pytest
from django.test import override_settings

from broker_core.errors import EnvelopeError
from broker_django.conf import conf


def broker(**values):
    return override_settings(REQUEST_BROKER=values)


def test_a_setting_is_read_on_access():
    with broker(MAX_WAIT=7):
        assert conf.MAX_WAIT == 7
    with broker():
        assert conf.MAX_WAIT == 30


def test_an_unknown_setting_is_not_an_attribute():
    with pytest.raises(AttributeError):
        _ = conf.MAX_WIAT


@pytest.mark.parametrize("source", [None, [], 7, "QUEUES"])
def test_without_a_dictionary_the_defaults_hold(source):
    with override_settings(REQUEST_BROKER=source):
        assert conf.MAX_BODY_SIZE == 10 * 1024 * 1024
        assert list(conf.queues) == ["payment", "realtime", "bulk"]


def test_without_the_setting_the_defaults_hold(settings):
    del settings.REQUEST_BROKER
    assert conf.POLL_INTERVAL == 1
    assert conf.classifier.rules == ()


def test_queues_and_rules_are_compiled_once_for_one_value():
    with broker(QUEUES={"reports": {}}, RULES=[{"when": "true", "queue": "reports"}]):
        assert conf.queues is conf.queues
        assert conf.classifier is conf.classifier
        assert [rule.queue for rule in conf.classifier.rules] == ["reports"]
    with broker():
        assert "reports" not in conf.queues
        assert conf.classifier.rules == ()


def test_a_wrong_rule_is_left_out_and_the_others_hold(caplog):
    rules = [{"when": "nonsense", "queue": "bulk"}, {"when": "true", "queue": "bulk"}, 7]
    with broker(RULES=rules):
        assert [rule.when.text for rule in conf.classifier.rules] == ["true"]
        assert [place for place, _ in conf.compiled.errors] == ["RULES[0]", "RULES[2]"]
    assert "is left out" in caplog.text


@pytest.mark.parametrize("rules", [None, 7, {"when": "true", "queue": "bulk"}, "true"])
def test_rules_that_are_no_list_are_left_out(rules):
    with broker(RULES=rules):
        assert conf.classifier.rules == ()
        assert [place for place, _ in conf.compiled.errors] == ["RULES"]


@pytest.mark.parametrize("queues", [None, [], {"payment": {"weight": -1}}, {1: {}}])
def test_wrong_queues_leave_the_shipped_ones(queues):
    with broker(QUEUES=queues):
        assert {name: policy.weight for name, policy in conf.queues.items()} == {"payment": 6, "realtime": 3, "bulk": 1}
        assert [place for place, _ in conf.compiled.errors] == ["QUEUES"]


def test_a_queue_is_found_by_the_celery_queue_that_it_travels_on():
    with broker(QUEUES={"payment": {"celery_queue": "money"}}):
        assert conf.queue_served_by("money") == "payment"
        assert conf.queue_served_by("bulk") == "bulk"
        with pytest.raises(KeyError):
            conf.queue_served_by("payment")


def test_keys_are_rotated_with_the_projects():
    with override_settings(SECRET_KEY="old"):
        sealed = conf.keyring.seal(b"pay", b"")
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "old"]):
        assert conf.keyring.open(sealed, b"") == b"pay"
    with override_settings(SECRET_KEY="new"), pytest.raises(EnvelopeError):
        conf.keyring.open(sealed, b"")


def test_a_prefix_begins_the_names_of_celery_queues_and_not_the_queues_own():
    with broker(PREFIX="shop.", QUEUES={"own": {"celery_queue": "named"}}):
        assert {name: policy.celery_queue for name, policy in conf.queues.items()} == {
            "payment": "shop.payment",
            "realtime": "shop.realtime",
            "bulk": "shop.bulk",
            "own": "named",
        }
        assert conf.queue_served_by("shop.bulk") == "bulk"


@pytest.mark.parametrize("prefix", ["a b", "é", ".hidden", "-x", "../", "a/b", "x" * 65, "amq.x", 7, None, "a\n"])
def test_a_prefix_that_is_not_safe_is_not_used_and_is_said(prefix):
    with broker(PREFIX=prefix):
        assert conf.prefix == ""
        assert [place for place, _ in conf.compiled.errors] == ["PREFIX"]
