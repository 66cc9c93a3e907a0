"""Check everything that a dispatch needs. Each check yields findings with advice."""

from __future__ import annotations

import logging
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery import states
from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone

from broker_core.backpressure import is_limited, pressure
from broker_core.redaction import redacted
from broker_django.admission.capacity import measure
from broker_django.conf import conf
from broker_django.ledger import ledger
from broker_django.messaging.celery_app import get_app
from broker_django.messaging.probing import probe
from broker_django.messaging.publishing import own_connection
from broker_django.models.database import results_too
from broker_django.operations.findings import Finding, consumption, keys
from broker_django.routing.table import READ_EVERY, is_kept_by_triggers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from celery import Celery

    from broker_core.dispatches import Group
    from broker_core.policies import QueuePolicy

logger = logging.getLogger("broker_django.operations.doctor")

INSPECT_TIMEOUT = 2.0
PROBE_TIMEOUT = 5.0
"""Seconds that a worker with a free slot has to run a probe."""
TOLERATED_SKEW = 2.0
"""Seconds that the clocks of web process and worker may differ by. Leases and expiry compare them."""
LATE = timedelta(seconds=30)
FORMER = (
    "No worker can run them. Put {queue!r} back into QUEUES of REQUEST_BROKER until they are done. Otherwise they fail "
    "after 15 minutes and become dead letters: manage.py broker_dispatches list --queue {queue}"
)


ELSEWHERE = (
    "Start one: manage.py broker_worker --queues {queues}. If one runs, its CELERY_BROKER_URL (perhaps only the "
    "database number) or its PREFIX differs from this process."
)


def examine() -> Iterator[Finding]:
    """Yields each finding when it is known."""
    app = get_app()
    yield from _ledger()
    broker = _message_broker(app)
    yield broker
    yield _result_store(app)
    yield from _workers(app, broker)
    yield from _waiting(broker)
    yield from _limits()
    yield from _abandoned()
    yield from _routing()


def _ledger() -> Iterator[Finding]:
    try:
        total = ledger.count()
    except ledger.failures as error:
        yield Finding("ledger", redacted(error), "Run manage.py migrate, and check DATABASES.")
    else:
        yield Finding("ledger", f"{total} dispatches")


def _message_broker(app: Celery) -> Finding:
    """Send and receive one message through a temporary queue."""
    subject, url = "message broker", app.connection_for_write().as_uri()
    name = f"request-broker-doctor-{uuid.uuid4().hex}"
    started = time.perf_counter()
    try:
        with own_connection(app, connect_timeout=conf.PUBLISH_TIMEOUT) as connection:
            timeout: Any = conf.PUBLISH_TIMEOUT  # kombu accepts fractions, too
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=timeout)
            with connection.SimpleBuffer(name, queue_opts={"expires": 60}) as queue:
                queue.put(name)
                queue.get(timeout=conf.PUBLISH_TIMEOUT).ack()
            queue.queue.delete()  # Redis would keep its binding
    except Exception as error:  # noqa: BLE001 - each transport has its own errors
        advice = "Start it, or correct CELERY_BROKER_URL. Dispatches wait in the ledger meanwhile."
        if settings.DEBUG:
            advice += " If broker_dev runs, enter the line `export CELERY_BROKER_URL=...` that it printed."
        return Finding(subject, f"{url}: {redacted(error)}", advice)
    return Finding(subject, f"{url}, sent and received in {_ms(started)}")


@results_too()
def _result_store(app: Celery) -> Finding:
    subject, backend, started = "result store", app.backend, time.perf_counter()
    name, task_id = type(backend).__name__, str(uuid.uuid4())
    try:
        backend.store_result(task_id, {"doctor": task_id}, states.SUCCESS)
        stored = backend.get_task_meta(task_id, cache=False)["result"]
        backend.forget(task_id)
    except Exception as error:  # noqa: BLE001 - each result backend has its own errors
        return Finding(subject, f"{name}: {redacted(error)}", "Check CELERY_RESULT_BACKEND and its server.")
    if stored != {"doctor": task_id}:
        return Finding(subject, f"{name} returned another result", "Check CELERY_RESULT_BACKEND.")
    return Finding(subject, f"{name}, stored and read in {_ms(started)}")


