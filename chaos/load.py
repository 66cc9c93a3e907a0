"""Clients that send requests at a steady rate, and record the responses."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from chaos.verdict import BRIEF, QUEUES

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

SHARES = (4, 2, 4)
"""The shares of the queues, in their order."""
LONG = 2_000
LONG_SHARE = 0.02
"""The duration of long work in milliseconds, and its share of all work."""
SHORT = (5, 50)
ASYNC_SHARE = 0.3
"""The share of asynchronous views in all work."""
POISON_SHARE = 0.1
"""The share of requests to views that leave something behind."""
RELEASE_SHARE = 0.05
"""The share of requests that only one release of the site can answer, or each release with another view."""
SWALLOW = "swallow"
"""The poison that needs a queue with a short time limit."""
OF_RELEASES = ("old", "new", "moved")
PATIENCE = 20.0
"""Seconds after which a client gives up."""
AVOIDED = 0.5
"""Seconds for which a URL is avoided after a request to it was not answered."""


KEPT = 32
"""Idle connections. httpx searches all of them for each request, so more of them would cost time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The response to one request.

    `status` is None if there was none; the request may have been accepted nevertheless.
    """

    at: float
    seconds: float
    queue: str
    status: int | None
    dispatch: str | None = None
    error: str = ""


class Menu:
    """Random requests: a path and a queue. No poison is repeated before all others had their turn."""

    def __init__(self, chance: random.Random, long_share: float = LONG_SHARE, poisons: Sequence[str] = ()) -> None:
        self._random, self._long_share, self._poisons = chance, long_share, poisons
        self._left: list[str] = []
        others = (POISON_SHARE, RELEASE_SHARE) if poisons else (0.0, 0.0)
        self._weights = (1 - sum(others), *others)

    def draw(self) -> tuple[str, str]:
        [queue] = self._random.choices(QUEUES, SHARES)
        [kind] = self._random.choices(("work", "poison", "release"), self._weights)
        if kind == "poison":
            return self._poison(queue)
        if kind == "release":
            return f"/{self._random.choice(OF_RELEASES)}/{self._milliseconds()}/", queue
        return f"/{self._prefix(ASYNC_SHARE)}work/{self._milliseconds()}/", queue

    def _poison(self, queue: str) -> tuple[str, str]:
        if not self._left:
            self._left = [*self._poisons]
            self._random.shuffle(self._left)
        name = self._left.pop()
        return f"/{self._prefix(0.5)}poison/{name}/", BRIEF if name == SWALLOW else queue

    def _prefix(self, share: float) -> str:
        return "async-" if self._random.random() < share else ""

    def _milliseconds(self) -> int:
        return LONG if self._random.random() < self._long_share else self._random.randint(*SHORT)


class Load:
    """Sends the requests from its own thread, and appends to `answers`."""

    def __init__(
        self,
        urls: Sequence[str],
        requests: int,
        rate: float,
        menu: Menu,
        at_once: int,
    ) -> None:
        self.requests = requests
        self.answers: list[Answer] = []
        self._urls, self._rate, self._at_once = urls, rate, at_once
        self._menu = menu
        self._avoid_until = dict.fromkeys(urls, 0.0)
        self._turns = itertools.cycle(urls)
        self._thread = threading.Thread(target=self._drive, name="load", daemon=True)
        self._failure: BaseException | None = None
        self.began = 0.0

    def start(self) -> None:
        self.began = time.monotonic()
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether all requests were sent and answered. Raises the error that ended it early, if any."""
        if self._failure is not None:
            raise self._failure
        return not self._thread.is_alive()

    def _drive(self) -> None:
        try:
            asyncio.run(self._send_all())
        except BaseException as error:
            self._failure = error

    async def _send_all(self) -> None:
        free = asyncio.Semaphore(self._at_once)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=KEPT)
        async with (
            httpx.AsyncClient(timeout=PATIENCE, limits=limits, trust_env=False) as client,
            asyncio.TaskGroup() as all_,
        ):
            for number in range(self.requests):
                await asyncio.sleep(max(0.0, self.began + number / self._rate - time.monotonic()))
                await free.acquire()
                all_.create_task(self._send(client)).add_done_callback(lambda _: free.release())

    async def _send(self, client: httpx.AsyncClient) -> None:
        path, queue = self._menu.draw()
        url, at = self._next_url(), time.monotonic()
        status, dispatch, error = None, None, ""
        try:
            response = await client.post(url + path, headers={"X-Queue": queue})
            status = response.status_code
            dispatch = response.json()["id"] if status == httpx.codes.ACCEPTED else None
        except httpx.TransportError as failure:
            self._avoid_until[url] = time.monotonic() + AVOIDED
            error = type(failure).__name__
        self.answers.append(Answer(at - self.began, time.monotonic() - at, queue, status, dispatch, error))

    def _next_url(self) -> str:
        """Returns the URLs in turn. Skips avoided ones, unless all are avoided."""
        now = time.monotonic()
        turns = [next(self._turns) for _ in self._urls]
        return next((url for url in turns if self._avoid_until[url] <= now), turns[0])
