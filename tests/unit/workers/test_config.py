from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from celery import Celery
from django.test import override_settings
from kombu import Exchange, Queue

from broker_django.messaging import celery_app
from broker_django.messaging.celery_app import TASK, broker_urls, queue_of_delivery, scheme_of
from tests.containers import ROOT
from tests.processes import finished
from workers.config import REDIS_OPTIONS, SAFE_SETTINGS, configure

OPTIONS = {**REDIS_OPTIONS, "socket_connect_timeout": 0.5, "socket_timeout": 0.5}

pytestmark = pytest.mark.usefixtures("own_app")


@pytest.fixture(params=["before", "after"])
def configured(request):
    """Configures a fresh app, before or after the app has read its own configuration."""

    def make(prepare=lambda app: None, **kwargs):
        app = Celery("project", set_as_current=False, **kwargs)
        if request.param == "before":
            configure(app)
            prepare(app)
        else:
            prepare(app)
            assert app.conf.timezone is None
            assert app.configured
            configure(app)
        return app

    return make


def from_object(values, **kwargs):
    return lambda app: app.config_from_object(values, **kwargs)


def names(app):
    return [queue if isinstance(queue, str) else queue.name for queue in app.conf.task_queues]


def test_the_safe_settings_are_filled_in(configured):
    app = configured()
    assert {name: app.conf[name] for name in SAFE_SETTINGS} == SAFE_SETTINGS
    assert names(app) == ["celery", "payment", "realtime", "bulk"]


@pytest.mark.parametrize(
    "prepare",
    [
        from_object({"worker_prefetch_multiplier": 7, "result_backend": "redis://results"}),
        from_object({"CELERYD_PREFETCH_MULTIPLIER": 7, "CELERY_RESULT_BACKEND": "redis://results"}),
        from_object(
            {"CELERY_WORKER_PREFETCH_MULTIPLIER": 7, "CELERY_RESULT_BACKEND": "redis://results", "UNRELATED": 1},
            namespace="CELERY",
        ),
        lambda app: app.conf.update(worker_prefetch_multiplier=7, result_backend="redis://results"),
        lambda app: app.add_defaults({"worker_prefetch_multiplier": 7, "result_backend": "redis://results"}),
    ],
    ids=["lowercase", "old", "namespaced", "update", "defaults"],
)
def test_settings_of_the_project_are_kept(configured, prepare):
    app = configured(prepare)
    assert app.conf.worker_prefetch_multiplier == 7
    assert app.conf.result_backend == "redis://results"
    assert app.conf.worker_disable_prefetch is True


def test_settings_of_the_project_are_kept_even_if_they_equal_celerys_defaults(configured):
    values = {"worker_prefetch_multiplier": 4, "worker_send_task_events": False, "result_backend": None}
    app = configured(from_object(values))
    assert {name: app.conf[name] for name in values} == values


def test_arguments_of_the_app_are_kept(configured):
    app = configured(broker="redis://host/1", backend="redis://results")
    assert (app.conf.broker_url, app.conf.result_backend) == ("redis://host/1", "redis://results")


@pytest.mark.parametrize(
    ("queues", "expected"),
    [
        (
            [Queue("payment", Exchange("money"), routing_key="pay"), Queue("emails")],
            ["payment", "emails", "realtime", "bulk"],
        ),
        ({"bulk": {"routing_key": "b"}, "emails": {}}, ["bulk", "emails", "payment", "realtime"]),
    ],
)
def test_queues_are_added_to_those_of_the_project(configured, queues, expected):
    app = configured(from_object({"task_queues": queues}))
    assert sorted(names(app)) == sorted(expected)
    assert set(app.amqp.queues) == set(expected)


def test_a_declared_queue_keeps_its_exchange_and_key(configured):
    declared = Queue("payment", Exchange("money"), routing_key="pay")
    app = configured(from_object({"task_queues": [declared]}))
    assert (app.amqp.queues["payment"].exchange.name, app.amqp.queues["payment"].routing_key) == ("money", "pay")


def test_the_default_queue_of_the_project_is_kept(configured):
    app = configured(from_object({"task_default_queue": "emails"}))
    assert names(app) == ["emails", "payment", "realtime", "bulk"]


def test_the_default_queue_is_the_one_that_celery_makes(configured):
    values = {
        "task_default_queue": "emails",
        "task_default_exchange": "mail",
        "task_default_exchange_type": "topic",
        "task_default_routing_key": "mail.any",
        "task_default_queue_type": "quorum",
    }
    default = configured(from_object(values)).amqp.queues["emails"]
    assert (default.exchange.name, default.exchange.type, default.routing_key) == ("mail", "topic", "mail.any")
    assert default.queue_arguments == {"x-queue-type": "quorum"}


