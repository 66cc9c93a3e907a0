"""Queues, their policies, rules and annotations: whether a request runs now or later, and on which queue."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, get_origin, get_type_hints

from broker_core.conditions.condition import Condition, Conditions, Evaluation, Values
from broker_core.conditions.guards import GuardIndex
from broker_core.errors import ConfigurationError
from broker_core.redaction import printable

if TYPE_CHECKING:
    from broker_core.http.preferences import Preferences
    from broker_core.routing.routers import Route

logger = logging.getLogger("broker_core.policies")

DAY = 86_400.0

RETENTION: Mapping[str, float] = {"succeeded": 7 * DAY, "cancelled": 7 * DAY, "expired": 30 * DAY, "failed": 30 * DAY}
"""How many seconds a finished dispatch is kept. Failed ones are kept longer for inspection."""


class Mode(StrEnum):
    """When a classified request runs."""

    QUEUE = "queue"
    """Later, on its queue."""
    SYNC = "sync"
    """Now, in that class."""
    PREFER = "prefer"
    """Later only if the client sends `Prefer: respond-async`."""


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How one queue is served. Durations are in seconds.

    weight: its share of the workers' capacity. wait: how long a client waits for the response before it gets a 202.
    expires: when a dispatch expires that was not started (None: never). time_limit: how long a replay may run.
    max_attempts: how often a dispatch may be started. delivery: whether a dispatch is retried after its worker was lost
    or its view failed, or is never started twice. retry_backoff: the longest pause before the second attempt; it
    doubles with each attempt, up to retry_backoff_max. max_depth, max_age: how many dispatches may wait, and how long
    the oldest of them, before new ones are refused. max_published: how many messages may wait on the message broker;
    further dispatches wait in the ledger (None: no limit). reserve: how many processes are reserved for the queue.
    on_outage: what happens to a request if the ledger cannot be written. cancel_running: whether a client may cancel a
    running dispatch. require_idempotency_key: whether requests without a key are refused. results_ttl: how long a
    response is kept. retention: how long a finished dispatch is kept, by state. celery_queue: the name of the Celery
    queue; by default the project's prefix and the name of the queue.
    """

    weight: int = 1
    wait: float = 0.0
    expires: float | None = None
    time_limit: float = 300.0
    max_attempts: int = 3
    delivery: Literal["at_least_once", "at_most_once"] = "at_least_once"
    retry_backoff: float = 1.0
    retry_backoff_max: float = 600.0
    max_depth: int | None = None
    max_age: float | None = None
    max_published: int | None = 10_000
    reserve: int = 0
    on_outage: Literal["refuse", "run_now"] = "refuse"
    cancel_running: bool = False
    require_idempotency_key: bool = False
    results_ttl: float = DAY
    retention: Mapping[str, float] = field(default_factory=lambda: RETENTION)
    celery_queue: str = ""

    @property
    def starts(self) -> int:
        """How often a dispatch may be started at most."""
        return 1 if self.delivery == "at_most_once" else self.max_attempts

    @classmethod
    def from_mapping(cls, name: str, values: Mapping[str, Any], base: Self | None = None, *, prefix: str = "") -> Self:
        """Raises ConfigurationError if a key is unknown, or a value has the wrong type or range."""
        unknown = sorted(map(str, set(values) - {each.name for each in fields(cls)}))
        if unknown:
            raise ConfigurationError(f"queue {name!r} has the unknown key {unknown[0]!r}")
        hints = {**get_type_hints(cls), "retention": float | dict}
        for key, value in values.items():
            if not _fits(value, hints[key]):
                raise ConfigurationError(f"queue {name!r}: {key} cannot be {value!r}")
        policy = replace(base or cls(), **{**values, "retention": _retention(name, values.get("retention", {}))})
        return replace(policy, celery_queue=policy.celery_queue or prefix + name)


_POSITIVE = ("weight", "time_limit", "max_attempts", "max_published")


