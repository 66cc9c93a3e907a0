"""Altered envelopes, and envelopes opened for another purpose, are never opened or replayed."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from celery import states
from django_celery_results.models import TaskResult
from hypothesis import assume
from hypothesis import strategies as st

from broker_core.envelope import context
from broker_core.errors import EnvelopeError
from broker_core.message import RequestMessage, ResponseMessage
from broker_django.conf import conf
from broker_django.ledger import ledger
from broker_django.messaging.sealing import from_text, open_request, open_response, seal_request, seal_response, to_text
from broker_django.models import DispatchRecord
from tests.fuzz.examples import CHEAP, fuzz
from tests.fuzz.mutations import BYTES, TEXT, Step, mutated, mutated_text
from tests.fuzz.test_messages import NESTED, REQUEST, RESPONSE
from tests.site.models import Execution
from workers.tasks import replay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from django.test import Client

ID, OTHER_ID = (str(uuid.UUID(int=number)) for number in (1, 2))
SEALED = {ID: seal_request(REQUEST, ID, "payment"), OTHER_ID: seal_request(REQUEST, OTHER_ID, "bulk")}
STORED = {each: seal_response(RESPONSE, each, 1) for each in (ID, OTHER_ID)}
NAMES = st.sampled_from([ID, OTHER_ID, "request", "response", "payment", "bulk", ""]) | st.text(max_size=20)


def is_refused(sealed: bytes, associated: bytes) -> None:
    with pytest.raises(EnvelopeError):
        conf.keyring.open(sealed, associated)


@fuzz(CHEAP, changes=BYTES)
def test_mutated_bytes(changes: list[Step]) -> None:
    for one, other in ((ID, OTHER_ID), (OTHER_ID, ID)):
        sealed = mutated(SEALED[one], changes, SEALED[other])
        assume(sealed not in SEALED.values())
        for queue in ("payment", "bulk"):
            with pytest.raises(EnvelopeError):
                open_request(sealed, one, queue)


@fuzz(CHEAP, changes=BYTES)
def test_pieces_of_a_request_and_of_a_response(changes: list[Step]) -> None:
    request, response = SEALED[ID], from_text(STORED[ID])
    for sealed in (mutated(request, changes, response), mutated(response, changes, request)):
        assume(sealed not in {request, response})
        is_refused(sealed, context("request", ID, "payment"))
        is_refused(sealed, context("response", ID))


@fuzz(CHEAP, names=st.lists(NAMES, min_size=1, max_size=4))
def test_other_purposes_ids_and_queues(names: list[str]) -> None:
    purpose, *rest = names
    if names != ["request", ID, "payment"]:
        is_refused(SEALED[ID], context(purpose, *rest))
    if names != ["response", ID, "1"]:
        is_refused(from_text(STORED[ID]), context(purpose, *rest))


@fuzz(CHEAP, changes=TEXT)
def test_mutated_text(changes: list[Step]) -> None:
    text = mutated_text(STORED[ID], changes, STORED[OTHER_ID])
    try:
        opened = open_response(text, ID, 1)
    except EnvelopeError:
        return
    assert from_text(text) == from_text(STORED[ID])
    assert ResponseMessage.decode(opened) == RESPONSE


@dataclass(frozen=True, slots=True)
class Wire:
    """Two payments that wait for a worker, and the task that anybody may be handed who can write to the queue."""

    payments: tuple[DispatchRecord, DispatchRecord]

    @property
    def ids(self) -> tuple[str, str]:
        return str(self.payments[0].pk), str(self.payments[1].pk)

    @property
    def texts(self) -> tuple[str, str]:
        return to_text(bytes(self.payments[0].sealed)), to_text(bytes(self.payments[1].sealed))

    def deliver(self, *args: Any, task_id: Any, key: Any = "payment", named: Mapping[str, Any] | None = None) -> str:
        return replay.apply(args, {**(named or {})}, task_id=task_id, routing_key=key, throw=False).state

    def refuses(self, *args: Any, task_id: Any, key: Any = "payment", named: Mapping[str, Any] | None = None) -> None:
        before = self._stored()
        assert self.deliver(*args, task_id=task_id, key=key, named=named) == states.IGNORED
        assert self._stored() == before

    def _stored(self) -> list[Any]:
        return [list(rows.order_by("pk").values()) for rows in map(_rows, (DispatchRecord, TaskResult, Execution))]


def _rows(model: Any) -> Any:
    return model.objects


@pytest.fixture
def wire(db: None, client: Client, monkeypatch: pytest.MonkeyPatch) -> Wire:
    with monkeypatch.context() as patch:
        patch.setattr("broker_django.admission.handover.run_eagerly", lambda *_args, **_kwargs: None)
        ids = [client.post("/pay/", {"amount": "5"}).json()["id"] for _ in range(2)]
    one, other = (DispatchRecord.objects.get(pk=dispatch_id) for dispatch_id in ids)
    assert one.state == other.state == "queued"
    return Wire((one, other))


def test_an_unchanged_message_runs_once(wire: Wire) -> None:
    for expected in (states.SUCCESS, states.IGNORED):
        assert wire.deliver(wire.texts[0], task_id=wire.ids[0]) == expected
    assert Execution.objects.filter(dispatch=wire.payments[0].pk).count() == 1


@fuzz(changes=TEXT)
def test_a_task_with_mutated_text_is_refused(wire: Wire, changes: list[Step]) -> None:
    text = mutated_text(wire.texts[0], changes, wire.texts[1])
    assume(text not in wire.texts)
    wire.refuses(text, task_id=wire.ids[0])


@fuzz(changes=BYTES)
def test_a_task_with_mutated_bytes_is_refused(wire: Wire, changes: list[Step]) -> None:
    sealed, other = (bytes(payment.sealed) for payment in wire.payments)
    data = mutated(sealed, changes, other)
    assume(data not in {sealed, other})
    wire.refuses(to_text(data), task_id=wire.ids[0])


@fuzz(
    arguments=st.lists(NESTED | st.binary(max_size=20), max_size=3),
    named=st.dictionaries(st.sampled_from(["sealed", "self", "task_id", "x", ""]), NESTED, max_size=2),
)
def test_a_task_with_other_arguments_is_refused(wire: Wire, arguments: list[Any], named: dict[str, Any]) -> None:
    if arguments:
        named.pop("sealed", None)
    wire.refuses(*arguments, task_id=wire.ids[0], named=named)


@fuzz(changes=TEXT, key=st.sampled_from(["payment", "bulk", "realtime", "celery", "", None]) | NESTED)
def test_a_task_under_another_id_or_queue_is_refused(wire: Wire, changes: list[Step], key: Any) -> None:
    task_id = mutated_text(wire.ids[0], changes, wire.ids[1])
    assume(task_id)
    if (task_id, key) != (wire.ids[0], "payment"):
        wire.refuses(wire.texts[0], task_id=task_id, key=key)


@pytest.mark.parametrize(
    "spelling", [str.upper, lambda text: text.replace("-", ""), "{{{}}}".format, "urn:uuid:{}".format]
)
def test_a_task_under_another_spelling_of_its_id_is_refused(wire: Wire, spelling: Callable[[str], str]) -> None:
    wire.refuses(wire.texts[0], task_id=spelling(wire.ids[0]))


@pytest.mark.parametrize("task_id", [5, 1.5, True, b"id"])
def test_a_task_without_a_text_id_is_refused(wire: Wire, task_id: Any) -> None:
    wire.refuses(wire.texts[0], task_id=task_id)


def test_a_task_with_a_deep_argument_is_refused(wire: Wire) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    wire.refuses(deep, task_id=wire.ids[0])


@pytest.mark.parametrize("text", ["A" * 20_000_000, "\u00e4" * 1_000_000, "\ud800" * 1_000_000, "=" * 1_000_000])
def test_a_task_with_huge_text_is_refused(wire: Wire, text: str) -> None:
    wire.refuses(text, task_id=wire.ids[0])


@fuzz(changes=BYTES)
def test_a_message_that_was_sealed_here_but_is_malformed_is_refused(wire: Wire, changes: list[Step]) -> None:
    """As after a change of the format: an opened envelope may contain no valid request."""
    dispatch_id = wire.ids[0]
    data = mutated(REQUEST.encode(), changes, RESPONSE.encode())
    if not _is_request(data):
        sealed = conf.keyring.seal(data, context("request", dispatch_id, "payment"))
        wire.refuses(to_text(sealed), task_id=dispatch_id)


def _is_request(data: bytes) -> bool:
    try:
        RequestMessage.decode(data)
    except Exception:
        return False
    return True


def test_the_payments_are_still_to_be_had_after_all_that(wire: Wire) -> None:
    wire.refuses("forged", task_id=wire.ids[0])
    assert ledger.claim(wire.payments[0].pk, conf.queues["payment"], "a worker") == 1
