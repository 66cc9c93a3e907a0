"""The chaos run detects each broken promise."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sqlite3
import sys
import threading
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from broker_core.dispatches import State
from chaos import journal, poison
from chaos.faults import make_read_only, make_writable
from chaos.installation import Service
from chaos.journal import Line, Phase
from chaos.load import OF_RELEASES, Answer, Menu
from chaos.network import Proxy
from chaos.outage import broken, by_phase, percentile
from chaos.verdict import BRIEF, HAND_BACK, LOSS, NOT_REACHED, RECORDED_WITHIN, RETRY, Entry, Evidence, judge, mentions
from tests.containers import Process
from tests.processes import wait_until

PAYMENT = "0f2c5a7e-6f1c-4e0e-9d0e-000000000001"
REALTIME = "0f2c5a7e-6f1c-4e0e-9d0e-000000000002"
BULK = "0f2c5a7e-6f1c-4e0e-9d0e-000000000003"
NOBODYS = "0f2c5a7e-6f1c-4e0e-9d0e-00000000000f"
BEGAN = datetime(2030, 5, 17, 12, 0, tzinfo=UTC)


KILLED, ALIVE = 71, 72
"""Two processes."""
KILLED_AT = 100.0


def entry(dispatch_id: str, queue: str, state: State = State.SUCCEEDED, attempts: int = 1) -> Entry:
    return Entry(dispatch_id, queue, state, attempts, BEGAN, BEGAN + timedelta(seconds=3) if state.done else None)


def begun(dispatch_id: str, attempt: int = 1, pid: int = ALIVE, release: str = "") -> Line:
    """A view began just before the one process was killed."""
    return Line(Phase.BEGIN, dispatch_id, attempt, pid, release, at=KILLED_AT - 1)


def run(dispatch_id: str, attempt: int = 1, pid: int = ALIVE, release: str = "", raised: str = "") -> list[Line]:
    """The journal of a view that wrote its row and returned, or raised."""
    begin = begun(dispatch_id, attempt, pid, release)
    return [begin, replace(begin, phase=Phase.COMMITTED, text=""), replace(begin, phase=Phase.END, text=raised)]


@pytest.fixture
def flawless() -> Evidence:
    """A payment ran twice because its process was killed, a realtime request failed unrun because of that, and a bulk
    one went as it should.
    """
    return Evidence(
        accepted=[PAYMENT, REALTIME, BULK],
        ledger={
            PAYMENT: entry(PAYMENT, "payment", attempts=2),
            REALTIME: entry(REALTIME, "realtime", State.FAILED),
            BULK: entry(BULK, "bulk"),
        },
        journal=[begun(PAYMENT, pid=KILLED), *run(PAYMENT, 2), *run(BULK)],
        killed={KILLED: KILLED_AT},
        endings={PAYMENT: 1, REALTIME: 1, BULK: 1},
        rows={PAYMENT: 2, BULK: 1},
        losses={PAYMENT: 1, REALTIME: 1},
        retries={},
    )


def test_a_second_run_that_a_lost_process_explains_breaks_nothing(flawless):
    verdict = judge(flawless)
    assert verdict.kept
    assert verdict.explained == [PAYMENT]


def with_state(evidence: Evidence, dispatch_id: str, state: State, error: str = "") -> Evidence:
    changed = replace(evidence.ledger[dispatch_id], state=state, error=error)
    return replace(evidence, ledger={**evidence.ledger, dispatch_id: changed})


def of_bulk(evidence: Evidence, *lines: Line, attempts: int = 1, **changes: object) -> Evidence:
    """The same with another journal of the bulk request, and the rows that belong to it."""
    others = [line for line in evidence.journal if line.dispatch != BULK]
    rows = {**evidence.rows, BULK: sum(line.phase is Phase.COMMITTED for line in lines)}
    ledger = {**evidence.ledger, BULK: replace(evidence.ledger[BULK], attempts=attempts)}
    return replace(evidence, **{"journal": [*others, *lines], "rows": rows, "ledger": ledger, **changes})


def test_an_accepted_dispatch_that_is_not_in_the_ledger_is_lost(flawless):
    left = {id_: found for id_, found in flawless.ledger.items() if id_ != REALTIME}
    assert judge(replace(flawless, ledger=left)).broken == {"lost": [REALTIME]}


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_an_unfinished_dispatch_is_lost_even_if_no_client_knows_it(flawless, state):
    evidence = replace(with_state(flawless, BULK, state), endings={PAYMENT: 1, REALTIME: 1}, accepted=[PAYMENT])
    assert judge(evidence).broken == {"lost": [BULK]}


@pytest.mark.parametrize("times", [0, 2])
def test_two_ends_or_an_unrecorded_end_are_detected(flawless, times):
    evidence = replace(flawless, endings={**flawless.endings, BULK: times})
    assert judge(evidence).broken == {"not ended exactly once": [BULK]}


def test_a_dispatch_that_left_its_final_state_is_lost_and_detected(flawless):
    assert judge(with_state(flawless, BULK, State.QUEUED)).broken == {
        "lost": [BULK],
        "not ended exactly once": [BULK],
    }


def test_a_second_run_that_nothing_explains_is_seen(flawless):
    evidence = replace(flawless, losses={REALTIME: 1})
    assert judge(evidence).broken == {"run twice, unexplained": [PAYMENT]}


def test_a_run_counts_although_its_transaction_was_rolled_back(flawless):
    evidence = of_bulk(flawless, begun(BULK), replace(begun(BULK), phase=Phase.END), *run(BULK, 2), attempts=2)
    assert judge(evidence).broken == {"run twice, unexplained": [BULK]}


def test_one_lost_lease_does_not_explain_two_more_runs(flawless):
    evidence = replace(flawless, journal=[*flawless.journal, begun(PAYMENT, 3, KILLED)])
    assert judge(evidence).broken == {"run twice, unexplained": [PAYMENT]}


def test_nothing_explains_that_one_attempt_began_twice(flawless):
    evidence = of_bulk(flawless, begun(BULK, pid=KILLED), *run(BULK), losses={**flawless.losses, BULK: 9})
    assert judge(evidence).broken["run twice, unexplained"] == [BULK]


def test_a_failure_and_the_log_line_of_the_retry_explain_a_second_run(flawless):
    evidence = of_bulk(flawless, *run(BULK, raised="SystemExit"), *run(BULK, 2), attempts=2, retries={BULK: 1})
    assert judge(evidence).kept


def test_a_retry_after_a_view_that_returned_explains_nothing(flawless):
    evidence = of_bulk(flawless, *run(BULK), *run(BULK, 2), attempts=2, retries={BULK: 1})
    assert judge(evidence).broken == {"run twice, unexplained": [BULK]}


def test_nothing_explains_a_second_run_of_a_dispatch_delivered_at_most_once(flawless):
    lines = [*flawless.journal, begun(REALTIME, 1, KILLED), *run(REALTIME, 2, raised="ValueError")]
    evidence = replace(flawless, journal=lines, losses={PAYMENT: 1, REALTIME: 9}, retries={REALTIME: 9})
    evidence = replace(evidence, rows={**evidence.rows, REALTIME: 1})
    assert "run twice, at_most_once" in judge(evidence).broken


@pytest.mark.parametrize("lines", [[], [begun(BULK, pid=KILLED)], run(BULK, raised="Http404")])
def test_a_success_without_a_returned_view_is_detected(flawless, lines):
    assert judge(of_bulk(flawless, *lines)).broken == {"succeeded without a run": [BULK]}


@pytest.mark.parametrize("error", ["the view answered 503", "no attempt is left"])
def test_a_failure_without_a_run_is_seen(flawless, error):
    evidence = replace(with_state(flawless, REALTIME, State.FAILED, error), losses={PAYMENT: 1})
    assert judge(evidence).broken == {"failed without a run": [REALTIME]}


def test_a_dead_letter_may_say_that_its_view_was_not_reached(flawless):
    evidence = with_state(flawless, REALTIME, State.FAILED, f"{NOT_REACHED}: no release knows the URL")
    assert judge(replace(evidence, losses={PAYMENT: 1})).kept


def test_a_view_that_returned_and_failed_although_its_process_lived_is_seen(flawless):
    evidence = with_state(flawless, BULK, State.FAILED, "InternalError")
    assert judge(evidence).broken == {"outcome discarded": [BULK]}


def test_a_lease_that_ran_out_although_the_process_lived_is_seen(flawless):
    losses = {**flawless.losses, BULK: 1}
    evidence = of_bulk(flawless, *run(BULK), *run(BULK, 2), attempts=2, losses=losses)
    assert judge(evidence).broken == {"outcome discarded": [BULK]}


def test_an_attempt_that_was_handed_back_explains_no_lost_lease(flawless):
    losses, handed_back = {**flawless.losses, BULK: 1}, {BULK: 1}
    evidence = of_bulk(flawless, *run(BULK, 2), attempts=2, losses=losses, hand_backs=handed_back)
    assert judge(evidence).broken == {"outcome discarded": [BULK]}


def test_a_process_that_was_lost_before_the_view_began_explains_a_lost_lease(flawless):
    assert judge(of_bulk(flawless, *run(BULK, 2), attempts=2, losses={**flawless.losses, BULK: 1})).kept


@pytest.mark.parametrize(
    ("later", "promises"), [(RECORDED_WITHIN - 2, []), (RECORDED_WITHIN + 2, ["outcome discarded"])]
)
def test_a_process_that_was_killed_long_after_the_view_explains_nothing(flawless, later, promises):
    lines = [*run(BULK, pid=KILLED), *run(BULK, 2)]
    killed, losses = {KILLED: KILLED_AT + later}, {**flawless.losses, BULK: 1}
    assert list(judge(of_bulk(flawless, *lines, attempts=2, killed=killed, losses=losses)).broken) == promises


def test_a_process_that_ended_by_itself_during_the_view_is_detected(flawless):
    evidence = of_bulk(flawless, begun(BULK), *run(BULK, 2), attempts=2, losses={**flawless.losses, BULK: 1})
    assert judge(evidence).broken == {"outcome discarded": [BULK], "process ended by a view": [BULK]}


@pytest.mark.parametrize(("release", "promises"), [("old", []), ("new", ["run by other code"]), ("", [])])
def test_a_view_of_another_release_than_the_one_that_accepted_is_seen(flawless, release, promises):
    accepted = Line(Phase.ACCEPTED, BULK, 0, ALIVE, "old")
    assert list(judge(of_bulk(flawless, accepted, *run(BULK, release=release))).broken) == promises


@pytest.mark.parametrize("dispatch_id", ["", NOBODYS])
def test_a_run_without_a_dispatch_is_seen(flawless, dispatch_id):
    lines, rows = [*flawless.journal, *run(dispatch_id)], {**flawless.rows, dispatch_id: 1}
    assert judge(replace(flawless, journal=lines, rows=rows)).broken == {"run without a dispatch": [dispatch_id]}


@pytest.mark.parametrize("rows", [0, 2])
def test_a_committed_row_that_is_gone_and_one_without_a_run_are_seen(flawless, rows):
    evidence = replace(flawless, rows={**flawless.rows, BULK: rows})
    assert judge(evidence).broken == {"rows and journal disagree": [BULK]}


def test_leftovers_of_an_earlier_view_are_detected(flawless):
    found = replace(begun(BULK), phase=Phase.FOUND, text="umask is 0")
    assert judge(of_bulk(flawless, found, *run(BULK))).broken == {"left behind by an earlier view": [BULK]}


def test_a_row_of_a_transaction_that_was_left_open_is_seen(flawless):
    assert list(judge(replace(flawless, uncommitted=1)).broken) == ["committed although left open"]


REAPER = "workers.recovery.reaper"
CELERY_REQUEST = "workers.replaying.celery_request"


def test_log_lines_of_a_loss_explain_the_dispatch_that_they_name():
    lines = [
        f"[12:00:01: WARNING/7] {REAPER}: Dispatch {PAYMENT}: the lease of a@b ran out in attempt 1: queued",
        f"[12:00:02: WARNING/7] {CELERY_REQUEST}: Dispatch {PAYMENT}: the worker process was lost: queued",
        f"[12:00:03: WARNING/7] workers.recovery.reaper: Dispatch {BULK}: its message was lost, it is published again",
        f"[12:00:04: INFO/7] celery: Task POST /lease/ (payment)[{REALTIME}] received",
        f"[12:00:05: INFO/7] workers.tasks: Dispatch {REALTIME} is dropped: it was delivered before",
        f"[12:00:05: INFO/7] workers.tasks: Dispatch {BULK} failed in attempt 1 and is due at 2030-05-17T12:00: 500",
        f"[12:00:05: INFO/7] workers.tasks: Dispatch {BULK} is handed back and is due at 2030-05-17T12:00: no URL",
        "[12:00:06: WARNING/7] workers.replaying.leases: 2 leases could not be renewed and are tried again",
    ]
    assert mentions(LOSS, lines) == {PAYMENT: 2}
    assert mentions(RETRY, lines) == {BULK: 1}
    assert mentions(HAND_BACK, lines) == {BULK: 1}


def test_processes_write_to_one_account_and_no_line_is_torn(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    monkeypatch.setenv(journal.VARIABLE, str(path))
    line = Line(Phase.FOUND, BULK, 1, ALIVE, "x" * 3_000, at=1.5)
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            for _ in range(200):
                journal.write(line)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert journal.read(path) == [line] * 800


def test_every_connection_to_a_read_only_file_is_refused_its_writes_and_reads_on(tmp_path):
    path = str(tmp_path / "database")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as earlier:
        earlier.executescript("PRAGMA journal_mode = WAL; CREATE TABLE chaos_window AS SELECT 0 AS opened")
        make_read_only(path)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as later:
            for connection in (earlier, later):
                with pytest.raises(sqlite3.OperationalError, match="attempt to write a readonly database"):
                    connection.execute("UPDATE chaos_window SET opened = 7")
                assert connection.execute("SELECT opened FROM chaos_window").fetchall() == [(1,)]
        make_writable(path)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as opened_again:
            opened_again.execute("UPDATE chaos_window SET opened = 7")
            assert opened_again.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert earlier.execute("SELECT opened FROM chaos_window").fetchall() == [(7,)]


def test_a_service_that_ended_by_itself_is_started_again_and_one_that_was_stopped_when_it_may_be():
    service = Service(Process("service", [sys.executable, "-c", "import time; time.sleep(60)"]))
    try:
        first = service.process.pid
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not service.running)
        assert service.supervise()
        assert service.up
        assert (service.ended, service.killed) == ([-signal.SIGKILL], {})
        second = service.process.pid
        service.stop(signal.SIGKILL)
        wait_until(lambda: not service.running)
        assert not service.supervise()
        assert not service.running
        service.start()
        assert service.up
        assert second in service.killed
    finally:
        service.end()


def test_each_poison_has_its_turn_before_one_has_another():
    poisons = poison.names("sqlite")
    menu = Menu(random.Random(1), poisons=poisons)
    drawn = [menu.draw() for _ in range(20_000)]
    turns = Counter(path.split("/")[2] for path, _ in drawn if "poison" in path)
    assert set(turns) == set(poisons)
    assert max(turns.values()) - min(turns.values()) <= 1
    assert {queue for path, queue in drawn if "/swallow/" in path} == {BRIEF}
    assert {path.split("/")[1] for path, _ in drawn} >= set(OF_RELEASES)


def test_without_poisons_there_is_only_work():
    menu = Menu(random.Random(1))
    assert {menu.draw()[0].split("/")[1] for _ in range(200)} == {"work", "async-work"}


def answer(at: float = 0.0, seconds: float = 0.1, status: int | None = 202) -> Answer:
    return Answer(at, seconds, "payment", status, PAYMENT if status == 202 else None)


@pytest.mark.parametrize(
    ("answers", "drained_in", "promises"),
    [
        ([answer()], 1.0, 0),
        ([answer(), answer(seconds=2.1)], 1.0, 1),
        ([answer(), answer(status=503)], 1.0, 1),
        ([answer(), answer(status=None, seconds=20)], 1.0, 2),
        ([answer()], None, 1),
        ([], 1.0, 1),
    ],
)
def test_an_outage_breaks_a_promise_if_a_client_waits_or_work_is_left(answers, drained_in, promises):
    assert len(broken(answers, drained_in)) == promises


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
    """Yields the port of an echo server."""

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
        proxy.freeze()
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            said_back(connection, b"two")
        proxy.restore()
        connection.settimeout(5)
        assert connection.recv(100) == b"two"


def test_a_network_that_was_held_may_have_lost_its_connections(proxy):
    with dial(proxy) as connection:
        assert said_back(connection, b"one") == b"one"
        proxy.freeze()
        connection.sendall(b"two")
        proxy.restore(reset=True)
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