def _retention(name: str, given: float | Mapping[str, float]) -> Mapping[str, float]:
    """Returns the seconds for each final state: one number for all states, or the defaults updated with a mapping."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(RETENTION, given)
    for state, seconds in given.items():
        if state not in RETENTION or not _fits(seconds, float):
            raise ConfigurationError(
                f"queue {name!r}: retention cannot be {given!r}; it must be a number of seconds, or a mapping of "
                f"some of the states {', '.join(RETENTION)} to seconds"
            )
    return {**RETENTION, **given}


def _fits(value: object, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint in (bool, dict):
        return isinstance(value, hint)
    if hint is type(None) or hint is str:
        return value is None if hint is type(None) else isinstance(value, str)
    accepted = (int,) if hint is int else (int, float)
    return isinstance(value, accepted) and not isinstance(value, bool) and 0 <= value < float("inf")


SHIPPED_QUEUES: Mapping[str, Mapping[str, Any]] = {
    "payment": {"weight": 6, "max_attempts": 5},
    "realtime": {"weight": 3, "expires": 30},
    "bulk": {"weight": 1, "max_depth": 100_000},
}


def policies_from(entries: Mapping[Any, Any], prefix: str = "") -> dict[str, QueuePolicy]:
    """Returns the built-in queues, updated with the project's own. Raises ConfigurationError.

    `prefix` is put in front of the name of each Celery queue for which the project sets no name.
    """
    if not isinstance(entries, Mapping):
        raise ConfigurationError("QUEUES must be a mapping of names to policies")
    policies: dict[str, QueuePolicy] = {}
    for name in [*SHIPPED_QUEUES, *(name for name in entries if name not in SHIPPED_QUEUES)]:
        entry = entries.get(name, {})
        if not isinstance(name, str) or not name or not isinstance(entry, Mapping):
            raise ConfigurationError(f"QUEUES[{name!r}] must be a name with a mapping of policy keys")
        values = {**SHIPPED_QUEUES.get(name, {}), **entry}
        policy = QueuePolicy.from_mapping(name, values, prefix=prefix)
        for key in _POSITIVE:
            if getattr(policy, key) == 0:
                raise ConfigurationError(f"queue {name!r}: {key} must be greater than 0")
        policies[name] = policy
    return policies


@dataclass(frozen=True, slots=True)
class Annotation:
    """What a decorator sets for a view. `queue` is None if the view is never queued."""

    queue: str | None
    mode: Mode
    wait: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The result of classifying a request: its queue, when it runs, how long the client waits, and why.

    wait: seconds; None means the client's preference, or else the wait of the policy. priority: the class whose policy
    decides how long the client waits, if it is not that of the queue.
    """

    queue: str
    mode: Mode = Mode.QUEUE
    wait: float | None = None
    reason: str = ""
    priority: str = ""

    @property
    def queued(self) -> bool:
        return self.mode is Mode.QUEUE


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition that classifies a request into a queue."""

    when: Condition
    queue: str
    mode: Mode = Mode.QUEUE

    @classmethod
    def from_mapping(cls, entry: object, queues: Mapping[str, QueuePolicy]) -> Self:
        """Raises ConfigurationError if the rule is invalid."""
        if not isinstance(entry, Mapping):
            raise ConfigurationError("a rule must be a mapping with 'when' and 'queue', and optionally 'mode'")
        unknown, missing = set(entry) - {"when", "queue", "mode"}, {"when", "queue"} - set(entry)
        if unknown or missing:
            what = f"has the unknown key {min(map(repr, unknown))}" if unknown else f"has no {min(missing)!r}"
            raise ConfigurationError(f"a rule {what}; its keys are 'when' and 'queue', and optionally 'mode'")
        when, queue, mode = entry["when"], entry["queue"], entry.get("mode", Mode.QUEUE)
        if not isinstance(when, str):
            raise ConfigurationError("'when' must be the text of a condition")
        if not isinstance(queue, str) or queue not in queues:
            raise ConfigurationError(f"there is no queue {queue!r}; there are {', '.join(queues)}")
        if mode not in list(Mode):
            raise ConfigurationError(f"there is no mode {mode!r}; there are {', '.join(Mode)}")
        return cls(Condition(when), queue, Mode(mode))


class Classifier:
    """Applies rules in order. It stores no request and makes no query.

    `classify` reads the values of a request at most once.
    """

    def __init__(self, rules: Sequence[Rule], queues: Mapping[str, QueuePolicy]) -> None:
        self.rules = tuple(rules)
        self.queues = queues
        self._conditions = Conditions(rule.when for rule in rules)
        self._guards = GuardIndex(rule.when.guards for rule in rules)
        self.reads_user = any(name.startswith("user.") for name in self._conditions.names)

    def annotated(self, annotation: Annotation, preferences: Preferences) -> Decision | None:
        """Returns the decision for a decorated view, or None if the view always runs as if the broker were
        not there.
        """
        if annotation.queue is None:
            return None
        return self._decide(annotation.queue, annotation.mode, annotation.wait, preferences, "decorator")

    def routed(self, route: Route, preferences: Preferences) -> Decision | None:
        """Returns the decision for a request that a router sends to a queue."""
        return self._decide(
            route.destination.url, Mode.QUEUE, None, preferences, f"router {route.router.code}", route.router.queue
        )

    def classify(self, values: Values, preferences: Preferences) -> Decision | None:
        """Returns the decision of the first rule that matches, or None."""
        answers = Evaluation(self._conditions, values)
        if self._guards.excludes(answers.compared):
            return None
        for number, (rule, why_not) in enumerate(self._verdicts(answers)):
            if not why_not:
                return self._decide(rule.queue, rule.mode, None, preferences, f"rule {number}")
        return None

    def verdicts(self, values: Values) -> Iterator[tuple[Rule, str]]:
        """Yields each rule with the reason why it does not match; an empty reason if it matches."""
        return self._verdicts(Evaluation(self._conditions, values))

    def _verdicts(self, answers: Evaluation) -> Iterator[tuple[Rule, str]]:
        return ((rule, answers.why_not(rule.when)) for rule in self.rules)

    def _decide(
        self, queue: str, mode: Mode, wait: float | None, preferences: Preferences, reason: str, priority: str = ""
    ) -> Decision | None:
        policy = self.queues.get(priority or queue) if queue in self.queues else None
        if policy is None:
            logger.error(
                "The %s names the queue %r, which is not configured: the view runs now", printable(reason), queue
            )
            return None
        if mode is Mode.PREFER:
            mode = Mode.QUEUE if preferences.respond_async else Mode.SYNC
        if preferences.wait is not None:
            wait = preferences.wait
        elif wait is None:
            wait = policy.wait
        return Decision(queue, mode, wait, reason, priority)