def _workers(app: Celery, broker: Finding) -> Iterator[Finding]:
    replies = _ask_workers(app) if broker.well else {}
    silent = _silent_workers(replies) if broker.well else {}
    read = {queue for reply in replies.values() for queue in reply["queues"]}
    elsewhere = ELSEWHERE.format(
        queues=",".join(name for name, policy in conf.queues.items() if policy.celery_queue not in read)
    )
    for name, policy in conf.queues.items():
        serving = [worker for worker, reply in replies.items() if _serves(reply, policy)]
        busy = [worker for worker in silent if name in silent[worker]]
        advice = "Its workers have different keys: see below." if policy.celery_queue in read else elsewhere
        detail = f"served by {', '.join([*serving, *busy])}" if serving or busy else "no worker serves it"
        if not broker.well:
            detail, advice = "its workers cannot be asked", "See the message broker, above."
        yield Finding(f"queue {name}", detail, "" if serving or busy else advice)
    for worker, reply in replies.items():
        yield from _worker(worker, reply)
    for worker, queues in silent.items():
        detail = f"busy: it does not answer, but renews leases of dispatches in {', '.join(sorted(queues))}"
        yield Finding(f"worker {worker}", detail)


def _worker(worker: str, reply: dict[str, Any]) -> Iterator[Finding]:
    skew = reply["skew"]
    yield Finding(
        f"clock of {worker}",
        f"{skew:+.1f} s from this process",
        "" if abs(skew) <= TOLERATED_SKEW else "Synchronise the clocks: leases and expiry compare them.",
    )
    if "keys" in reply and _consumes_ours(reply):
        yield keys(worker, reply["keys"])
    if "slots" in reply:
        yield consumption(worker, reply, PROBE_TIMEOUT)


def _serves(reply: dict[str, Any], policy: QueuePolicy) -> bool:
    """Whether the worker consumes the queue and can open messages that this process seals."""
    keys = reply.get("keys")
    return policy.celery_queue in reply["queues"] and (keys is None or conf.keyring.key_ids[0] in keys)


def _consumes_ours(reply: dict[str, Any]) -> bool:
    return any(policy.celery_queue in reply["queues"] for policy in conf.queues.values())


def _silent_workers(replies: dict[str, dict[str, Any]]) -> dict[str, set[str]]:
    """Returns the queues of dispatches that run on workers that do not answer. With the solo pool, a worker answers
    only between tasks.
    """
    silent: dict[str, set[str]] = {}
    try:
        at_work = ledger.at_work(timezone.now())
    except ledger.failures:
        return {}
    for worker, queue in sorted(at_work):
        if worker and worker not in replies:
            silent.setdefault(worker, set()).add(queue)
    return silent


def _ask_workers(app: Celery) -> dict[str, dict[str, Any]]:
    """Returns each worker's status, with `skew`: the least number of seconds that its clock is ahead of ours.

    If it had a free slot, also `answered_in`: the seconds that a probe took; 0 if it began other tasks instead, None if
    it began nothing.
    """
    replies = _ask_status(app)
    free = [
        worker for worker, reply in replies.items() if _consumes_ours(reply) and reply.get("slots", 0) > reply["active"]
    ]
    answered_in = _probe(app, free)
    if None in answered_in.values():
        later = _ask_status(app)
        for worker, seconds in answered_in.items():
            if seconds is None and not _has_begun_nothing(worker, replies, later):
                answered_in[worker] = 0.0
        replies = {**replies, **later}
    return {worker: {**reply, **_answered(worker, answered_in)} for worker, reply in replies.items()}


