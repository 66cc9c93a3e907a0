"""Routers and destinations: where a request goes instead of to its own view now."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus, urlsplit, urlunsplit

from broker_core.balancing import choose, shares
from broker_core.conditions import Answers, Condition, Conditions, Values
from broker_core.errors import ConfigurationError
from broker_core.sources import Captures, Kind, Source, SourceIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

ALWAYS = frozenset({"", "*", '"*"', "'*'"})
"""The conditions that hold for every request; the quoted ones are django-route's."""

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
    """What keeps a visitor at one destination."""

    SESSION = "session"
    USER = "user"
    CLIENT_ADDRESS = "client_address"
    HEADER = "header"
    COOKIE = "cookie"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Destination:
    """A weighted target: a path, a URL or a queue, as its router's action needs. `key` survives its being edited.

    carry_params: whether the request's query goes along. append_params: a query that replaces both others.
    """

    key: str
    url: str
    weight: int = 1
    carry_params: bool = True
    append_params: str = ""


@dataclass(frozen=True)
class Router:
    """Sends what matches its source, methods and condition to one of its destinations. A lower rank comes first.

    An empty `methods` means the safe ones for redirects, and all for other actions. `queue` is the priority class
    that a queued request gets, where it is not that of the destination.
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
        """The destination of this visitor. Raises LookupError where all are drained."""
        if len(self.weights) == 1:
            [key] = self.weights
        else:
            key = choose(self.weights, visitor, self.code)
        return next(destination for destination in self.destinations if destination.key == key)

    def shares(self) -> dict[str, float]:
        """What part of the visitors each destination gets, by key."""
        return shares({destination.key: destination.weight for destination in self.destinations})


@dataclass(frozen=True, slots=True)
class Match:
    """A router whose source matches, and what the source captured.

    conditional: whether a condition was asked before it took the request, its own or that of another router.
    """

    router: Router
    captures: Captures = field(default_factory=dict)
    conditional: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes: the router that took it, and its destination for this visitor."""

    match: Match
    destination: Destination

    @property
    def router(self) -> Router:
        return self.match.router

    def url(self, query: str) -> str:
        """The url of the destination for a request with this raw query."""
        return destination_url(self.match, self.destination, query)


_SPECIFIC = {kind: number for number, kind in enumerate(Kind)}


class RoutingTable:
    """Routers, compiled. It holds no request and never changes: another table takes its place."""

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
        """The routers whose source matches this decoded path, in the order in which they are asked."""
        found = self._index.find(path)
        if not found:
            return []
        found.sort(key=lambda entry: entry[0][0])
        return [Match(router, captures) for (_, router), captures in found]

    def find(self, path: str, method: str, values: Values) -> Match | None:
        """The first router that takes this request. `values` is asked only for what conditions read."""
        return first(self.candidates(path), method, values)


def _order(router: Router) -> tuple[Any, ...]:
    return router.rank, _SPECIFIC[router.source.kind], -len(router.source.text), router.code


def _names(router: Router) -> frozenset[str]:
    return router.condition.names if router.condition else frozenset()


def first(
    candidates: Sequence[Match], method: str, values: Values, switched_off: Container[Action] = frozenset()
) -> Match | None:
    """The candidate that takes the request; None where none does."""
    conditional = False
    for match, why_not in verdicts(candidates, method, values, switched_off):
        conditional = conditional or match.router.condition is not None
        if not why_not:
            return replace(match, conditional=conditional)
    return None


def verdicts(
    candidates: Sequence[Match], method: str, values: Values, switched_off: Container[Action] = frozenset()
) -> Iterator[tuple[Match, str]]:
    """Each candidate with the reason why it does not take the request; an empty one where it does."""
    conditions = Conditions(match.router.condition for match in candidates if match.router.condition)
    answers = Answers(conditions, values)
    for match in candidates:
        router = match.router
        if router.action in switched_off:
            yield match, f"{router.action} is switched off"
        elif not router.allows(method):
            yield match, f"{method} is not among its methods"
        elif not router.weights:
            yield match, "it has no active destination with a weight"
        else:
            yield match, answers.why_not(router.condition) if router.condition else ""


def condition_of(text: str) -> Condition | None:
    """The condition, None for one that always holds. Raises InvalidConditionError."""
    return None if text.strip() in ALWAYS else Condition(text)


def methods_of(text: str) -> frozenset[str]:
    """Method names between spaces or commas, in capitals. Raises ConfigurationError."""
    names = text.replace(",", " ").upper().split()
    for name in names:
        if not _METHOD.fullmatch(name):
            raise ConfigurationError(f"{name!r} is no HTTP method")
    return frozenset(names)


# Where a destination leads


def destination_url(match: Match, destination: Destination, query: str) -> str:
    """The URL of the destination for a request with this raw query.

    Names in braces are filled in: `{router_code}` and what the source captured; other braces stay. The request's query
    is carried if the destination says so; the url's own query replaces keys of the same name, and `append_params`
    replaces both.
    """
    names = {**match.captures, "router_code": match.router.code}
    url = urlsplit(destination.url)
    path = _filled(_BARE_PERCENT.sub("%25", url.path), names, lambda text: quote(text, safe=_PATH_SAFE))
    path = quote(path, safe=_PATH_SAFE + "%{}")
    if not url.netloc and path.startswith("//"):
        path = "/%2F" + path[2:]  # else the rest would be taken for a host
    pairs = [token for token in query.split("&") if token] if destination.carry_params else []
    for own in (url.query, destination.append_params):
        pairs = _replaced(pairs, own, names)
    return urlunsplit((url.scheme, url.netloc, path, "&".join(pairs), url.fragment))


def _filled(text: str, names: Mapping[str, str], quoted: Callable[[str], str]) -> str:
    return _PLACE.sub(lambda place: quoted(names[place[1]]) if place[1] in names else place[0], text)


def _replaced(tokens: list[str], query: str, names: Mapping[str, str]) -> list[str]:
    """The tokens, with those of the query in place of the ones of the same name; what is new comes last."""
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
    """Whether two URLs of this site have the same path and the same query, whatever the order of its names."""
    first, second = urlsplit(one), urlsplit(other)
    return (unquote(first.path), _pairs(first.query)) == (unquote(second.path), _pairs(second.query)) and not (
        first.netloc or second.netloc
    )


def _pairs(query: str) -> list[tuple[str, str]]:
    return sorted(parse_qsl(query, keep_blank_values=True))


def check_url(url: str, action: Action, queues: Container[str], allowed_hosts: Callable[[str], bool]) -> None:
    """Whether a destination may lead there. Raises ConfigurationError.

    `allowed_hosts` says whether a redirect may leave the site for this host.
    """
    if _CONTROL.search(url):
        raise ConfigurationError("a url has no control characters and no backslashes")
    if action is Action.QUEUE:
        if url not in queues:
            raise ConfigurationError(f"there is no queue {url!r}")
        return
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"this is no url: {error}") from error
    if not parts.scheme and not parts.netloc:
        if not url.startswith("/"):
            raise ConfigurationError("a path begins with a slash")
        return
    if action is Action.PROXY:
        raise ConfigurationError("a proxied destination is a path of this project")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError("a redirect leads to a path, or to an http or https url")
    if not allowed_hosts(parts.hostname):
        raise ConfigurationError(f"redirects to {parts.hostname} are not allowed: see ALLOWED_REDIRECT_HOSTS")
