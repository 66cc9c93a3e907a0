"""Publishing to a real Redis server, through the app's own pool or through one that keeps its client."""

from __future__ import annotations

import ssl
import uuid

import pytest
import redis
from celery import Celery
from django.test import override_settings
from kombu import Exchange, Queue

from broker_django.conf import conf
from broker_django.messaging import publishing, rabbitmq
from broker_django.messaging import redis as redis_transport
from broker_django.messaging.notifications import _announcers
from broker_django.messaging.publishing import _producers, breaker, publish, waiting_messages
from broker_django.models import DispatchRecord
from tests import servers
from tests.rows import as_request
from workers.config import configure

pytestmark = pytest.mark.usefixtures("own_app")


@pytest.fixture
def server():
    """A separate server for each test, because kombu shares pools and declarations by URL."""
    with servers.valkey() as broker:
        yield broker.url


@pytest.fixture
def client(server):
    with redis.Redis.from_url(server) as client:
        yield client


@pytest.fixture
def make_app(server):
    made = []

    def make(**values):
        app = Celery("project", set_as_current=False)
        app.config_from_object({"broker_url": server, **values})
        made.append(app)
        return configure(app)

    yield make
    for app in made:
        app.close()


def publish_one(queue="payment"):
    record = DispatchRecord(pk=uuid.uuid4(), queue=queue, method="POST", route="/", sealed=b"sealed")
    return publish(as_request(record), conf.queues[queue])


def publishers(client):
    """The connections that this process publishes with, by the server's own ids."""
    return {entry["id"] for entry in client.client_list() if entry["cmd"] == "lpush"}


def test_dispatches_are_published_over_one_connection_that_keeps_its_client(client, make_app):
    app = make_app()
    with _producers(app, app.pool).acquire() as producer:
        assert isinstance(producer.channel, redis_transport.Channel)
    assert all(publish_one() for _ in range(3))
    before = publishers(client)
    assert len(before) == 1
    assert all(publish_one("bulk") for _ in range(3))
    assert publishers(client) == before
    assert (client.llen("payment"), client.llen("bulk")) == (3, 3)


def test_a_cut_connection_costs_no_dispatch(client, make_app):
    make_app()
    assert publish_one()
    client.client_kill_filter(_type="normal", skipme=True)
    assert publish_one()
    assert client.llen("payment") == 2


def test_an_exchange_that_the_project_declared_is_there_to_route_by(client, make_app):
    make_app(task_queues=[Queue("payment", Exchange("shop", type="topic"), routing_key="pay.now")])
    assert all(publish_one() for _ in range(2))
    assert client.llen("payment") == 2


@pytest.mark.parametrize("url", ["memory://", ["memory://", "redis://127.0.0.1:1/0"]])
def test_other_message_brokers_are_published_to_through_the_pool_of_the_app(make_app, url):
    app = make_app(broker_url=url)
    assert _producers(app, app.pool) is app.amqp.producer_pool


@pytest.mark.parametrize(
    ("url", "values"),
    [
        ("rediss://host/0", {}),
        ("rediss://checked/0?ssl_cert_reqs=CERT_REQUIRED", {}),
        ("redis://set/0", {"broker_use_ssl": {"ssl_cert_reqs": "required"}}),
        ("redis://plain/0", {}),
    ],
)
def test_encrypted_connections_are_encrypted_here_too(make_app, url, values):
    app = make_app(broker_url=url, **values)
    stock, ours = app.connection_for_write(), _producers(app, app.pool).connections.connection
    assert ours.ssl == stock.ssl
    assert bool(ours.ssl) is (url.startswith("rediss") or bool(values))


@pytest.mark.parametrize(
    ("url", "own"),
    [
        (None, rabbitmq.Transport),
        ("amqp://host", rabbitmq.Transport),
        ("amqps://host", rabbitmq.SSLTransport),
        ("pyamqp://one;pyamqp://two", rabbitmq.Transport),
        ("amqp://one;amqps://two", None),
    ],
)
def test_rabbitmq_confirms_dispatches_and_no_answer_is_waited_for_without_limit(make_app, url, own):
    app = make_app(broker_url=url)
    connection = _producers(app, app.pool).connections.connection
    options = connection.transport_options
    assert (options["confirm_publish"], options["read_timeout"], options["write_timeout"]) == (True, 0.5, 0.5)
    assert own is None or connection.get_transport_cls() is own


def test_settings_of_the_project_for_confirmations_are_kept(make_app):
    app = make_app(broker_url="amqp://host", broker_transport_options={"confirm_publish": False})
    options = _producers(app, app.pool).connections.connection.transport_options
    assert options["confirm_publish"] is False


def test_lengths_are_known_again_after_the_message_broker_has_refused(client, make_app):
    make_app()
    assert publish_one()
    used = client.info("memory")["used_memory"]
    client.config_set("maxmemory", used // 2)
    assert publish_one() is False
    assert waiting_messages(conf.queues["payment"]) == 1
    assert waiting_messages(conf.queues["bulk"]) == 0
    client.config_set("maxmemory", 0)
    assert publish_one()
    assert waiting_messages(conf.queues["payment"]) == 2


def test_a_refusal_does_not_mean_that_nothing_waits(client, make_app):
    make_app()
    assert publish_one()
    client.acl_setuser("default", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", "-llen"])
    assert waiting_messages(conf.queues["payment"]) is None


def test_a_publisher_waits_for_a_producer_no_longer_than_it_may(make_app):
    app = make_app(broker_pool_limit=1)
    with _producers(app, app.pool).acquire(), override_settings(REQUEST_BROKER={"PUBLISH_TIMEOUT": 0.2}):
        assert publish_one() is False
    assert not breaker.is_open, "the message broker itself was not asked"
    assert publish_one()


@pytest.mark.parametrize("requirement", ["CERT_NONE", "CERT_REQUIRED", "none"])
def test_certificates_are_checked_as_the_url_says(requirement):
    pool = _announcers(f"rediss://host/0?ssl_cert_reqs={requirement}", 1.0)
    assert pool.make_connection().cert_reqs == ssl.VerifyMode[f"CERT_{requirement.removeprefix('CERT_').upper()}"]


def test_an_announcement_is_heard_and_costs_no_answer(server, client):
    pool = _announcers(f"{server}?health_check_interval=1", 1.0)
    connection = pool.get_connection()
    heard = client.pubsub()
    heard.subscribe("news")
    assert heard.get_message(timeout=1)["type"] == "subscribe"
    connection.next_health_check = 0.0
    connection.send_command("PUBLISH", "news", b"", check_health=False)
    assert heard.get_message(timeout=1)["type"] == "message"
    assert not connection.can_read()


def test_a_closed_channel_lets_its_client_go(make_app):
    with make_app().connection_for_write(transport=publishing.TRANSPORTS["redis"]) as connection:
        channel = connection.default_channel
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
            assert first is second
        channel._after_fork()
        with channel.conn_or_acquire() as third:
            assert third is not first
            assert third.ping()