def _probe(app: Celery, workers: list[str]) -> dict[str, float | None]:
    try:
        return probe(app, workers, PROBE_TIMEOUT) if workers else {}
    except Exception as error:  # noqa: BLE001 - each transport has its own errors
        logger.warning("Workers could not be probed: %s", redacted(error))
        return {}


def _ask_status(app: Celery) -> dict[str, dict[str, Any]]:
    before = time.time()
    answers: Any = app.control.inspect(timeout=INSPECT_TIMEOUT)._request("broker_status") or {}
    after = time.time()
    replies = {worker: reply for worker, reply in answers.items() if "queues" in reply}
    return {worker: {**reply, "skew": _skew(reply["time"], before, after)} for worker, reply in replies.items()}


def _has_begun_nothing(worker: str, before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> bool:
    """Whether the worker has begun no task since. If many tasks wait, the probe may not be the next one."""
    reply = after.get(worker)
    return reply is None or (reply["begun"] == before[worker]["begun"] and reply["slots"] > reply["active"])


def _answered(worker: str, answered_in: dict[str, float | None]) -> dict[str, float | None]:
    return {"answered_in": answered_in[worker]} if worker in answered_in else {}


def _skew(moment: float, before: float, after: float) -> float:
    """Returns how far `moment` is outside the time between question and answer."""
    return min(moment - before, 0.0) or max(moment - after, 0.0)


def _waiting(broker: Finding) -> Iterator[Finding]:
    """Find dispatches that wait although they are due. Waiting for a retry is normal."""
    now = timezone.now()
    try:
        late, handed_back = ledger.late(now - LATE), ledger.handed_back()
    except ledger.failures:
        return
    for group in late:
        why = "the message broker is down" if not broker.well else "no worker has started them"
        advice = "See above for what is down. A worker's reaper publishes dispatches that wait in the ledger."
        if group.key not in conf.queues:
            why, advice = "the queue is no longer in the settings", FORMER.format(queue=group.key)
        yield Finding(f"backlog of {group.key}", f"{_backlog(group, now)}: {why}", advice)
    for group in handed_back:
        yield Finding(
            f"handed back to {group.key}",
            f"{_backlog(group, now)}: workers handed them back. {group.error}",
            "Give the workers of this queue the code and settings of the web processes. Dispatches that no worker can "
            "run for 15 minutes fail and become dead letters.",
        )


def _backlog(group: Group, now: datetime) -> str:
    return f"{_count(group.count)}, the oldest for {(now - group.oldest).total_seconds():.0f} s"


def _count(number: int) -> str:
    return "1 dispatch waits" if number == 1 else f"{number} dispatches wait"


def _limits() -> Iterator[Finding]:
    for name, policy in conf.queues.items():
        if not is_limited(policy):
            continue
        try:
            load = measure(name, policy, timezone.now())
        except ledger.failures:
            return
        if pressure(policy, load) >= 1:
            yield Finding(
                f"limit of {name}",
                f"{_count(load.depth)}, the oldest for {load.age:.0f} s, so new requests are refused",
                "Start more workers, or raise max_depth or max_age of the queue.",
            )


def _abandoned() -> Iterator[Finding]:
    try:
        groups = ledger.overdue(timezone.now())
    except ledger.failures:
        return
    for group in groups:
        age = timezone.now() - group.oldest
        yield Finding(
            f"dispatches of {group.key or 'a worker without a name'}",
            f"{group.count} count as running, {age.total_seconds():.0f} s past their lease: the worker is gone",
            "Start a worker. Its reaper runs them again, or fails them if their queue delivers at most once.",
        )


def _routing() -> Iterator[Finding]:
    try:
        kept = is_kept_by_triggers()
    except DatabaseError:
        return
    how = "triggers detect changed rows" if kept else f"no triggers: processes read the rows every {READ_EVERY:g} s"
    yield Finding("routing", how)


def _ms(started: float) -> str:
    return f"{(time.perf_counter() - started) * 1000:.0f} ms"
