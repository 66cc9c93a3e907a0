"""Runs the project in this process, and its workers in others."""

from __future__ import annotations

import contextlib
import operator
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.core.handlers.wsgi import WSGIHandler
from django.db import DEFAULT_DB_ALIAS, connections
from django.test.utils import override_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

START_SECONDS = 60.0


class NotInstalledError(Exception):
    """A measurement needs something that is not installed."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A call to measure, and what to prepare before each call."""

    call: Callable[[], None]
    prepare: Callable[[], None] = lambda: None


def handler(**settings: Any) -> WSGIHandler:
    """Returns a handler whose middleware is loaded with these settings."""
    with override_settings(**settings):
        return WSGIHandler()


@contextlib.contextmanager
def kept_connections() -> Iterator[None]:
    """Database connections outlive the request, as with CONN_MAX_AGE."""
    connection = connections[DEFAULT_DB_ALIAS]
    before = connection.settings_dict["CONN_MAX_AGE"]
    connection.close()
    connection.settings_dict["CONN_MAX_AGE"] = None
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["CONN_MAX_AGE"] = before


def environ(method: str, path: str, **form: str) -> dict[str, Any]:
    body = urlencode(form).encode()
    return {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/x-www-form-urlencoded" if form else "",
        "CONTENT_LENGTH": str(len(body)) if form else "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "HTTP_USER_AGENT": "benchmarks",
        "HTTP_ACCEPT": "*/*",
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(body),
        "wsgi.errors": sys.stderr,
    }


def call(application: WSGIHandler, request: dict[str, Any], expected: int) -> None:
    seen: list[str] = []
    response = application(request, lambda status, _headers: seen.append(status))
    for _ in response:
        pass
    response.close()
    if not seen[0].startswith(str(expected)):
        raise RuntimeError(f"{request['PATH_INFO']} answered {seen[0]}, not {expected}")


def paired(first: Callable[[], None], second: Callable[[], None], rounds: int, each: int) -> list[tuple[float, float]]:
    """Returns the seconds per call of both, for each round. They alternate, so that a slow moment affects both."""
    pairs = []
    for number in range(rounds + 1):
        if number % 2:
            one, other = _block(first, each), _block(second, each)
        else:
            other, one = _block(second, each), _block(first, each)
        pairs.append((one, other))
    return pairs[1:]  # the first round is a warm-up


def _block(function: Callable[[], None], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - started) / calls


class Rounds:
    """Measures the seconds of a call of each contender, round by round.

    They alternate call by call, so that a slow moment of the machine affects all. Their order changes, because each
    affects the processor caches of the next.
    """

    def __init__(self, contenders: Mapping[str, Contender], rounds: int) -> None:
        self._seen: dict[str, list[float]] = {name: [] for name in contenders}
        order, random = list(contenders.items()), Random(1)
        for number in range(-rounds // 10, rounds):
            random.shuffle(order)
            for name, contender in order:
                contender.prepare()
                started = time.perf_counter()
                contender.call()
                if number >= 0:  # earlier rounds are a warm-up
                    self._seen[name].append(time.perf_counter() - started)

    @cached_property
    def _quiet(self) -> dict[str, list[float]]:
        """The fastest quarter of the rounds: to compare microseconds, the machine must be undisturbed."""
        rounds = sorted(zip(*self._seen.values(), strict=True), key=sum)
        columns = zip(*rounds[: len(rounds) // 4], strict=True)
        return dict(zip(self._seen, map(list, columns), strict=True))

    def more(self, name: str, than: str) -> float:
        """Returns the median of how many seconds more it takes."""
        return statistics.median(map(operator.sub, self._quiet[name], self._quiet[than]))

    def times(self, name: str, than: str) -> float:
        """Returns the median of how many times as long it takes."""
        return statistics.median(map(operator.truediv, self._quiet[name], self._quiet[than]))

    def microseconds(self) -> dict[str, float]:
        return {f"{name}_us": statistics.median(values) * 1e6 for name, values in self._quiet.items()}


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@contextlib.contextmanager
def worker(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a worker process while the context lasts; yields once it is ready."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "C_FORCE_ROOT": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        _wait_for_ready(process)
        with subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL) as drain:
            yield process
            process.terminate()
            process.wait(60)
            drain.wait(10)
    finally:
        process.kill()
        process.wait()


def _wait_for_ready(process: subprocess.Popen[bytes]) -> None:
    lines: list[bytes] = []
    for line in process.stderr or ():
        lines.append(line)
        if b" ready." in line:
            return
    raise RuntimeError(b"".join(lines).decode(errors="replace"))


def wait_until(done: Callable[[], bool], timeout: float) -> float:
    """Returns the seconds until `done()` is true. Raises TimeoutError after `timeout` seconds."""
    started = time.perf_counter()
    while not done():
        if time.perf_counter() - started > timeout:
            raise TimeoutError(f"not done after {timeout} s")
        time.sleep(0.02)
    return time.perf_counter() - started
