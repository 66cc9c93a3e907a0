"""What a client that was held, or that polls, sees otherwise than one whose view was called at once.

Each row says what is seen instead, so a difference that does not come, or comes otherwise, fails the comparison too.
docs/explanation/replay.md explains each in the section "Differences that stay".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from tests.acceptance.comparison.observing import Observation, Way

if TYPE_CHECKING:
    from tests.acceptance.comparison.shape import Shape

Change = Callable[[Observation], object]


@dataclass(frozen=True, slots=True)
class Difference:
    """How the direct observation changes, in which shapes, and why."""

    reason: str
    change: Change
    shapes: tuple[str, ...] = ("*",)
    ways: tuple[Way, ...] = (Way.HELD, Way.POLLED)
    interfaces: tuple[str, ...] = ("asgi", "wsgi")

    def concerns(self, shape: Shape, interface: str, way: Way) -> bool:
        return (
            way in self.ways
            and interface in self.interfaces
            and any(fnmatchcase(shape.name, pattern) for pattern in self.shapes)
        )


def without_fields(*names: str) -> Change:
    """The view, an echo, does not see these header fields."""
    environ = {f"HTTP_{name.upper().replace('-', '_')}" for name in names}

    def change(seen: Observation) -> None:
        echo = json.loads(seen["body"])
        echo["headers"] = {name: value for name, value in echo["headers"].items() if name not in names}
        echo["environ"] = {name: value for name, value in echo["environ"].items() if name not in environ}
        _replace_body(seen, json.dumps(echo))

    return change


def still_known(seen: Observation) -> None:
    """The view finds the user whose session is no longer valid, and Django has no reason yet to flush the session."""
    _replace_body(seen, seen["body"].replace('"user": ""', '"user": "ada"'))
    kept = {**json.loads(seen["body"])["session"]}
    seen.update({"cookies": [], "jar": {**seen["jar"], "sessionid": "<sessionid>"}, "left: session": kept})


def not_found(seen: Observation) -> None:
    """As for a dispatch that does not exist."""
    problem = {
        "type": "urn:request-broker:problem:dispatch-not-found",
        "title": "There is no such dispatch",
        "status": 404,
        "detail": "there is no such dispatch, or it is not yours",
    }
    _replace_body(seen, json.dumps(problem))
    seen.update({"status": 404, "reason": "Not Found", "header Content-Type": ["application/problem+json"]})


def _replace_body(seen: Observation, body: str) -> None:
    length = int(seen["header Content-Length"][0]) + len(body) - len(seen["body"])
    seen.update({"body": body, "header Content-Length": [str(length)]})


def kept_for_one_client(seen: Observation) -> None:
    """No shared cache keeps it. A private cache may, if the view allows it."""
    said = [part.strip() for part in ",".join(seen.pop("header Cache-Control", [])).split(",") if part.strip()]
    names = {part.partition("=")[0] for part in said}
    if not said and "header Expires" not in seen:
        said = ["private", "no-store"]
    elif "private" not in names or names & {"public", "s-maxage"}:
        said = [*(part for part in said if part.partition("=")[0] not in SHARED), "private"]
    seen["header Cache-Control"] = [", ".join(said)]
    if "no-store" not in {part.partition("=")[0] for part in said}:
        varies = [part.strip() for part in ",".join(seen.get("header Vary", [])).split(",") if part.strip()]
        varies += [name for name in ("Cookie", "Authorization") if name not in varies]
        seen["header Vary"] = ["*" if "*" in varies else ", ".join(varies)]


def decoded(seen: Observation) -> None:
    """Django's middleware compresses if the client names gzip, even to refuse it."""
    del seen["header Content-Encoding"]
    length, _, _ = seen["body"].partition(" bytes")
    seen["header Content-Length"] = [length]


ATTEMPTS = 3
"""The default of `max_attempts`."""
SHARED = frozenset({"public", "s-maxage", "private"})

DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "hop-by-hop fields do not travel",
        without_fields("Connection", "Keep-Alive", "Te", "X-Private"),
        ("field/hop-by-hop",),
    ),
    Difference("hop-by-hop fields do not travel", without_fields("Connection"), ("field/connection-close",)),
    Difference(
        "hop-by-hop fields do not travel: the body sent in chunks is complete",
        without_fields("Transfer-Encoding"),
        ("body/chunked", "upload/chunked"),
    ),
    Difference(
        "the broker asks for the user before the view is called",
        still_known,
        ("session/user-change-password-behind",),
    ),
    Difference(
        "wsgiref sends the length of a stream without any block, but not of one with an empty block",
        lambda seen: seen.pop("header Content-Length"),
        ("stream/empty",),
        interfaces=("wsgi",),
    ),
    Difference(
        "a view that fails is tried again",
        lambda seen: seen.update({"left: rows": seen["left: rows"] * ATTEMPTS}),
        ("error/500-after-writing",),
    ),
    Difference(
        "an account that was deactivated owns nothing any more",
        not_found,
        ("session/user-deactivate",),
        ways=(Way.POLLED,),
    ),
    Difference(
        "a client that refuses a coding does not get it",
        decoded,
        ("gzip/refused",),
        ways=(Way.POLLED,),
    ),
    Difference("a stored response is for its client alone", kept_for_one_client, ways=(Way.POLLED,)),
)

AT_THE_DOOR = (
    "path/no-slash*",
    "path/slash",
    "path/unknown*",
    "field/host-*",
    "csrf/refused",
    "csrf/wrong-origin",
    "language/no-prefix",
    "decorated/atomic-post",
    "decorated/requires-csrf-token-post",
    "decorated/no-append-slash-missing",
    "rest/not-acceptable",
    "rest/private-anonymous",
    "rest/private-*-token",
    "rest/by-token-anonymous",
    "rest/by-session-no-csrf",
    "rest/set*-denied",
    "rest/staff-denied",
    "rest/set-anonymous",
    "ninja/unknown",
)
"""Shapes that are answered, or refused, before anything is accepted: by middleware, the resolver, or DRF's checks."""


def is_answered_at_the_door(shape: Shape) -> bool:
    return any(fnmatchcase(shape.name, pattern) for pattern in AT_THE_DOOR)


def expected(shape: Shape, interface: str, way: Way, direct: Observation) -> Observation:
    """Returns the expected observation of the shape."""
    seen = dict(direct)
    for difference in DIFFERENCES:
        if not is_answered_at_the_door(shape) and difference.concerns(shape, interface, way):
            difference.change(seen)
    return seen
