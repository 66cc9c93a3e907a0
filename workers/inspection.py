"""Remote control commands: a worker reports its status and accepts commands.

`celery inspect` imports this module before Django is set up.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import TYPE_CHECKING, Any

from celery.utils.functional import maybe_list
from celery.worker.control import Panel, control_command, inspect_command
from celery.worker.state import active_requests, all_total_count

from broker_django.conf import conf
from broker_django.messaging import probing
from broker_django.messaging.celery_app import ROUTING_CHANGED, STOP

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("workers.inspection")


MOST_SHOWN = 20
"""How many running tasks are shown; those that have run the longest."""


@inspect_command(name="broker_status")
def broker_status(state: Any) -> dict[str, Any]:
    """Returns the worker's clock (seconds since the epoch), the Celery queues that it consumes, its processes and their
    tasks, and its key ids.

    `begun` is the number of tasks that have begun so far; `lost` the number of slots that run nothing but are not free.
    """
    plan, running = state.consumer.broker_planning.plan, list(active_requests)
    return {
        "time": time.time(),
        "keys": conf.keyring.key_ids,
        "slots": state.consumer.pool.num_processes,
        "active": len(running),
        "lost": _lost_slots(state.consumer.pool),
        "begun": all_total_count[0],
        "running": sorted(map(_shown, running), key=lambda each: -each["seconds"])[:MOST_SHOWN],
        "queues": (consumed := sorted(state.app.amqp.queues.consume_from)),
        "names": [name for name, policy in conf.queues.items() if policy.celery_queue in consumed],
        "pool": state.consumer.pool.__class__.__module__,
        "processes": plan and {"shared": plan.shared, "dedicated": plan.dedicated, "reserved": plan.reserved},
        "weights": plan and plan.weights,
    }


def _shown(request: Any) -> dict[str, Any]:
    seconds = time.time() - request.time_start if request.time_start else 0.0
    return {"id": request.id, "name": request.name, "seconds": round(max(seconds, 0.0), 1)}


def _lost_slots(pool: Any) -> int:
    """Counts lost threads of the threads pool: if a task ends with SystemExit or the like, it counts as running
    forever.

    Only tasks that run both before and after counting the threads hold a slot or have lost it.
    """
    executor = getattr(pool, "executor", None)
    threads, idle = getattr(executor, "_threads", None), getattr(executor, "_idle_semaphore", None)
    if threads is None or idle is None:
        return 0
    before = set(active_requests)
    busy: int = len(threads) - idle._value
    return max(0, len(before & set(active_requests)) - busy)


@control_command(name=probing.CONSUME, args=[("queue", str)], signature="<queue>")
def read_probes(state: Any, queue: str) -> dict[str, str]:
    """Also consume a probe queue, until the connection to the message broker is lost or the consumer is cancelled."""
    if not queue.startswith(probing.QUEUES):
        return {"error": "this is not a probe queue"}
    consumer = state.consumer.task_consumer
    consumer.add_queue(probing.queue_of(queue))
    consumer.consume()
    return {"ok": "reading"}


@control_command(name=probing.CANCEL, args=[("queue", str)], signature="<queue>")
def read_no_probes(state: Any, queue: str) -> dict[str, str]:
    """Stop consuming this probe queue."""
    if queue.startswith(probing.QUEUES):
        state.consumer.task_consumer.cancel_by_queue(queue)
    return {"ok": "not reading"}


@control_command(name=ROUTING_CHANGED)
def routing_changed(state: Any) -> dict[str, str]:
    """Read the rows of routers and destinations now."""
    logger.info("Routers have changed")
    state.consumer.broker_planning.poll_now()
    return {"ok": "reading"}


@control_command(name=STOP, args=[("dispatch_id", str), ("attempt", int)], signature="<dispatch id> <attempt>")
def stop(state: Any, dispatch_id: str, attempt: int) -> dict[str, str]:
    """Cancel an attempt that runs here, if its queue allows it, and stop the process that runs it."""
    from workers.replaying import stopping  # noqa: PLC0415 - needs Django to be set up

    pool = state.consumer.pool
    if not stopping.can_stop(pool):
        return {"error": f"{type(pool).__module__} cannot stop a task"}
    request = next((each for each in active_requests if each.id == dispatch_id), None)
    if request is None or not stopping.cancel(dispatch_id, attempt, state.hostname):
        return {"error": "it does not run here, or its queue does not allow it"}
    request.terminate(pool)
    return {"ok": "stopped"}


def _cancelling(command: Callable[..., Any]) -> Callable[..., Any]:
    """Returns Celery's command, preceded by cancelling the dispatches among the revoked tasks in the ledger."""

    @functools.wraps(command)
    def revoke(state: Any, *args: Any, task_id: Any = (), **options: Any) -> Any:
        from workers.replaying import revocation  # noqa: PLC0415 - needs Django to be set up

        revocation.cancel_waiting(maybe_list(task_id) or [])
        return command(state, *args, task_id=task_id, **options)

    return revoke


for _name in ("revoke", "terminate"):
    Panel.data[_name] = _cancelling(Panel.data[_name])
