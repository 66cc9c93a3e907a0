"""The Celery app that this project's dispatches are published with."""

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
"""The name of the task that replays a dispatch. The broker names it; the workers have it."""

ROUTING_CHANGED = "broker_routing_changed"
"""The name of the remote control command that has workers look at the rows of routers. The workers have it too."""

STOP = "broker_stop"
"""The name of the remote control command that has a worker stop a dispatch. The workers have it too."""

FALLBACK = "workers.celery"

WORKER_STATE = "celery.worker.state"

REDIS_SCHEMES = frozenset({"redis", "rediss", "sentinel"})

AMQP_SCHEMES = frozenset({"amqp", "amqps", "pyamqp"})

_configured: list[Celery] = []
_filled_in: WeakKeyDictionary[Celery, frozenset[str]] = WeakKeyDictionary()


def use(app: Celery) -> None:
    """Publish with this app from now on. `workers.config.configure` calls it."""
    _configured[:] = [app]


def get_app() -> Celery:
    """The configured app; without one, the app that `workers.celery` makes from the Django settings."""
    if not _configured:
        require_own("workers")
        import_module(FALLBACK)
    return _configured[0]


def project_app() -> Celery | None:
    """The app that Celery takes for the current one, also where another thread made it; None where there is none.

    Unlike `celery.current_app` it makes none.
    """
    state: Any = _state
    current: Celery | None = state._tls.current_app
    return current or next((app for app in state._get_active_apps() if app.set_as_current), None)


def note_filled_in(app: Celery, names: Iterable[str]) -> None:
    """Remember that the project did not set these settings itself. `workers.config.configure` calls it."""
    _filled_in[app] = filled_in(app).union(names)


def filled_in(app: Celery) -> frozenset[str]:
    """The settings of the app that the project left to the broker."""
    return _filled_in.get(app, frozenset())


def schemes(app: Celery) -> set[str]:
    """The schemes of the URLs that the app publishes to and reads from; `amqp` is Celery's default."""
    settings = (app.conf.broker_read_url or app.conf.broker_url, app.conf.broker_write_url or app.conf.broker_url)
    return {scheme_of(url) for setting in settings for url in broker_urls(setting or "amqp://")}


def queue_of_delivery(info: Mapping[str, Any]) -> str:
    """The queue that a message came on, by the `delivery_info` of its task. Raises KeyError where there is none.

    The routing key is the name of the Celery queue, or, for one that the project declared, the key of its binding.
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
    """Whether Celery or its pool raised this to end the process. If not, the code of a view did.

    In the middle of a task Celery raises only WorkerTerminate, where signals are handled, and says so in its state.
    """
    if isinstance(error, WorkerTerminate) and threading.current_thread() is threading.main_thread():
        state = sys.modules.get(WORKER_STATE)  # web processes do without it
        asked = getattr(state, "should_terminate", None)
        return asked is not None and asked is not False
    return bool(terminate_handler_fired())


def broker_urls(setting: str | Sequence[str] | None) -> list[str]:
    """The alternatives that `broker_url` names: a list, or one text with semicolons between them."""
    return setting.split(";") if isinstance(setting, str) else list(setting or ())


def scheme_of(url: str) -> str:
    """`redis` of `redis://host/0`, and of `redis+socket:///path`."""
    return url.partition(":")[0].partition("+")[0]
