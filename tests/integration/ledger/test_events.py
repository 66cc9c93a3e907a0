"""Every ledger emits one event per transition, after the commit, whoever made the transition."""

from __future__ import annotations

import contextlib
import logging
import re
import time
import uuid
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from django.db import transaction
from django.test import override_settings
from django.utils import timezone

import broker_django
from broker_core.dispatches import NOT_REACHED, Dispatch, Outcome, Run, SealedRequest, Selection, State
from broker_core.dispatches.events import Event, Events
from broker_core.dispatches.memory_ledger import MemoryLedger
from broker_core.message import RequestMessage
from broker_django import signals
from broker_django.conf import conf
from broker_django.ledger import bodies
from broker_django.ledger import ledger as configured
from broker_django.ledger.database import DatabaseLedger
from broker_django.ledger.subscribers import log, signal, wake
from broker_django.messaging import sealing
from broker_django.tracking import cancellation
from tests.integration.replaying.test_revocation import HOSTNAME, held
from tests.processes import wait_until
from workers import tasks
from workers.recovery import former_queues, reaper, unreadable
from workers.replaying import celery_request, error_reports, leases, revocation, stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.dispatch import Signal

    from broker_core.dispatches import Ledger

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).parents[3]
QUEUES = {"bulk": {"max_attempts": 2, "retry_backoff": 0, "cancel_running": True}}
BROKEN = Outcome(503, error="the view answered 503", retriable=True)
LATER = timedelta(hours=1)
LEDGERS = {"memory": lambda: MemoryLedger(conf.queues), "database": lambda: DatabaseLedger(Events())}
USERS = (reaper, unreadable, former_queues, revocation, stopping, celery_request, error_reports, tasks, cancellation)
"""The modules that make transitions."""


@pytest.fixture(params=LEDGERS)
def ledger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """The ledger that workers and clients use. No process is forked here, so connections may stay open."""
    with override_settings(REQUEST_BROKER={"QUEUES": QUEUES}):
        used = LEDGERS[request.param]()
        for module in USERS:
            monkeypatch.setattr(module, "ledger", used)
        for name in ("revocation", "celery_request", "stopping"):
            monkeypatch.setattr(f"workers.replaying.{name}.connections", SimpleNamespace(close_all=lambda: None))
        monkeypatch.setattr(reaper, "publish", lambda *_: True)
        monkeypatch.setattr(reaper, "waiting_messages", lambda _: 0)
        monkeypatch.setattr(former_queues, "_is_served", lambda _: False)
        yield used


@pytest.fixture
def received(ledger: Ledger) -> list[Event]:
    events: list[Event] = []
    ledger.events.subscribe(events.append)
    return events


def accepted(ledger: Ledger, queue: str = "bulk", **facts: Any) -> Dispatch:
    dispatch_id, now = uuid.uuid4(), timezone.now()
    message = RequestMessage({"REQUEST_METHOD": "GET", "PATH_INFO": "/"})
    sealed = facts.pop("sealed", sealing.seal_request(message, str(dispatch_id), queue))
    given = {"method": "GET", "path": "/", "route": "/", "published_at": now, **facts}
    return ledger.accept(SealedRequest(Dispatch(dispatch_id, queue, now, **given), sealed))


def running(ledger: Ledger, times: int = 1, **facts: Any) -> Dispatch:
    """Returns a dispatch in its first attempt, or in its second and last one."""
    dispatch = accepted(ledger, **facts)
    assert ledger.claim(dispatch.id, conf.queues["bulk"], HOSTNAME) == 1
    if times > 1:
        ledger.lose(dispatch.id, Run(1), "lost")
        assert ledger.claim(dispatch.id, conf.queues["bulk"], HOSTNAME) == 2
    return dispatch


def overdue(ledger: Ledger, **facts: Any) -> Dispatch:
    return accepted(ledger, expires_at=timezone.now() - timedelta(seconds=1), **facts)


def reap(now: datetime) -> None:
    """Make one full pass."""
    one = reaper.Reaper(lambda: now)
    one._steady_since = now - LATER
    one._last_pass = now
    list(one.run_pass())