@pytest.mark.parametrize(
    ("values", "arguments", "exchange_type"),
    [
        ({}, None, "direct"),
        ({"task_default_queue_type": "quorum"}, {"x-queue-type": "quorum"}, "direct"),
        ({"task_default_queue_type": "quorum", "task_create_missing_queue_type": "classic"}, None, "direct"),
        ({"task_create_missing_queue_type": "quorum"}, {"x-queue-type": "quorum"}, "direct"),
        ({"task_create_missing_queue_exchange_type": "topic"}, None, "topic"),
        ({"task_queue_max_priority": 5}, {"x-max-priority": 5}, "direct"),
    ],
)
def test_queues_are_added_with_the_type_of_missing_ones(configured, values, arguments, exchange_type):
    queue = configured(from_object(values)).amqp.queues["payment"]
    assert (queue.exchange.name, queue.exchange.type, queue.routing_key) == ("payment", exchange_type, "payment")
    assert queue.queue_arguments == arguments


def test_a_delivery_belongs_to_the_queue_that_its_routing_key_is_bound_to(configured):
    mail = Exchange("mail", type="topic")
    declared = [
        Queue("payment", Exchange("money", type="topic"), routing_key="any"),
        Queue("realtime", mail, routing_key="any"),
        Queue("bulk", mail, routing_key="much"),
        Queue("emails", mail, routing_key="letter"),
    ]
    configured(from_object({"task_queues": declared}))
    assert queue_of_delivery({"exchange": "money", "routing_key": "any"}) == "payment"
    assert queue_of_delivery({"exchange": "mail", "routing_key": "any"}) == "realtime"
    assert queue_of_delivery({"exchange": "", "routing_key": "much"}) == "bulk"
    assert queue_of_delivery({"routing_key": "payment"}) == "payment"
    for key in ("any", "letter", "emails", "", None):
        with pytest.raises(KeyError):
            queue_of_delivery({"exchange": "", "routing_key": key})


def test_queues_are_looked_up_by_their_celery_names(configured):
    with override_settings(REQUEST_BROKER={"QUEUES": {"payment": {"celery_queue": "money"}, "reports": {}}}):
        assert names(configured()) == ["celery", "money", "realtime", "bulk", "reports"]


def test_configuring_twice_has_no_further_effect(configured):
    app = configured(broker="redis://host")
    before = (names(app), dict(app.conf.broker_transport_options))
    configure(app)
    assert (names(app), app.conf.broker_transport_options) == before


@pytest.mark.parametrize(
    "url",
    [
        "redis://host/0",
        "rediss://host/0",
        "redis+socket:///run/redis.sock",
        "sentinel://one;sentinel://two",
        ["redis://one", "redis://two"],
    ],
)
def test_transport_options_are_defaults_for_those_of_the_project_on_redis(configured, url):
    options = {"visibility_timeout": 99, "sep": ":"}
    app = configured(from_object({"broker_url": url, "broker_transport_options": options}))
    assert app.conf.broker_transport_options == {**OPTIONS, **options}


@pytest.mark.parametrize("url", [None, "amqp://host", "amqps://host", "pyamqp://one;pyamqp://two"])
def test_only_dispatches_are_confirmed_on_rabbitmq_by_default(configured, url):
    assert configured(from_object({"broker_url": url})).conf.broker_transport_options == {}
    options = {"confirm_publish": True, "a": 1}
    app = configured(from_object({"broker_url": url, "broker_transport_options": options}))
    assert app.conf.broker_transport_options == options


@pytest.mark.parametrize("url", ["memory://", "sqs://"])
def test_other_message_brokers_get_no_options_of_redis(configured, url):
    app = configured(from_object({"broker_url": url, "broker_transport_options": {"a": 1}}))
    assert app.conf.broker_transport_options == {"a": 1}


def test_the_url_to_read_from_determines_the_message_broker(configured):
    app = configured(from_object({"broker_read_url": "redis://host", "broker_write_url": "amqp://host"}))
    assert app.conf.broker_transport_options["visibility_timeout"] == OPTIONS["visibility_timeout"]


def test_the_app_publishes_and_has_the_task(configured):
    app = configured()
    assert celery_app.get_app() is app
    app.loader.import_default_modules()
    app.finalize()
    assert TASK in app.tasks


