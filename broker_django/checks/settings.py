"""System checks: what would go wrong at run time is said by `manage.py check`."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from celery.backends.base import DisabledBackend
from celery.backends.rpc import RPCBackend
from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.checks import Warning as CheckWarning
from django.core.files.storage import FileSystemStorage, InvalidStorageError, storages
from django.db import connections, router
from django.urls import (
    NoReverseMatch,
    Resolver404,
    URLPattern,
    URLResolver,
    get_resolver,
    get_script_prefix,
    resolve,
    reverse,
)
from django.utils.module_loading import import_string

from broker_core.errors import ConfigurationError
from broker_core.policies import Mode, QueuePolicy
from broker_core.redaction import redacted
from broker_django.annotations.decorated import annotation_of
from broker_django.conf import DEFAULTS, conf
from broker_django.development.embedded import embedded_url
from broker_django.dispatcher import dispatcher
from broker_django.identity import credentials
from broker_django.ledger import LEASE_MARGIN
from broker_django.messaging.celery_app import REDIS_SCHEMES, broker_urls, filled_in, get_app, project_app, schemes
from broker_django.messaging.serialization import accepts, serializer
from broker_django.models import DispatchRecord, database
from broker_django.routing.choice import OWN_NAMESPACE

if TYPE_CHECKING:
    from celery import Celery

MIDDLEWARE = "broker_django.middleware.RequestBrokerMiddleware"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
GREEN_POOLS = ("gevent", "eventlet")
PICKLE = frozenset({"pickle", "application/x-python-serialize"})


@register("request_broker")
def check_settings(**_: Any) -> list[CheckMessage]:
    source = getattr(settings, "REQUEST_BROKER", {})
    if not isinstance(source, Mapping):
        return [
            Error(
                "REQUEST_BROKER has to be a dictionary.",
                hint="Leave it out to use the defaults, which are used until it is mended.",
                id="request_broker.E001",
            )
        ]
    messages: list[CheckMessage] = [_unknown_key(key) for key in source if key not in DEFAULTS]
    for place, error in conf.compiled.errors:
        messages.append(Error(f"REQUEST_BROKER, {place}: {error}", hint=_entry_hint(place), id="request_broker.E002"))
    return messages + [
        _not_a_number(key)
        for key in ("MAX_BODY_SIZE", "MAX_RESPONSE_SIZE", "MAX_INLINE_SIZE", *_DURATIONS, *_HELD)
        if _bad(key)
    ]


def _entry_hint(place: str) -> str:
    if place == "PREFIX":
        return (
            "Use up to 64 letters, digits, dots, colons, hyphens and underscores that begin with a letter or digit, "
            "and not with 'amq.'. None is used until it is mended."
        )
    if place == "QUEUES":
        keys = ", ".join(field.name for field in fields(QueuePolicy))
        return (
            f"A name -> a dictionary with any of {keys}. Until it is mended, the shipped queues are used as they are."
        )
    return (
        "A rule is a dictionary with 'when', a condition over request, user and now, 'queue', one of "
        f"{', '.join(conf.queues)}, and optionally 'mode', one of {', '.join(Mode)}. It is left out until it is mended."
    )


_DURATIONS = (
    "MAX_WAIT",
    "PUBLISH_TIMEOUT",
    "POLL_INTERVAL",
    "LEASE",
    "REAPER_INTERVAL",
    "REPUBLISH_AFTER",
    "TOKEN_MAX_AGE",
)

_HELD = ("MAX_HELD", "MAX_HELD_PER_CLIENT", "MAX_HELD_PER_DISPATCH", "MAX_HELD_THREADS")
_MAY_BE_ZERO = ("MAX_WAIT", *_HELD)


def _bad(key: str) -> bool:
    value = getattr(conf, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    return value < 0 if key in _MAY_BE_ZERO else value <= 0


def _not_a_number(key: str) -> CheckMessage:
    return Error(
        f"REQUEST_BROKER[{key!r}] has to be a number {'of 0 or more' if key in _MAY_BE_ZERO else 'above 0'}.",
        hint=f"The default is {DEFAULTS[key]}.",
        id="request_broker.E003",
    )


def _unknown_key(key: object) -> CheckMessage:
    close = difflib.get_close_matches(str(key), DEFAULTS, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(DEFAULTS)}."
    return CheckWarning(f"REQUEST_BROKER has the unknown key {key!r}.", hint=hint, id="request_broker.W001")


@register("request_broker")
def check_dispatcher(**_: Any) -> list[CheckMessage]:
    try:
        made = dispatcher()
    except Exception as error:  # noqa: BLE001 - whatever its module raises
        reason = str(error)
    else:
        missing = [name for name in ("route", "classify") if not callable(getattr(made, name, None))]
        reason = f"it has no method {missing[0]!r}" if missing else ""
    hint = "Name a subclass of 'broker_django.dispatcher.Dispatcher', or leave it out."
    text = f"REQUEST_BROKER['DISPATCHER'] cannot be used: {reason}."
    return [Error(text, hint=hint, id="request_broker.E010")] if reason else []


@register("request_broker")
def check_owners(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    names = conf.CREDENTIALS
    if not isinstance(names, list | tuple | set | frozenset) or not all(map(_is_credential, names)):
        text = f"REQUEST_BROKER['CREDENTIALS'] has to be a list of the names of header fields, and not {names!r}."
        hint = "Such as ['Authorization', 'X-Api-Key', 'cookie:access_token']."
        found.append(Error(text, hint=hint, id="request_broker.E014"))
    elif sum(len(name) + 1 for name in names) > credentials.MOST_OF_NAMES:
        most = credentials.MOST_OF_NAMES
        text = f"The names in REQUEST_BROKER['CREDENTIALS'] are longer than {most} characters together."
        found.append(Error(text, hint="Leave out those that no client sends.", id="request_broker.E014"))
    if conf.TENANT is not None:
        try:
            usable = callable(import_string(conf.TENANT))
        except Exception:  # noqa: BLE001 - whatever its module raises
            usable = False
        if not usable:
            text = f"REQUEST_BROKER['TENANT'] is {conf.TENANT!r}, which is no function."
            hint = "Name a function by its dotted path: it gets a request, and says whose it is."
            found.append(Error(text, hint=hint, id="request_broker.E015"))
    return found


@register("request_broker")
def check_tenant_apps(**_: Any) -> list[CheckMessage]:
    """A project whose tenants are schemas of one database, as django-tenants and django-pgschemas have it."""
    found: list[CheckMessage] = []
    of_tenants, shared = _apps_of_tenants()
    for app in ("broker_django", "django_celery_results") if of_tenants or shared else ():
        if apps.is_installed(app) and (app in of_tenants or app not in shared):
            text = f"{app!r} is not among the shared apps alone: no worker would look into the schemas of tenants."
            hint = (
                "Move it from TENANT_APPS to SHARED_APPS, and run migrate_schemas --shared; with django-pgschemas to "
                "TENANTS['public']['APPS'], and run migrate."
            )
            found.append(Error(text, hint=hint, id="request_broker.E016"))
    return found


def _apps_of_tenants() -> tuple[set[str], set[str]]:
    """What is in the schemas of tenants, of any type, and what they share."""
    public = getattr(settings, "PUBLIC_SCHEMA_NAME", "public")
    of_tenants, shared = (list(getattr(settings, name, ())) for name in ("TENANT_APPS", "SHARED_APPS"))
    for name, kind in {**getattr(settings, "TENANT_TYPES", {}), **_schemas()}.items():
        (shared if name == public else of_tenants).extend(kind.get("APPS", ()))
    return _packages(of_tenants), _packages(shared)


def _schemas() -> dict[str, Any]:
    """TENANTS, as django-pgschemas has it: the public schema, that of tenants by default, and others by name."""
    setting = getattr(settings, "TENANTS", None)
    named = setting.items() if isinstance(setting, dict) else ()
    schemas = {name: each for name, each in named if isinstance(each, dict)}
    return schemas if "APPS" in schemas.get("public", {}) else {}


def _packages(names: Iterable[str]) -> set[str]:
    """The packages of apps, which may be named by their configuration."""
    return {str(each).partition(".apps.")[0] for each in names}


SUBFOLDERS = "django_tenants.middleware.subfolder"


@register("request_broker")
def check_tenant_paths(**_: Any) -> list[CheckMessage]:
    """Tenants below the paths of one host are told apart by nothing else."""
    if conf.TENANT is not None or not any(map(_finds_tenants_by_path, settings.MIDDLEWARE)):
        return []
    text = "The tenants have one host, and REQUEST_BROKER['TENANT'] is not set: equal users of two tenants are one."
    hint = "Name a function of a request that returns request.tenant.schema_name: docs/operations.md, Several tenants."
    return [Error(text, hint=hint, id="request_broker.E017")]


def _finds_tenants_by_path(path: str) -> bool:
    """Whether a middleware is that of django-tenants, or a subclass, under whatever name."""
    try:
        middleware = import_string(path)
    except ImportError:  # Django says so
        return False
    kinds = middleware.__mro__ if isinstance(middleware, type) else ()
    return any(kind.__module__ == SUBFOLDERS for kind in kinds)


def _is_credential(name: object) -> bool:
    """A header field of that name would be taken for the session cookie."""
    if not isinstance(name, str) or name.lower() == credentials.SESSION:
        return False
    return re.fullmatch(r"-?(cookie:|query:)?[A-Za-z0-9-]+|-?(cookie|query):[\w.-]+", name) is not None


@register("request_broker")
def check_sqlite(**_: Any) -> list[CheckMessage]:
    try:
        alias = database.alias()
    except Exception:  # noqa: BLE001 - `check_database` says what a router of the project raises
        return []
    if (
        alias not in connections
        or connections[alias].vendor != "sqlite"
        or not connections[alias].settings_dict["ATOMIC_REQUESTS"]
    ):
        return []
    text = (
        f"The database {alias!r} is SQLite with ATOMIC_REQUESTS and has the broker's tables: whoever writes waits for "
        "each view from its first statement to its end."
    )
    hint = "Put the broker's tables into a file of their own (DATABASE), or use PostgreSQL: docs/operations.md, SQLite."
    return [CheckWarning(text, hint=hint, id="request_broker.W011")]


@register("request_broker")
def check_storage(**_: Any) -> list[CheckMessage]:
    try:
        storages[conf.STORAGE]
    except InvalidStorageError as error:
        text = f"REQUEST_BROKER['STORAGE'] cannot be used: {error}"
        hint = "Name an alias of STORAGES; large requests are put there."
        return [Error(text, hint=hint, id="request_broker.E011")]
    return []


@register("request_broker")
def check_database(**_: Any) -> list[CheckMessage]:
    """No query is made."""
    named = conf.DATABASE
    if named is not None and named not in connections:
        text = f"REQUEST_BROKER['DATABASE'] is {named!r}, which is no alias of DATABASES."
        return [Error(text, hint=f"There are {', '.join(connections)}.", id="request_broker.E013")]
    if named is None:
        try:
            database.ask_routers(DispatchRecord)
        except Exception as error:  # noqa: BLE001 - a router of the project may raise anything
            return [
                CheckWarning(
                    f"A database router fails where there is no request, as in a worker: {redacted(error)}. So the "
                    "broker's tables are in the default database.",
                    hint="Name their database as REQUEST_BROKER['DATABASE'].",
                    id="request_broker.W009",
                )
            ]
    return list(_forbidden_tables(database.alias()))


def _forbidden_tables(alias: str) -> Iterator[CheckMessage]:
    models = apps.get_app_config("broker_django").get_models()
    forbidden = [model._meta.object_name for model in models if not router.allow_migrate_model(alias, model)]
    if forbidden:
        yield Error(
            f"The database routers allow no migration of {', '.join(map(str, forbidden))} in the database {alias!r}, "
            "in which the broker looks for its tables.",
            hint="Let 'allow_migrate' allow the app 'broker_django' there, or name another alias as "
            "REQUEST_BROKER['DATABASE'].",
            id="request_broker.E013",
        )


@register("request_broker", deploy=True)
def check_shared_storage(**_: Any) -> list[CheckMessage]:
    with contextlib.suppress(InvalidStorageError):
        storage = storages[conf.STORAGE]
        if isinstance(storage, FileSystemStorage) and not storage.base_location:
            return [
                CheckWarning(
                    "Large requests lie in whatever directory a process was started in.",
                    hint="Set MEDIA_ROOT, or name one of STORAGES as REQUEST_BROKER['STORAGE'], to a place that web "
                    "processes and workers share.",
                    id="request_broker.W007",
                )
            ]
    return []


@register("request_broker")
def check_names(**_: Any) -> list[CheckMessage]:
    names = Counter(policy.celery_queue for policy in conf.queues.values())
    return [
        Error(
            f"{count} queues travel on the Celery queue {name!r}.",
            hint="Give each of them a 'celery_queue' of its own: a worker could not tell them apart.",
            id="request_broker.E004",
        )
        for name, count in names.items()
        if count > 1
    ]


@register("request_broker")
def check_middleware(**_: Any) -> list[CheckMessage]:
    if MIDDLEWARE not in settings.MIDDLEWARE:
        return [
            Error(
                "The request broker's middleware is not installed: no request is ever queued.",
                hint=f"Add {MIDDLEWARE!r} as the last entry of MIDDLEWARE.",
                id="request_broker.E005",
            )
        ]
    if settings.MIDDLEWARE[-1] != MIDDLEWARE:
        return [
            CheckWarning(
                "The request broker's middleware is not the last in MIDDLEWARE.",
                hint="Move it to the end: what comes after it has not spoken when a request is accepted.",
                id="request_broker.W002",
            )
        ]
    return []


@register(Tags.urls)
def check_urls(**_: Any) -> list[CheckMessage]:
    try:
        path = reverse(f"{OWN_NAMESPACE}:task", args=["token"])
    except NoReverseMatch:
        return [
            Error(
                "The status URLs are not included: nobody could ask for the response of a queued request.",
                hint='Add path("broker/", include("broker_django.urls")) to the root URLconf, below a prefix that '
                "captures nothing.",
                id="request_broker.E006",
            )
        ]
    if _leads_to_a_status(unquote(path)):
        return []
    return [
        Error(
            f"The status URLs, such as {path}, lead elsewhere: nobody could ask for the response of a queued request.",
            hint='Move include("broker_django.urls") before the pattern that takes them.',
            id="request_broker.E006",
        )
    ]


def _leads_to_a_status(path: str) -> bool:
    try:
        match = resolve("/" + path.removeprefix(get_script_prefix()))
    except Resolver404:
        return False
    return OWN_NAMESPACE in match.app_names and match.url_name == "task"


@register(Tags.urls)
def check_decorators(**_: Any) -> list[CheckMessage]:
    unknown: dict[str, str] = {}
    for route, view in _views(get_resolver().url_patterns):
        for method in METHODS:
            annotation = annotation_of(view, method)
            if annotation and annotation.queue is not None and annotation.queue not in conf.queues:
                unknown.setdefault(annotation.queue, route)
    return [
        Error(
            f"A decorator of the view at {route!r} names the queue {name!r}, which is not configured.",
            hint=f"There are {', '.join(conf.queues)}. Add it to REQUEST_BROKER['QUEUES'], or mend the name.",
            id="request_broker.E007",
        )
        for name, route in unknown.items()
    ]


def _views(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _views(pattern.url_patterns, route)
        elif isinstance(pattern, URLPattern):
            yield route, pattern.callback


@register("request_broker")
def check_celery(**_: Any) -> list[CheckMessage]:
    current = project_app()  # before the fallback is made, which becomes the current app where there is none
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
    except Exception as error:  # noqa: BLE001 - a backend's module may raise anything
        trouble = f"Celery cannot load its result backend: {redacted(error)}"
    else:
        if isinstance(backend, DisabledBackend):
            trouble = "Celery has no result backend: responses would be lost."
        elif isinstance(backend, RPCBackend):
            trouble = "The rpc:// result backend answers to the process that published: no other could read a response."
    if trouble:
        hint = "Leave result_backend unset for the database, or set it to a Redis URL."
        yield Error(trouble, hint=hint, id="request_broker.E008")


SERIALIZERS = ("task_serializer", "result_serializer", "event_serializer")
CONTENT = ("accept_content", "result_accept_content")


def _check_pickle(app: Celery) -> Iterator[CheckMessage]:
    named = [name for name in SERIALIZERS if app.conf[name] in PICKLE]
    named += [name for name in CONTENT if not PICKLE.isdisjoint(app.conf[name] or ())]
    if named:
        yield CheckWarning(
            f"Celery reads or writes pickle: {', '.join(named)}. Whoever can write to the message broker, or to the "
            "result backend, can run any code in the workers.",
            hint="Use JSON alone, as Celery does by default. The broker's own messages are JSON.",
            id="request_broker.W008",
        )


def _check_serializers(app: Celery) -> Iterator[CheckMessage]:
    content = app.conf.accept_content
    try:
        serializer(app)
    except ConfigurationError:
        yield Error(
            f"No dispatch can run: workers accept {_listed(content)} alone, which cannot be written here.",
            hint="Add 'json' to accept_content, or install what the serializer needs.",
            id="request_broker.E012",
        )
    results = content if app.conf.result_accept_content is None else app.conf.result_accept_content
    if not accepts(results, app.conf.result_serializer):
        yield Error(
            f"Responses could not be read: result_serializer is {app.conf.result_serializer!r}, but results are "
            f"accepted as {_listed(results)} alone.",
            hint="Set result_serializer to one that result_accept_content, or else accept_content, has.",
            id="request_broker.E012",
        )
    if not accepts(content, app.conf.task_serializer):
        yield CheckWarning(
            f"Workers refuse remote control, which is written as {app.conf.task_serializer!r} (task_serializer): "
            "neither cancel_running nor broker_doctor nor Flower reaches them.",
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
            f"visibility_timeout ({timeout} s) is not above {lease:g} s, the time limit of {name!r} and the margin of "
            "its lease: what runs that long would be delivered again, and dropped.",
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
            "lets a worker fall to a few tasks a second.",
            hint="Set worker_disable_prefetch = False and worker_prefetch_multiplier = 4.",
            id="request_broker.W004",
        )
    if pool == "threads" and app.conf.worker_disable_prefetch and not app.conf.task_acks_late:
        yield CheckWarning(
            "With the threads pool and worker_disable_prefetch, tasks that are acknowledged early fall to about "
            "worker_concurrency tasks a second. Dispatches are not: they are acknowledged late.",
            hint="Set task_acks_late = True, or worker_disable_prefetch = False, if the project has tasks of its own.",
            id="request_broker.W006",
        )


def _starves_green_pools(app: Celery) -> bool:
    """Whether the project asks for it on purpose: a worker mends what was left to the broker."""
    asked = {"worker_disable_prefetch": True, "worker_prefetch_multiplier": 1}
    return any(app.conf[name] == value for name, value in asked.items() if name not in filled_in(app))


@register(Tags.security, deploy=True)
def check_embedded(**_: Any) -> list[CheckMessage]:
    base_dir = getattr(settings, "BASE_DIR", None)
    if base_dir is not None and embedded_url(base_dir) in broker_urls(get_app().conf.broker_url):
        return [
            CheckWarning(
                "The message broker is the embedded development server.",
                hint="Point broker_url at a Redis or RabbitMQ server of your own.",
                id="request_broker.W005",
            )
        ]
    return []
