"""Typed settings from `settings.REQUEST_BROKER`, read on access, so that `override_settings` works."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.conf import settings

from broker_core.envelope import Keyring
from broker_core.errors import ConfigurationError
from broker_core.policies import Classifier, QueuePolicy, Rule, policies_from

T = TypeVar("T")

logger = logging.getLogger("broker_django")

DEFAULTS: Mapping[str, Any] = {
    "QUEUES": {},
    "RULES": [],
    "PREFIX": "",
    "MAX_BODY_SIZE": 10 * 1024 * 1024,
    "MAX_RESPONSE_SIZE": 10 * 1024 * 1024,
    "MAX_WAIT": 30,
    "MAX_HELD": 500,
    "MAX_HELD_PER_CLIENT": 100,
    "MAX_HELD_PER_DISPATCH": 50,
    "MAX_HELD_THREADS": 4,
    "PUBLISH_TIMEOUT": 2,
    "LEASE": 30,
    "REAPER_INTERVAL": 1,
    "REPUBLISH_AFTER": 30,
    "MAX_INLINE_SIZE": 256 * 1024,
    "STORAGE": "default",
    "TOKEN_MAX_AGE": 30 * 86_400,
    "POLL_INTERVAL": 1,
    "DISPATCHER": "broker_django.dispatcher.Dispatcher",
    "ROUTING_ENABLED": True,
    "ENABLE_PROXY_ROUTING": False,
    "ALLOWED_REDIRECT_HOSTS": [],
    "DATABASE": None,
    "RESET_CONNECTIONS": True,
    "CREDENTIALS": ("Authorization", "Api-Key", "X-Api-Key", "X-Auth-Token", "X-Access-Token"),
    "TENANT": None,
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """Everything derived from one value of the setting. `errors` are (key, error) of the entries that were left out."""

    source: object
    prefix: str
    queues: Mapping[str, QueuePolicy]
    classifier: Classifier
    errors: tuple[tuple[str, ConfigurationError], ...]


def _compile(source: object) -> Compiled:
    entries = source if isinstance(source, Mapping) else {}
    errors: list[tuple[str, ConfigurationError]] = []
    prefix = _prefix(entries.get("PREFIX", ""), errors)
    try:
        queues = policies_from(entries.get("QUEUES", {}), prefix)
    except ConfigurationError as error:
        errors.append(("QUEUES", error))
        queues = policies_from({}, prefix)
    rules: list[Rule] = []
    entered = entries.get("RULES", [])
    if not isinstance(entered, list | tuple):
        errors.append(("RULES", ConfigurationError("RULES must be a list of rules")))
        entered = []
    for number, entry in enumerate(entered):
        try:
            rules.append(Rule.from_mapping(entry, queues))
        except ConfigurationError as error:
            errors.append((f"RULES[{number}]", error))
            logger.error("REQUEST_BROKER[%r][%d] is left out: %s", "RULES", number, error)
    return Compiled(source, prefix, queues, Classifier(rules, queues), tuple(errors))


SAFE_PREFIX = re.compile(r"(?!amq\.)[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
"""RabbitMQ reserves names that begin with `amq.`."""


def _prefix(entered: object, errors: list[tuple[str, ConfigurationError]]) -> str:
    if entered == "" or (isinstance(entered, str) and SAFE_PREFIX.fullmatch(entered)):
        return str(entered)
    errors.append(("PREFIX", ConfigurationError(f"PREFIX cannot be {entered!r}")))
    return ""


class Setting(Generic[T]):
    """One key of the setting, read on access."""

    def __set_name__(self, _owner: type[Conf], name: str) -> None:
        self._name, self._default = name, DEFAULTS[name]

    def __get__(self, instance: Conf, _owner: type[Conf]) -> T:
        source = _setting()
        if type(source) is not dict:
            source = instance.source
        value: T = source.get(self._name, self._default)
        return value


def _setting() -> object:
    """Returns the current value of the setting. It is read several times per request, so it must be fast.

    Django stores settings that were read as plain attributes of a lazy object, whose own `__getattr__` is ten times
    slower.
    """
    try:
        return object.__getattribute__(settings, "REQUEST_BROKER")
    except AttributeError:
        return getattr(settings, "REQUEST_BROKER", None)


class Conf:
    """The settings: each key, with its default, and what is derived from them."""

    MAX_BODY_SIZE = Setting[int]()
    MAX_RESPONSE_SIZE = Setting[int]()
    MAX_WAIT = Setting[float]()
    MAX_HELD = Setting[int]()
    MAX_HELD_PER_CLIENT = Setting[int]()
    MAX_HELD_PER_DISPATCH = Setting[int]()
    MAX_HELD_THREADS = Setting[int]()
    PUBLISH_TIMEOUT = Setting[float]()
    POLL_INTERVAL = Setting[float]()
    LEASE = Setting[float]()
    REAPER_INTERVAL = Setting[float]()
    REPUBLISH_AFTER = Setting[float]()
    MAX_INLINE_SIZE = Setting[int]()
    STORAGE = Setting[str]()
    TOKEN_MAX_AGE = Setting[float]()
    DISPATCHER = Setting[str]()
    ROUTING_ENABLED = Setting[bool]()
    ENABLE_PROXY_ROUTING = Setting[bool]()
    ALLOWED_REDIRECT_HOSTS = Setting[list[str]]()
    DATABASE = Setting[str | None]()
    RESET_CONNECTIONS = Setting[bool]()
    CREDENTIALS = Setting[Sequence[str]]()
    TENANT = Setting[str | None]()

    def __init__(self) -> None:
        self._compiled: Compiled | None = None

    @property
    def source(self) -> Mapping[str, Any]:
        source = _setting()
        return source if type(source) is dict or isinstance(source, Mapping) else {}

    @property
    def compiled(self) -> Compiled:
        source = _setting()
        compiled = self._compiled
        if compiled is None or compiled.source is not source:
            self._compiled = compiled = _compile(source)
        return compiled

    @property
    def queues(self) -> Mapping[str, QueuePolicy]:
        return self.compiled.queues

    @property
    def prefix(self) -> str:
        """The prefix of every name that this project uses on the message broker and in the storage."""
        return self.compiled.prefix

    @property
    def classifier(self) -> Classifier:
        return self.compiled.classifier

    @property
    def keyring(self) -> Keyring:
        return Keyring([settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS])

    def queue_served_by(self, celery_queue: str) -> str:
        """Returns the queue that uses this Celery queue. Raises KeyError if no queue does."""
        for name, policy in self.queues.items():
            if policy.celery_queue == celery_queue:
                return name
        raise KeyError(celery_queue)


conf = Conf()
