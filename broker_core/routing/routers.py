"""Routers and destinations: they send a request elsewhere instead of running its own view now."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus, urlsplit, urlunsplit

from broker_core.conditions.condition import Condition, Conditions, Evaluation, Values
from broker_core.errors import ConfigurationError
from broker_core.routing.balancing import choose, shares
from broker_core.routing.sources import Captures, Kind, Source, SourceIndex
from broker_core.texts import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

ALWAYS = frozenset({"", "*", '"*"', "'*'"})
"""Conditions that match every request; the quoted ones come from django-route."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""RFC 9110, section 9.2.1."""

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_PATH_SAFE = "/~:@!$&'()*+,;="


class Action(StrEnum):
    """What a router does with a request. The numbers are redirects with that status (RFC 9110, section 15.4)."""

    MOVED_PERMANENTLY = "301"
    FOUND = "302"
    TEMPORARY_REDIRECT = "307"
    PERMANENT_REDIRECT = "308"
    PROXY = "proxy"
    QUEUE = "queue"

    @property
    def redirects(self) -> bool:
        return self.isdigit()

    @property
    def permanent(self) -> bool:
        return self in {Action.MOVED_PERMANENTLY, Action.PERMANENT_REDIRECT}


class StickyBy(StrEnum):
    """What identifies a visitor, so that it keeps its destination."""

    SESSION = "session"
    USER = "user"
    CLIENT_ADDRESS = "client_address"
    HEADER = "header"
    COOKIE = "cookie"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Destination:
    """A weighted target: a path, a URL or a queue, depending on the router's action. `key` stays the same after an
    edit.

    carry_params: whether the request's query is added. append_params: a query that overrides both others.
    """

    key: str
    url: str
    weight: int = 1
    carry_params: bool = True
    append_params: str = ""


@dataclass(frozen=True)
class Router:
    """Sends requests that match its source, methods and condition to one of its destinations. Lower ranks come first.

    An empty `methods` means safe methods for redirects, and all methods for other actions. `queue` is the priority
    class of a queued request, if it is not that of the destination.
    """

    code: str
    source: Source
    action: Action
    destinations: tuple[Destination, ...] = ()
    rank: int = 1
    condition: Condition | None = None
    methods: frozenset[str] = frozenset()
    queue: str = ""
    sticky_by: StickyBy = StickyBy.SESSION
    sticky_name: str = ""

    @cached_property
    def weights(self) -> dict[str, int]:
        return {destination.key: destination.weight for destination in self.destinations if destination.weight > 0}

    def allows(self, method: str) -> bool:
        if self.methods:
            return method in self.methods
        return method in SAFE_METHODS or not self.action.redirects

    def pick(self, visitor: str) -> Destination:
        """Returns the destination of this visitor. Raises LookupError if no destination has a weight."""
        if len(self.weights) == 1:
            [key] = self.weights
        else:
            key = choose(self.weights, visitor, self.code)
        return next(destination for destination in self.destinations if destination.key == key)

    def shares(self) -> dict[str, float]:
        """Returns each destination's share of the visitors, by key."""
        return shares({destination.key: destination.weight for destination in self.destinations})


@dataclass(frozen=True, slots=True)
class Match:
    """A router whose source matches, with the captured parts of the path.

    conditional: whether a condition was evaluated before the router was chosen, its own or another router's.
    """

    router: Router
    captures: Captures = field(default_factory=dict)
    conditional: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """The chosen router of a request, and its destination for this visitor."""

    match: Match
    destination: Destination

    @property
    def router(self) -> Router:
        return self.match.router

    def url(self, query: str) -> str:
        """Returns the URL of the destination for a request with this raw query."""
        return destination_url(self.match, self.destination, query)


_SPECIFIC = {kind: number for number, kind in enumerate(Kind)}


class RoutingTable:
    """Compiled routers. A table stores no request and never changes; a changed configuration gets a new table."""

    def __init__(self, routers: Iterable[Router]) -> None:
        self.routers = tuple(sorted(routers, key=_order))
        self._index: SourceIndex[tuple[int, Router]] = SourceIndex()
        for number, router in enumerate(self.routers):
            self._index.add(router.source, (number, router))
        self.reads_user = any(
            router.sticky_by is StickyBy.USER or any(name.startswith("user.") for name in _names(router))
            for router in self.routers
        )

    def __bool__(self) -> bool:
        return bool(self.routers)

    def candidates(self, path: str) -> list[Match]:
        """Returns the routers whose source matches this decoded path, in order."""
        found = self._index.find(path)
        if not found:
            return []
        found.sort(key=lambda entry: entry[0][0])
        return [Match(router, captures) for (_, router), captures in found]

    def find(self, path: str, method: str, values: Values) -> Match | None:
        """Returns the first router that matches. `values` is called only for what conditions read."""
        return first(self.candidates(path), method, values)


def _order(router: Router) -> tuple[Any, ...]:
    return router.rank, _SPECIFIC[router.source.kind], -len(router.source.text), router.code


def _names(router: Router) -> frozenset[str]:
    return router.condition.names if router.condition else frozenset()


