"""The Celery app that publishes the dispatches of this project."""

from __future__ import annotations

import contextlib
import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from billiard.common import terminate_handler_fired  # type: ignore[attr-defined] # not in its stubs
from celery import _state
from celery.exceptions import WorkerTerminate

from broker_django.conf import conf
from broker_django.shadowing import require_own

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from celery import Celery

TASK = "request_broker.replay"
"""The name of the task that replays a dispatch. The workers define it."""

ROUTING_CHANGED = "broker_routing_changed"
"""The name of the remote control command that makes workers reload the routers. The workers define it."""

STOP = "broker_stop"
"""The name of the remote control command that makes a worker stop a dispatch. The workers define it."""

FALLBACK = "workers.celery"

WORKER_STATE = "celery.worker.state"

REDIS_SCHEMES = frozenset({"redis", "rediss", "sentinel"})

AMQP_SCHEMES = frozenset({"amqp", "amqps", "pyamqp"})

_configured: list[Celery] = []
_filled_in: WeakKeyDictionary[Celery, frozenset[str]] = WeakKeyDictionary()


def use(app: Celery) -> None:
    """Publish with this app from now on. Called by `workers.config.configure`."""
    _configured[:] = [app]


def get_app() -> Celery:
    """Returns the configured app, or else the one that `workers.celery` creates from the Django settings."""
    if not _configured:
        require_own("workers")
        import_module(FALLBACK)
    return _configured[0]


def project_app() -> Celery | None:
    """Returns Celery's current app, even if another thread created it, or None.

    Unlike `celery.current_app`, it does not create one.
    """
    state: Any = _state
    current: Celery | None = state._tls.current_app
    return current or next((app for app in state._get_active_apps() if app.set_as_current), None)


def add_filled_in(app: Celery, names: Iterable[str]) -> None:
    """Remember settings that the project did not set itself. Called by `workers.config.configure`."""
    _filled_in[app] = filled_in(app).union(names)


def filled_in(app: Celery) -> frozenset[str]:
    """Returns the names of the app's settings that the broker has filled in."""
    return _filled_in.get(app, frozenset())


def schemes(app: Celery) -> set[str]:
    """Returns the schemes of the URLs that the app publishes to and reads from; `amqp` is Celery's default."""
    settings = (app.conf.broker_read_url or app.conf.broker_url, app.conf.broker_write_url or app.conf.broker_url)
    return {scheme_of(url) for setting in settings for url in broker_urls(setting or "amqp://")}


def queue_of_delivery(info: Mapping[str, Any]) -> str:
    """Returns the queue of a message, from the `delivery_info` of its task. Raises KeyError if it is unknown.

    The routing key is the name of the Celery queue, or the binding key of a queue that the project declared itself.
    """
    key = info.get("routing_key") or ""
    with contextlib.suppress(KeyError):
        return conf.queue_served_by(key)
    declared = get_app().amqp.queues
    bound = {name: declared.get(policy.celery_queue) for name, policy in conf.queues.items()}
    found = [(name, queue.exchange.name) for name, queue in bound.items() if queue and queue.routing_key == key]
    for name, exchange in found:
        if exchange == info.get("exchange"):
            return name
    if len(found) != 1:
        raise KeyError(key)
    return found[0][0]


def ends_worker(error: BaseException) -> bool:
    """Whether Celery or its pool raised this error to end the process. Otherwise the code of a view did.

    In the middle of a task, Celery only raises WorkerTerminate, from a signal handler, and only after setting its
    state.
    """
    if isinstance(error, WorkerTerminate) and threading.current_thread() is threading.main_thread():
        state = sys.modules.get(WORKER_STATE)  # not loaded in web processes
        asked = getattr(state, "should_terminate", None)
        return asked is not None and asked is not False
    return bool(terminate_handler_fired())


def broker_urls(setting: str | Sequence[str] | None) -> list[str]:
    """Returns the alternatives in `broker_url`: a list, or one text separated by semicolons."""
    return setting.split(";") if isinstance(setting, str) else list(setting or ())


def scheme_of(url: str) -> str:
    """Returns `redis` for `redis://host/0` and for `redis+socket:///path`."""
    return url.partition(":")[0].partition("+")[0]
