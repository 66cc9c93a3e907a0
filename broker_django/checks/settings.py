"""Checks of the setting REQUEST_BROKER."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning
from django.utils.module_loading import import_string

from broker_core.policies import Mode, QueuePolicy
from broker_django.conf import DEFAULTS, conf
from broker_django.dispatcher import dispatcher
from broker_django.identity import credentials


@register("request_broker")
def check_settings(**_: Any) -> list[CheckMessage]:
    source = getattr(settings, "REQUEST_BROKER", {})
    if not isinstance(source, Mapping):
        return [
            Error(
                "REQUEST_BROKER must be a dictionary.",
                hint="Remove it to use the defaults. They apply until the setting is corrected.",
                id="request_broker.E001",
            )
        ]
    messages: list[CheckMessage] = [_unknown_key(key) for key in source if key not in DEFAULTS]
    for place, error in conf.compiled.errors:
        messages.append(Error(f"REQUEST_BROKER, {place}: {error}", hint=_entry_hint(place), id="request_broker.E002"))
    return messages + [
        _not_a_number(key)
        for key in ("MAX_BODY_SIZE", "MAX_RESPONSE_SIZE", "MAX_INLINE_SIZE", *_DURATIONS, *_HELD)
        if _is_invalid(key)
    ]


def _entry_hint(place: str) -> str:
    if place == "PREFIX":
        return (
            "Use up to 64 letters, digits, dots, colons, hyphens and underscores. Begin with a letter or digit, "
            "but not with 'amq.'. No prefix is used until the setting is corrected."
        )
    if place == "QUEUES":
        keys = ", ".join(field.name for field in fields(QueuePolicy))
        return f"Map each name to a dictionary with any of {keys}. The default queues are used until this is corrected."
    return (
        "A rule is a dictionary with 'when', a condition over request, user and now, 'queue', one of "
        f"{', '.join(conf.queues)}, and optionally 'mode', one of {', '.join(Mode)}. "
        "The rule is ignored until it is corrected."
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


def _is_invalid(key: str) -> bool:
    value = getattr(conf, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    return value < 0 if key in _MAY_BE_ZERO else value <= 0


def _not_a_number(key: str) -> CheckMessage:
    return Error(
        f"REQUEST_BROKER[{key!r}] must be a number {'of 0 or more' if key in _MAY_BE_ZERO else 'above 0'}.",
        hint=f"The default is {DEFAULTS[key]}.",
        id="request_broker.E003",
    )


def _unknown_key(key: object) -> CheckMessage:
    close = difflib.get_close_matches(str(key), DEFAULTS, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"The known keys are {', '.join(DEFAULTS)}."
    return CheckWarning(f"REQUEST_BROKER has the unknown key {key!r}.", hint=hint, id="request_broker.W001")


@register("request_broker")
def check_names(**_: Any) -> list[CheckMessage]:
    names = Counter(policy.celery_queue for policy in conf.queues.values())
    return [
        Error(
            f"{count} queues use the Celery queue {name!r}.",
            hint="Give each queue its own 'celery_queue', because a worker cannot distinguish them otherwise.",
            id="request_broker.E004",
        )
        for name, count in names.items()
        if count > 1
    ]


@register("request_broker")
def check_dispatcher(**_: Any) -> list[CheckMessage]:
    try:
        made = dispatcher()
    except Exception as error:  # noqa: BLE001 - the module may raise anything
        reason = str(error)
    else:
        missing = [name for name in ("route", "classify") if not callable(getattr(made, name, None))]
        reason = f"it has no method {missing[0]!r}" if missing else ""
    hint = "Name a subclass of 'broker_django.dispatcher.Dispatcher', or remove the setting."
    text = f"REQUEST_BROKER['DISPATCHER'] cannot be used: {reason}."
    return [Error(text, hint=hint, id="request_broker.E010")] if reason else []


@register("request_broker")
def check_owners(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    names = conf.CREDENTIALS
    if not isinstance(names, list | tuple | set | frozenset) or not all(map(_is_credential, names)):
        text = f"REQUEST_BROKER['CREDENTIALS'] must be a list of header field names, not {names!r}."
        hint = "For example: ['Authorization', 'X-Api-Key', 'cookie:access_token']."
        found.append(Error(text, hint=hint, id="request_broker.E014"))
    elif sum(len(name) + 1 for name in names) > credentials.MOST_OF_NAMES:
        most = credentials.MOST_OF_NAMES
        text = f"The names in REQUEST_BROKER['CREDENTIALS'] have more than {most} characters in total."
        found.append(Error(text, hint="Remove those that no client sends.", id="request_broker.E014"))
    if conf.TENANT is not None:
        try:
            usable = callable(import_string(conf.TENANT))
        except Exception:  # noqa: BLE001 - the module may raise anything
            usable = False
        if not usable:
            text = f"REQUEST_BROKER['TENANT'] is {conf.TENANT!r}, which is not a function."
            hint = "Name a function by its dotted path. It takes a request and returns the tenant."
            found.append(Error(text, hint=hint, id="request_broker.E015"))
    return found


def _is_credential(name: object) -> bool:
    """Whether this is a valid name. `session` is not: a header field of that name would be mistaken for the session
    cookie.
    """
    if not isinstance(name, str) or name.lower() == credentials.SESSION:
        return False
    return re.fullmatch(r"-?(cookie:|query:)?[A-Za-z0-9-]+|-?(cookie|query):[\w.-]+", name) is not None