WORKER = """
import sys, django, celery, json
django.setup()
from kombu.transport import TRANSPORT_ALIASES
from workers.config import configure

values, pool, serves = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
project = celery.Celery("project", set_as_current=False)
project.config_from_object({"broker_url": "redis://host", **values})
configure(project)
other = celery.Celery("other", set_as_current=False, broker="redis://host")
app = {"project": project, "other": other}[serves]
app.Worker(pool_cls=pool)
options = app.conf.broker_transport_options
seen = [app.conf.worker_disable_prefetch, app.conf.worker_prefetch_multiplier, options.get("socket_timeout")]
print(json.dumps([*seen, "workers" in str(TRANSPORT_ALIASES["redis"])]))
"""


@pytest.fixture
def worker(tmp_path):
    """Makes a worker with this pool in another process. Returns its settings, and whether it uses our transport."""
    (tmp_path / "pools").mkdir()
    for name in ("gevent", "prefork"):
        (tmp_path / "pools" / f"{name}.py").write_text("from celery.concurrency.solo import TaskPool")

    def make(pool, values=(), serves="project"):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        environment["DJANGO_SETTINGS_MODULE"] = "tests.settings"
        command = [sys.executable, "-c", WORKER, json.dumps(dict(values)), f"pools.{pool}:TaskPool", serves]
        return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)

    return make


@pytest.mark.parametrize(
    ("values", "disabled", "multiplier"),
    [
        ({}, False, 4),
        ({"worker_disable_prefetch": True}, True, 4),
        ({"worker_disable_prefetch": True, "worker_prefetch_multiplier": 1}, True, 1),
        ({"worker_prefetch_multiplier": 9}, False, 9),
    ],
)
def test_a_green_pool_prefetches_messages_by_default(worker, values, disabled, multiplier):
    assert worker("gevent", values) == [disabled, multiplier, 30, True]


def test_other_pools_prefetch_one_message_and_wait_for_redis(worker):
    assert worker("prefork") == [True, 1, 30, True]


def test_the_worker_of_another_app_is_not_changed(worker):
    assert worker("gevent", serves="other") == [False, 4, None, False]


@pytest.mark.parametrize(
    ("setting", "urls"),
    [
        (None, []),
        ("", [""]),
        ("redis://a", ["redis://a"]),
        ("a://b;c://d", ["a://b", "c://d"]),
        (("a", "b"), ["a", "b"]),
    ],
)
def test_the_alternatives_of_a_broker_url(setting, urls):
    assert broker_urls(setting) == urls


@pytest.mark.parametrize(
    ("url", "scheme"), [("redis://h", "redis"), ("redis+socket:///p", "redis"), ("rediss://h", "rediss"), ("", "")]
)
def test_the_scheme_of_a_url(url, scheme):
    assert scheme_of(url) == scheme


def test_it_is_imported_before_django_is_set_up():
    """A project imports its Celery app in its package, and Celery's commands import what its settings name."""
    named = ("config", "inspection", "consuming.scheduling", "consuming.redis", "consuming.rabbitmq")
    program = f"import {', '.join(f'workers.{name}' for name in named)}"
    assert finished([sys.executable, "-c", program], {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}).stderr == ""


SHOP = override_settings(REQUEST_BROKER={"PREFIX": "shop:", "QUEUES": {"own": {"celery_queue": "named"}}})


@SHOP
def test_the_prefix_applies_to_all_names_shared_with_other_projects(configured):
    app = configured(from_object({"broker_url": "redis://localhost"}))
    assert names(app) == ["shop:celery", "shop:payment", "shop:realtime", "shop:bulk", "named"]
    assert list(app.amqp.queues) == names(app)
    assert (app.conf.control_exchange, app.conf.event_exchange) == ("shop:celery", "shop:celeryev")
    keys = {key: value for key, value in app.conf.broker_transport_options.items() if key.startswith("unacked")}
    assert set(keys.values()) == {"shop:unacked", "shop:unacked_index", "shop:unacked_mutex"}


@SHOP
def test_names_set_by_the_project_are_kept(configured):
    given = {
        "broker_url": "redis://localhost",
        "task_default_queue": "default",
        "control_exchange": "control",
        "event_exchange": "events",
        "broker_transport_options": {"unacked_key": "mine"},
    }
    app = configured(from_object(given))
    assert names(app)[0] == "default"
    assert (app.conf.control_exchange, app.conf.event_exchange) == ("control", "events")
    assert app.conf.broker_transport_options["unacked_key"] == "mine"