def first(
    candidates: Sequence[Match], method: str, values: Values, switched_off: Container[Action] = frozenset()
) -> Match | None:
    """Returns the first candidate that matches the request, or None."""
    conditional = False
    for match, why_not in verdicts(candidates, method, values, switched_off):
        conditional = conditional or match.router.condition is not None
        if not why_not:
            return replace(match, conditional=conditional)
    return None


DRAINED = Text("it has no active destination with a weight")


@lru_cache(maxsize=32)
def _switched_off(action: Action) -> Text:
    return Text("{action} is switched off", action=action.value)


@lru_cache(maxsize=32)
def _other_method(method: str) -> Text:
    return Text("{method} is not among its methods", method=method)


def verdicts(
    candidates: Sequence[Match], method: str, values: Values, switched_off: Container[Action] = frozenset()
) -> Iterator[tuple[Match, str]]:
    """Yields each candidate with the reason why it does not match the request; an empty reason if it matches."""
    conditions = Conditions(match.router.condition for match in candidates if match.router.condition)
    answers = Evaluation(conditions, values)
    for match in candidates:
        router = match.router
        if router.action in switched_off:
            yield match, _switched_off(router.action)
        elif not router.allows(method):
            yield match, _other_method(method)
        elif not router.weights:
            yield match, DRAINED
        else:
            yield match, answers.why_not(router.condition) if router.condition else ""


def condition_of(text: str) -> Condition | None:
    """Returns the condition, or None if it matches every request. Raises InvalidConditionError."""
    return None if text.strip() in ALWAYS else Condition(text)


def methods_of(text: str) -> frozenset[str]:
    """Parses method names, separated by spaces or commas. Raises ConfigurationError."""
    names = text.replace(",", " ").upper().split()
    for name in names:
        if not _METHOD.fullmatch(name):
            raise ConfigurationError(Text("{name!r} is not an HTTP method", name=name))
    return frozenset(names)


# The URL of a destination


def destination_url(match: Match, destination: Destination, query: str) -> str:
    """Returns the URL of the destination for a request with this raw query.

    Placeholders in braces are replaced: `{router_code}` and the captured names; other braces stay. The request's query
    is added if the destination says so. The query of the destination's URL replaces parameters of the same name, and
    `append_params` replaces both.
    """
    names = {**match.captures, "router_code": match.router.code}
    url = urlsplit(destination.url)
    path = _filled(_BARE_PERCENT.sub("%25", url.path), names, lambda text: quote(text, safe=_PATH_SAFE))
    path = quote(path, safe=_PATH_SAFE + "%{}")
    if not url.netloc and path.startswith("//"):
        path = "/%2F" + path[2:]  # otherwise the rest would be read as a host
    pairs = [token for token in query.split("&") if token] if destination.carry_params else []
    for own in (url.query, destination.append_params):
        pairs = _replaced(pairs, own, names)
    return urlunsplit((url.scheme, url.netloc, path, "&".join(pairs), url.fragment))


def _filled(text: str, names: Mapping[str, str], quoted: Callable[[str], str]) -> str:
    return _PLACE.sub(lambda place: quoted(names[place[1]]) if place[1] in names else place[0], text)


def _replaced(tokens: list[str], query: str, names: Mapping[str, str]) -> list[str]:
    """Replaces tokens by those of the same name in the query, and adds the new ones at the end."""
    new: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        key = _filled(name, names, str)
        new.setdefault(key, []).append(f"{quote_plus(key)}={quote_plus(_filled(value, names, str), safe='{}')}")
    result: list[str] = []
    placed: set[str] = set()
    for token in tokens:
        name = unquote_plus(token.partition("=")[0])
        if name not in new:
            result.append(token)
        elif name not in placed:
            placed.add(name)
            result += new[name]
    return result + [token for name, tokens_ in new.items() if name not in placed for token in tokens_]


def same_url(one: str, other: str) -> bool:
    """Whether two URLs of this site have the same path and the same query, in any order of its parameters."""
    first, second = urlsplit(one), urlsplit(other)
    return (unquote(first.path), _pairs(first.query)) == (unquote(second.path), _pairs(second.query)) and not (
        first.netloc or second.netloc
    )


def _pairs(query: str) -> list[tuple[str, str]]:
    return sorted(parse_qsl(query, keep_blank_values=True))


def check_url(url: str, action: Action, queues: Container[str], allowed_hosts: Callable[[str], bool]) -> None:
    """Raises ConfigurationError if a destination may not have this URL.

    `allowed_hosts` returns whether a redirect may lead to this external host.
    """
    if _CONTROL.search(url):
        raise ConfigurationError(Text("a URL may not contain control characters or backslashes"))
    if action is Action.QUEUE:
        if url not in queues:
            raise ConfigurationError(Text("there is no queue {queue!r}", queue=url))
        return
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(Text("invalid URL: {error}", error=str(error))) from error
    if not parts.scheme and not parts.netloc:
        if not url.startswith("/"):
            raise ConfigurationError(Text("a path must begin with a slash"))
        return
    if action is Action.PROXY:
        raise ConfigurationError(Text("a proxied destination must be a path of this project"))
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(Text("a redirect must lead to a path, or to an http or https URL"))
    if not allowed_hosts(parts.hostname):
        raise ConfigurationError(
            Text("redirects to {host} are not allowed: see ALLOWED_REDIRECT_HOSTS", host=parts.hostname)
        )
