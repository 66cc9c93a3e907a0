"""The chaos run's own judgement: every promise that it watches over is one that it sees broken."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from broker_core.dispatches import State
from tests.chaos.load import Answer
from tests.chaos.network import Proxy
from tests.chaos.outage import broken, by_phase, percentile
from tests.chaos.verdict import Entry, Evidence, explanations, judge

PAYMENT = "0f2c5a7e-6f1c-4e0e-9d0e-000000000001"
REALTIME = "0f2c5a7e-6f1c-4e0e-9d0e-000000000002"
BULK = "0f2c5a7e-6f1c-4e0e-9d0e-000000000003"
NOBODYS = "0f2c5a7e-6f1c-4e0e-9d0e-00000000000f"
BEGAN = datetime(2030, 5, 17, 12, 0, tzinfo=UTC)


def entry(dispatch_id: str, queue: str, state: State = State.SUCCEEDED, attempts: int = 1) -> Entry:
    return Entry(dispatch_id, queue, state, attempts, BEGAN, BEGAN + timedelta(seconds=3) if state.done else None)


@pytest.fixture
def flawless() -> Evidence:
    """A payment ran twice because of a lost lease, a realtime request failed unrun, a bulk one went as it should."""
    return Evidence(
        accepted=[PAYMENT, REALTIME, BULK],
        ledger={
            PAYMENT: entry(PAYMENT, "payment", attempts=2),
            REALTIME: entry(REALTIME, "realtime", State.FAILED),
            BULK: entry(BULK, "bulk"),
        },
        executions={PAYMENT: 2, BULK: 1},
        endings={PAYMENT: 1, REALTIME: 1, BULK: 1},
        explanations={PAYMENT: 1},
    )


def test_a_second_run_that_a_lost_lease_explains_breaks_nothing(flawless):
    verdict = judge(flawless)
    assert verdict.kept
    assert verdict.explained == [PAYMENT]


def with_state(evidence: Evidence, dispatch_id: str, state: State) -> Evidence:
    changed = replace(evidence.ledger[dispatch_id], state=state)
    return replace(evidence, ledger={**evidence.ledger, dispatch_id: changed})


def test_what_was_accepted_and_is_not_in_the_ledger_is_lost(flawless):
    left = {id_: found for id_, found in flawless.ledger.items() if id_ != REALTIME}
    assert judge(replace(flawless, ledger=left)).broken == {"lost": [REALTIME]}


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_what_has_no_end_is_lost_whether_or_not_a_client_knows_of_it(flawless, state):
    evidence = replace(with_state(flawless, BULK, state), endings={PAYMENT: 1, REALTIME: 1}, accepted=[PAYMENT])
    assert judge(evidence).broken == {"lost": [BULK]}


@pytest.mark.parametrize("times", [0, 2])
def test_what_ended_twice_or_without_notice_is_seen(flawless, times):
    evidence = replace(flawless, endings={**flawless.endings, BULK: times})
    assert judge(evidence).broken == {"not ended exactly once": [BULK]}


def test_what_was_taken_back_from_its_end_is_lost_and_seen(flawless):
    assert judge(with_state(flawless, BULK, State.QUEUED)).broken == {
        "lost": [BULK],
        "not ended exactly once": [BULK],
    }


def test_a_second_run_that_nothing_explains_is_seen(flawless):
    assert judge(replace(flawless, explanations={})).broken == {"run twice, unexplained": [PAYMENT]}


def test_one_lost_lease_does_not_explain_two_more_runs(flawless):
    evidence = replace(flawless, executions={PAYMENT: 3, BULK: 1})
    assert judge(evidence).broken == {"run twice, unexplained": [PAYMENT]}


def test_no_lost_lease_explains_a_second_run_where_once_at_most_was_promised(flawless):
    evidence = replace(
        flawless, executions={**flawless.executions, REALTIME: 2}, explanations={PAYMENT: 1, REALTIME: 9}
    )
    assert judge(evidence).broken == {"run twice, at_most_once": [REALTIME]}


def test_a_success_that_never_ran_is_seen(flawless):
    assert judge(replace(flawless, executions={PAYMENT: 2})).broken == {"succeeded without a run": [BULK]}


@pytest.mark.parametrize("dispatch_id", ["", NOBODYS])
def test_a_run_without_a_dispatch_is_seen(flawless, dispatch_id):
    evidence = replace(flawless, executions={**flawless.executions, dispatch_id: 1})
    assert judge(evidence).broken == {"run without a dispatch": [dispatch_id]}


def test_lines_that_tell_of_a_loss_explain_the_dispatch_that_they_name():
    lines = [
        f"[12:00:01: WARNING/7] workers.reaper: Dispatch {PAYMENT}: the lease of a@b ran out in attempt 1: queued",
        f"[12:00:02: WARNING/7] workers.requests: Dispatch {PAYMENT}: the worker process was lost: queued",
        f"[12:00:03: WARNING/7] workers.reaper: Dispatch {BULK}: its message was lost, it is published again",
        f"[12:00:04: INFO/7] celery: Task POST /lease/ (payment)[{REALTIME}] received",
        f"[12:00:05: INFO/7] workers.tasks: Dispatch {REALTIME} is dropped: it was delivered before",
        "[12:00:06: WARNING/7] workers.leases: 2 leases could not be renewed, there is another try",
    ]
    assert explanations(lines) == {PAYMENT: 2}


def answer(at: float = 0.0, seconds: float = 0.1, status: int | None = 202) -> Answer:
    return Answer(at, seconds, "payment", status, PAYMENT if status == 202 else None)


@pytest.mark.parametrize(
    ("answers", "settled", "promises"),
    [
        ([answer()], 1.0, 0),
        ([answer(), answer(seconds=2.1)], 1.0, 1),
        ([answer(), answer(status=503)], 1.0, 1),
        ([answer(), answer(status=None, seconds=20)], 1.0, 2),
        ([answer()], None, 1),
        ([], 1.0, 1),
    ],
)
def test_an_outage_breaks_a_promise_where_a_client_waits_or_work_is_left(answers, settled, promises):
    assert len(broken(answers, settled)) == promises


def test_requests_are_counted_when_they_were_sent():
    answers = [answer(at=at, seconds=9) for at in (0.0, 9.9, 10.0, 19.9, 20.0)]
    assert [len(phase) for phase in by_phase(answers, (10.0, 20.0)).values()] == [2, 2, 1]


def test_a_percentile_is_one_of_the_values():
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([], 0.99) == 0.0


@pytest.fixture
def echo():
    """The port of a server that says what it hears."""

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=repeat, args=[connection], daemon=True).start()

    def repeat(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while heard := connection.recv(100):
                connection.sendall(heard)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=[listener], daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(echo):
    with contextlib.closing(Proxy(echo)) as proxy:
        yield proxy


def dial(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def said_back(connection: socket.socket, words: bytes) -> bytes:
    connection.sendall(words)
    return connection.recv(100)


def test_a_network_that_is_cut_breaks_connections_and_refuses_new_ones_until_restored(proxy):
    with dial(proxy) as connection:
        assert said_back(connection, b"one") == b"one"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    with pytest.raises(ConnectionRefusedError):
        dial(proxy)
    proxy.restore()
    with dial(proxy) as connection:
        assert said_back(connection, b"two") == b"two"


def test_a_network_that_is_held_passes_nothing_until_restored(proxy):
    with dial(proxy) as connection:
        assert said_back(connection, b"one") == b"one"
        proxy.hold()
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            said_back(connection, b"two")
        proxy.restore()
        connection.settimeout(5)
        assert connection.recv(100) == b"two"


def test_a_network_that_was_held_may_have_lost_its_connections(proxy):
    with dial(proxy) as connection:
        assert said_back(connection, b"one") == b"one"
        proxy.hold()
        connection.sendall(b"two")
        proxy.restore(reset=True)
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
