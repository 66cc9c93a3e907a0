"""Writing to the message broker is not enough to forge or change a request."""

from __future__ import annotations

import base64
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import redis

from broker_django.messaging.celery_app import TASK
from tests.acceptance.conftest import done

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from pytest_celery import CeleryTestSetup

    from tests.acceptance.conftest import Ledger, Site, Worker
    from tests.servers import MessageBroker

Message = dict[str, Any]


class Wire:
    """The lists of Redis: messages are taken from a database without a worker and put into one with a worker."""

    def __init__(self, broker: MessageBroker) -> None:
        self._from = redis.Redis.from_url(broker.unattended_url)
        self._to = redis.Redis.from_url(broker.url)

    def catch(self, queue: str) -> Message:
        return json.loads(self._from.rpop(queue))

    def put(self, queue: str, message: Message) -> None:
        self._to.lpush(queue, json.dumps(message))


@pytest.fixture
def wire(redis_broker: MessageBroker) -> Wire:
    return Wire(redis_broker)


@pytest.fixture
def caught(wire: Wire, apart: Site) -> tuple[str, Message]:
    """Returns the id and the message of an accepted payment."""
    with apart.client() as client:
        accepted = client.post("/pay/", data={"amount": "1"})
    return accepted.json()["id"], wire.catch("payment")


def arguments(message: Message) -> list[Any]:
    return json.loads(base64.b64decode(message["body"]))


def with_arguments(message: Message, *args: object) -> Message:
    body = json.dumps([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    return {**message, "body": base64.b64encode(body.encode()).decode()}


def with_id(message: Message, task_id: str) -> Message:
    properties = {**message["properties"], "correlation_id": task_id, "delivery_tag": str(uuid.uuid4())}
    return {**message, "headers": {**message["headers"], "id": task_id, "root_id": task_id}, "properties": properties}


def altered(sealed: str) -> str:
    raw = bytearray(base64.b64decode(sealed))
    raw[len(raw) // 2] ^= 1
    return base64.b64encode(raw).decode()


def test_an_unchanged_message_runs_once(caught, wire: Wire, ledger: Ledger, client: httpx.Client) -> None:
    dispatch_id, message = caught
    wire.put("payment", message)
    wire.put("payment", message)
    wire.put("payment", {**message, "properties": {**message["properties"], "delivery_tag": str(uuid.uuid4())}})
    done(client, client.post("/pay/"))
    assert ledger.dispatch(dispatch_id).state == "succeeded"
    assert ledger.executions(dispatch_id) == 1
    assert ledger.dispatch(dispatch_id).attempts == 1


def flipped(message: Message) -> Message:
    return with_arguments(message, altered(arguments(message)[0][0]))


def cut_short(message: Message) -> Message:
    return with_arguments(message, arguments(message)[0][0][:64])


def not_base64(message: Message) -> Message:
    return with_arguments(message, "§" * 100)


def no_text(message: Message) -> Message:
    return with_arguments(message, {"a": 1})


@pytest.mark.parametrize("change", [flipped, cut_short, not_base64, no_text])
def test_a_message_that_was_altered_is_refused(
    caught, wire: Wire, ledger: Ledger, worker: Worker, change: Callable[[Message], Message]
) -> None:
    dispatch_id, message = caught
    wire.put("payment", change(message))
    worker.assert_log_exists(f"Task {dispatch_id} on payment is refused")
    assert ledger.dispatch(dispatch_id).state == "queued"
    assert ledger.executions(dispatch_id) == 0


@pytest.mark.parametrize("queue", ["bulk", "realtime"])
def test_a_message_moved_to_another_queue_is_refused(
    caught, wire: Wire, ledger: Ledger, worker: Worker, queue: str
) -> None:
    dispatch_id, message = caught
    wire.put(queue, message)
    worker.assert_log_exists(f"Task {dispatch_id} on {queue} is refused")
    assert ledger.dispatch(dispatch_id).state == "queued"
    assert ledger.executions(dispatch_id) == 0


def test_a_sealed_request_under_another_id_is_refused(
    caught, wire: Wire, apart: Site, ledger: Ledger, worker: Worker
) -> None:
    dispatch_id, message = caught
    with apart.client() as client:
        other = client.post("/pay/").json()["id"]
    wire.put("payment", with_id(message, other))
    worker.assert_log_exists(f"Task {other} on payment is refused")
    assert ledger.executions(other) == ledger.executions(dispatch_id) == 0
    assert ledger.dispatch(other).state == "queued"


def test_a_task_made_by_hand_is_refused(wire: Wire, caught, ledger: Ledger, worker: Worker) -> None:
    _, message = caught
    forged = str(uuid.uuid4())
    wire.put("payment", with_id(with_arguments(message, base64.b64encode(b"\x01" * 200).decode()), forged))
    worker.assert_log_exists(f"Task {forged} on payment is refused")
    assert ledger.executions(forged) == 0


def test_a_task_with_no_uuid_for_an_id_is_refused(wire: Wire, caught, worker: Worker) -> None:
    _, message = caught
    wire.put("payment", with_id(message, "../etc/passwd"))
    worker.assert_log_exists("Task ../etc/passwd on payment is refused")


@pytest.fixture
def forge(celery_setup: CeleryTestSetup) -> Callable[..., str]:
    """Publish a replay task, as an attacker with the message broker's URL could. Returns its id."""

    def send(queue: str, *args: object, **options: object) -> str:
        celery_setup.app.amqp.queues.select_add(queue, exchange=queue, routing_key=queue)
        return celery_setup.app.send_task(TASK, args=args, queue=queue, ignore_result=True, **options).id

    return send


def test_a_task_sent_with_celerys_own_api_is_refused(forge, ledger: Ledger, worker: Worker) -> None:
    task_id = forge("payment", "forged")
    worker.assert_log_exists(f"Task {task_id} on payment is refused")
    assert ledger.executions(task_id) == 0


@pytest.mark.parametrize(
    ("queue", "options"),
    [("bulk", {"routing_key": "payment"}), ("bulk", {}), ("payment", {"task_id": str(uuid.uuid4())})],
    ids=["posing as its queue", "another queue", "another id"],
)
def test_a_sealed_request_sent_again_in_another_place_is_refused(
    forge, apart: Site, ledger: Ledger, worker: Worker, queue: str, options: dict[str, str]
) -> None:
    with apart.client() as client:
        dispatch_id = client.post("/pay/").json()["id"]
    sealed = base64.b64encode(ledger.dispatch(dispatch_id).sealed).decode()
    task_id = forge(queue, sealed, **{"task_id": dispatch_id, **options})
    worker.assert_log_exists(f"Task {task_id} on {queue} is refused")
    assert ledger.dispatch(dispatch_id).state == "queued"
    assert ledger.executions(dispatch_id) == ledger.executions(task_id) == 0


def test_the_worker_serves_on_after_all_that(client: httpx.Client) -> None:
    assert done(client, client.post("/pay/"))["state"] == "succeeded"
