"""Checks of the project's Celery app and its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.backends.base import DisabledBackend
from celery.backends.rpc import RPCBackend
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.checks import Warning as CheckWarning

from broker_core.dispatches.transitions import LEASE_MARGIN
from broker_core.errors import ConfigurationError
from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.development.embedded import embedded_url
from broker_django.messaging.celery_app import REDIS_SCHEMES, broker_urls, filled_in, get_app, project_app, schemes
from broker_django.messaging.serialization import accepts, serializer
from broker_django.shadowing import HINT, describe, shadow_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

GREEN_POOLS = ("gevent", "eventlet")
PICKLE = frozenset({"pickle", "application/x-python-serialize"})
SERIALIZERS = ("task_serializer", "result_serializer", "event_serializer")
CONTENT = ("accept_content", "result_accept_content")


@register("request_broker")
def check_celery(**_: Any) -> list[CheckMessage]:
    if shadow := shadow_of("workers"):
        return [Error(describe("workers", shadow), hint=HINT, id="request_broker.E018")]
    current = project_app()  # first: `get_app` may create a fallback and make it the current app
    app = get_app()
    return [
        *_check_configured(app, current),
        *_check_results(app),
        *_check_visibility(app),
        *_check_pool(app),
        *_check_pickle(app),
        *_check_serializers(app),
    ]


def _check_configured(app: Celery, current: Celery | None) -> Iterator[CheckMessage]:
    if current is not None and current is not app:
        yield CheckWarning(
            f"The Celery app {current.main!r} was not configured for the request broker.",
            hint="Call workers.config.configure(app) once, after app.config_from_object(...).",
            id="request_broker.W003",
        )


def _check_results(app: Celery) -> Iterator[CheckMessage]:
    trouble = ""
    try:
        backend = app.backend
    except Exception as error:  # noqa: BLE001 - the module may raise anything
        trouble = f"Celery cannot load its result backend: {redacted(error)}"
    else:
        if isinstance(backend, DisabledBackend):
            trouble = "Celery has no result backend, so responses would be lost."
        elif isinstance(backend, RPCBackend):
            trouble = (
                "With the rpc:// result backend, only the process that published a dispatch could read its response."
            )
    if trouble:
        hint = "Leave result_backend unset for the database, or set it to a Redis URL."
        yield Error(trouble, hint=hint, id="request_broker.E008")


def _check_pickle(app: Celery) -> Iterator[CheckMessage]:
    named = [name for name in SERIALIZERS if app.conf[name] in PICKLE]
    named += [name for name in CONTENT if not PICKLE.isdisjoint(app.conf[name] or ())]
    if named:
        yield CheckWarning(
            f"Celery reads or writes pickle: {', '.join(named)}. Whoever can write to the message broker, or to the "
            "result backend, can run any code in the workers.",
            hint="Use only JSON, as Celery does by default. The broker's own messages are JSON.",
            id="request_broker.W008",
        )


def _check_serializers(app: Celery) -> Iterator[CheckMessage]:
    content = app.conf.accept_content
    try:
        serializer(app)
    except ConfigurationError:
        yield Error(
            f"No dispatch can run: workers accept only {_listed(content)}, which cannot be written here.",
            hint="Add 'json' to accept_content, or install what the serializer needs.",
            id="request_broker.E012",
        )
    results = content if app.conf.result_accept_content is None else app.conf.result_accept_content
    if not accepts(results, app.conf.result_serializer):
        yield Error(
            f"Responses could not be read: result_serializer is {app.conf.result_serializer!r}, but only "
            f"{_listed(results)} is accepted for results.",
            hint="Set result_serializer to one of result_accept_content, or of accept_content if that is unset.",
            id="request_broker.E012",
        )
    if not accepts(content, app.conf.task_serializer):
        yield CheckWarning(
            f"Workers refuse remote control messages, which are written as {app.conf.task_serializer!r} "
            "(task_serializer): cancel_running, broker_doctor and Flower cannot reach them.",
            hint=f"Set task_serializer to one of accept_content: {_listed(content)}.",
            id="request_broker.W010",
        )


def _listed(content: Any) -> str:
    return ", ".join(map(repr, content)) or "nothing"


def _check_visibility(app: Celery) -> Iterator[CheckMessage]:
    timeout = app.conf.broker_transport_options.get("visibility_timeout")
    name, policy = max(conf.queues.items(), key=lambda item: item[1].time_limit)
    lease = policy.time_limit + LEASE_MARGIN.total_seconds()
    if timeout is not None and timeout <= lease:
        yield Error(
            f"visibility_timeout ({timeout} s) must be more than {lease:g} s, the time limit of {name!r} and the "
            "margin of its lease. Otherwise a dispatch that runs that long is delivered again, and dropped.",
            hint="Raise broker_transport_options['visibility_timeout'], or lower the queue's 'time_limit'.",
            id="request_broker.E009",
        )


def _check_pool(app: Celery) -> Iterator[CheckMessage]:
    if schemes(app).isdisjoint(REDIS_SCHEMES):
        return
    pool = str(app.conf.worker_pool).partition(":")[0]
    if pool in GREEN_POOLS and _starves_green_pools(app):
        yield CheckWarning(
            f"With the {app.conf.worker_pool} pool on Redis, worker_disable_prefetch or a prefetch multiplier of 1 "
            "slows a worker to a few tasks per second.",
            hint="Set worker_disable_prefetch = False and worker_prefetch_multiplier = 4.",
            id="request_broker.W004",
        )
    if pool == "threads" and app.conf.worker_disable_prefetch and not app.conf.task_acks_late:
        yield CheckWarning(
            "With the threads pool and worker_disable_prefetch, tasks that are acknowledged early slow down to about "
            "worker_concurrency tasks per second. Dispatches are acknowledged late and do not.",
            hint="Set task_acks_late = True, or worker_disable_prefetch = False, if the project has tasks of its own.",
            id="request_broker.W006",
        )


def _starves_green_pools(app: Celery) -> bool:
    """Whether the project itself chose these values. A worker corrects values that the broker filled in."""
    asked = {"worker_disable_prefetch": True, "worker_prefetch_multiplier": 1}
    return any(app.conf[name] == value for name, value in asked.items() if name not in filled_in(app))


@register(Tags.security, deploy=True)
def check_embedded(**_: Any) -> list[CheckMessage]:
    base_dir = getattr(settings, "BASE_DIR", None)
    if base_dir is None or shadow_of("workers"):
        return []
    if embedded_url(base_dir) in broker_urls(get_app().conf.broker_url):
        return [
            CheckWarning(
                "The message broker is the embedded development server.",
                hint="Set broker_url to your own Redis or RabbitMQ server.",
                id="request_broker.W005",
            )
        ]
    return []