def held_request(dispatch: Dispatch, *, runs: bool = True) -> Any:
    message = held(SimpleNamespace(pk=dispatch.id))  # type: ignore[arg-type]
    message.time_start = time.time() - 60 if runs else None
    return message


class Pool:
    def terminate_job(self, *_: Any) -> None:
        """Pools of processes can terminate a job."""


def conclude(ledger: Ledger, dispatch: Dispatch, outcome: Outcome) -> None:
    assert ledger.conclude(dispatch.id, 1, conf.queues["bulk"], outcome, "sealed")


def fail_task(dispatch: Dispatch) -> None:
    """Do what Celery does after the first attempt of a task failed."""
    task: Any = tasks.replay
    task.push_request(attempt=1)
    try:
        task.on_failure(MemoryError(), str(dispatch.id), (), {}, None)
    finally:
        task.pop_request()


WAYS: dict[str, tuple[Callable[[Ledger], Dispatch], Callable[[Ledger, Dispatch], object], str]] = {
    "accepted": (accepted, lambda *_: None, "accepted"),
    "claimed": (running, lambda *_: None, "accepted started"),
    "succeeded": (running, lambda ledger, d: conclude(ledger, d, Outcome(200)), "accepted started succeeded"),
    "failed": (running, lambda ledger, d: conclude(ledger, d, BROKEN), "accepted started failed"),
    "retried": (
        running,
        lambda ledger, d: ledger.retry(d.id, Run(1), conf.queues["bulk"], BROKEN),
        "accepted started retrying",
    ),
    "handed back": (
        running,
        lambda ledger, d: ledger.hand_back(d.id, Run(1), NOT_REACHED),
        "accepted started retrying",
    ),
    "the task failed": (running, lambda _, d: fail_task(d), "accepted started retrying"),
    "no attempt was left": (
        lambda ledger: running(ledger, 2),
        lambda ledger, d: (
            ledger.lose(d.id, Run(2), "lost"),
            ledger.close(d.id, replace(conf.queues["bulk"], max_attempts=1)),
        ),
        "accepted started retrying started failed",
    ),
    "its process was lost": (
        running,
        lambda _, d: (each := held_request(d))._update_ledger(each._lost),
        "accepted started retrying",
    ),
    "its process was stopped at the time limit": (
        lambda ledger: running(ledger, 2),
        lambda _, d: (each := held_request(d))._update_ledger(each._stopped),
        "accepted started retrying started failed",
    ),
    "its lease ran out": (running, lambda *_: reap(timezone.now() + LATER), "accepted started retrying"),
    "its last lease ran out": (
        lambda ledger: running(ledger, 2),
        lambda *_: reap(timezone.now() + LATER),
        "accepted started retrying started failed",
    ),
    "the reaper found it expired": (overdue, lambda *_: reap(timezone.now()), "accepted expired"),
    "the reaper found it expired before it was published": (
        lambda ledger: overdue(ledger, published_at=None, due_at=timezone.now()),
        lambda *_: reap(timezone.now() + timedelta(seconds=1)),
        "accepted expired",
    ),
    "a lookup found it expired": (overdue, lambda ledger, d: ledger.find(d.id), "accepted expired"),
    "its message arrived too late": (
        overdue,
        lambda ledger, d: ledger.close(d.id, conf.queues["bulk"]),
        "accepted expired",
    ),
    "its queue is gone": (
        lambda ledger: accepted(ledger, "former"),
        lambda *_: reap(timezone.now() + LATER),
        "accepted failed",
    ),
    "its request is unreadable": (
        lambda ledger: accepted(ledger, sealed=b"altered"),
        lambda *_: reap(timezone.now() + LATER),
        "accepted started failed",
    ),
    "its client cancelled it": (accepted, lambda _, d: cancellation.cancel(d), "accepted cancelled"),
    "its client cancelled what runs": (
        running,
        lambda _, d: stopping.cancel(str(d.id), 1, HOSTNAME),
        "accepted started cancelled",
    ),
    "it was revoked": (accepted, lambda _, d: revocation.cancel_waiting([str(d.id)]), "accepted cancelled"),
    "its message was revoked": (
        accepted,
        lambda _, d: held_request(d, runs=False).terminate(Pool()),
        "accepted cancelled",
    ),
    "it was terminated": (
        running,
        lambda _, d: revocation.cancel(str(d.id), held_request(d)._run()),
        "accepted started cancelled",
    ),
    "somebody revived it": (
        accepted,
        lambda ledger, d: (ledger.abandon(d.id, "nobody can run it"), ledger.revive(d.id, "ann")),
        "accepted failed revived",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_transition_emits_one_event(ledger: Ledger, received: list[Event], way: str) -> None:
    begin, act, expected = WAYS[way]
    dispatch = begin(ledger)
    act(ledger, dispatch)
    assert [str(event.kind) for event in received] == expected.split()
    assert {event.dispatch_id for event in received} == {dispatch.id}


def test_a_rolled_back_transition_emits_nothing() -> None:
    events: list[Event] = []
    ledger = DatabaseLedger(Events(events.append))
    with pytest.raises(RuntimeError), transaction.atomic():
        accepted(ledger)
        raise RuntimeError
    with transaction.atomic():
        dispatch = accepted(ledger)
        assert events == []
    assert [(event.kind, event.dispatch_id) for event in events] == [("accepted", dispatch.id)]


def test_an_error_of_a_subscriber_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []

    def stumble(_event: Event) -> None:
        raise RuntimeError("the secret of this receiver")

    ledger = DatabaseLedger(Events(stumble, events.append))
    dispatch = accepted(ledger)
    assert ledger.claim(dispatch.id, conf.queues["bulk"], "worker") == 1
    assert [event.kind for event in events] == ["accepted", "started"]
    assert caplog.text.count("stumble failed on") == 2
    assert str(dispatch.id) in caplog.text


def test_an_event_costs_no_query_if_nobody_reads_the_dispatch(django_assert_num_queries: Any) -> None:
    ledger = DatabaseLedger(Events(wake, log, signal))
    dispatch = accepted(ledger)
    with django_assert_num_queries(1):
        assert ledger.claim(dispatch.id, conf.queues["bulk"], "worker") == 1


def test_the_log_has_a_line_for_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "broker_django.ledger")
    dispatch = accepted(configured)
    configured.cancel(dispatch.id)
    logged = [record for record in caplog.records if record.name == "broker_django.ledger"]
    assert [record.getMessage() for record in logged] == [
        f"Dispatch {dispatch.id}: accepted",
        f"Dispatch {dispatch.id}: cancelled",
    ]
    assert {record.dispatch_id for record in logged} == {str(dispatch.id)}  # type: ignore[attr-defined]


def test_signals_are_sent(caplog: pytest.LogCaptureFixture) -> None:
    received: list[tuple[str, State, int]] = []

    def accept(sender: type, dispatch: Dispatch, attempt: int, **_: Any) -> None:
        received.append(("accepted", dispatch.state, attempt))

    def start(sender: type, dispatch: Dispatch, attempt: int, **_: Any) -> None:
        received.append(("started", dispatch.state, attempt))

    def finish(sender: type, dispatch: Dispatch, attempt: int, **_: Any) -> None:
        received.append(("finished", dispatch.state, attempt))
        raise RuntimeError("a receiver that fails")

    given = {signals.dispatch_accepted: accept, signals.dispatch_started: start, signals.dispatch_finished: finish}
    for each, receiver in given.items():
        each.connect(receiver, sender=Dispatch)
    try:
        dispatch = running(configured)
        assert configured.conclude(dispatch.id, 1, conf.queues["bulk"], Outcome(200))
    finally:
        for each, receiver in given.items():
            each.disconnect(receiver, sender=Dispatch)
    assert received == [
        ("accepted", State.QUEUED, 0),
        ("started", State.RUNNING, 1),
        ("finished", State.SUCCEEDED, 1),
    ]
    assert "a receiver that fails" in caplog.text


def test_the_documented_receiver_is_called_for_a_failure() -> None:
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reference/signals.md").read_text(), re.DOTALL)
    made: list[dict[str, Any]] = []
    failure = SimpleNamespace(objects=SimpleNamespace(create=lambda **values: made.append(values)))
    names: dict[str, Any] = {"Failure": failure}
    exec(block, names)
    try:
        for outcome in (Outcome(200), BROKEN):
            dispatch = running(configured)
            configured.conclude(dispatch.id, 1, conf.queues["bulk"], outcome)
    finally:
        signals.dispatch_finished.disconnect(names["remember_failure"])
    assert made == [{"dispatch": dispatch.id, "route": "/", "attempt": 1, "error": BROKEN.error}]


def test_transitions_and_lookups_work_in_a_transaction_that_is_managed_by_hand() -> None:
    received: list[tuple[str, uuid.UUID]] = []
    ledger = DatabaseLedger(Events(lambda event: received.append((event.kind, event.dispatch_id))))
    policy = conf.queues["bulk"]
    expired, waits, free, runs = overdue(ledger), *(accepted(ledger) for _ in range(3))
    ledger.claim(runs.id, policy, HOSTNAME)
    received.clear()
    transaction.set_autocommit(False)
    try:
        found = ledger.find(expired.id)
        assert found is not None
        assert found.state is State.EXPIRED
        assert ledger.cancel(waits.id)
        assert ledger.claim(free.id, policy, HOSTNAME) == 1
        assert ledger.conclude(runs.id, 1, policy, Outcome(200), "sealed")
        assert received == []
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    assert received == [
        ("expired", expired.id),
        ("cancelled", waits.id),
        ("started", free.id),
        ("succeeded", runs.id),
    ]


@pytest.mark.parametrize("committed", [True, False])
def test_a_request_is_accepted_in_a_transaction_that_is_managed_by_hand(client: Any, committed: bool) -> None:
    transaction.set_autocommit(False)
    try:
        assert client.post("/pay/").status_code == 202
        (transaction.commit if committed else transaction.rollback)()
    finally:
        transaction.set_autocommit(True)
    assert [each.state for each in configured.select(Selection(), 9)] == committed * ["succeeded"]


def test_a_request_is_refused_if_django_never_says_what_is_committed(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(transaction.get_connection().settings_dict, "AUTOCOMMIT", False)
    transaction.set_autocommit(False)
    try:
        assert client.post("/pay/").status_code == 503
        transaction.rollback()
    finally:
        transaction.set_autocommit(True)
    assert configured.count() == 0


@contextlib.contextmanager
def receiving(sent: Signal, receiver: Callable[..., None]) -> Iterator[None]:
    sent.connect(receiver, weak=False)
    try:
        yield
    finally:
        sent.disconnect(receiver)


def test_a_claim_is_renewed_while_a_receiver_is_slow() -> None:
    seen: list[datetime] = []

    def wait_for_a_renewal(dispatch: Dispatch, **_: Any) -> None:
        def lease() -> datetime:
            found = configured.find(dispatch.id)
            assert found is not None
            assert found.lease_ends_at is not None
            return found.lease_ends_at

        first = lease()
        wait_until(lambda: lease() > first)
        seen.append(lease())

    with override_settings(REQUEST_BROKER={"LEASE": 0.5}):
        dispatch = accepted(configured)
        request = SimpleNamespace(hostname=HOSTNAME, is_eager=True, timelimit=(None, None))
        holding = leases.leases.held(dispatch.id, conf.queues["bulk"])
        with receiving(signals.dispatch_started, wait_for_a_renewal), holding:
            assert tasks._claim(request, dispatch.id, conf.queues["bulk"]) == 1
    assert len(seen) == 1
    assert not leases.leases._claims


def test_a_receiver_that_exits_does_not_take_the_request_along(tmp_path: Path) -> None:
    def leave(**_: Any) -> None:
        raise SystemExit(1)

    with override_settings(MEDIA_ROOT=tmp_path, REQUEST_BROKER={"MAX_INLINE_SIZE": 100}):
        with receiving(signals.dispatch_accepted, leave), pytest.raises(SystemExit):
            broker_django.dispatch("/echo/", queue="bulk", body=b"x" * 1_000)
        [dispatch] = configured.select(Selection(), 9)
        sealed = configured.sealed(dispatch.id)
        assert sealed is not None
        assert bodies.read(sealed.file)
