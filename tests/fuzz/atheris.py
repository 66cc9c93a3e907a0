"""Coverage-guided fuzzing of what parses input: `python -m tests.fuzz.atheris --runs 100000`.

Each target runs in a process of its own, because libFuzzer ends the process that it runs in. The exit status is not 0
if a target raised an error that it does not declare; the input is then in `--artifacts`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import atheris
import django
from django.utils import timezone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

with atheris.instrument_imports(include=["broker_core", "broker_django"]):
    django.setup()
    from broker_core.conditions import Condition, Conditions, Evaluation
    from broker_core.envelope import Keyring, context
    from broker_core.errors import DispatchNotFoundError, EnvelopeError, MessageError, TokenExpiredError
    from broker_core.http.preferences import parse_preferences
    from broker_core.message import RequestMessage, ResponseMessage
    from broker_django.ledger import tokens
    from broker_django.messaging.sealing import from_text, to_text

from tests.fuzz.test_headers import CONDITIONS
from tests.fuzz.test_messages import REQUEST, RESPONSE

KEYRING = Keyring(["the key", "an older key"])
HERE = context("request", "id", "payment")
SEALED = [KEYRING.seal(message.encode(), HERE) for message in (REQUEST, RESPONSE)]
ASKED = [Condition(text) for text in CONDITIONS]
FIELDS = ["prefer", "x-forwarded-for", "x-forwarded-port", "idempotency-key"]


def open_envelope(data: bytes) -> None:
    try:
        opened = KEYRING.open(data, HERE)
    except EnvelopeError:
        return
    if data not in SEALED:
        raise AssertionError(f"opened as {opened!r}")


def open_text(data: bytes) -> None:
    try:
        open_envelope(from_text(data.decode("utf-8", "surrogateescape")))
    except EnvelopeError:
        return


def decode_request(data: bytes) -> None:
    _decode(RequestMessage, data)


def decode_response(data: bytes) -> None:
    _decode(ResponseMessage, data)


def _decode(kind: type[RequestMessage | ResponseMessage], data: bytes) -> None:
    try:
        message = kind.decode(data)
    except MessageError:
        return
    if kind.decode(message.encode()) != message:
        raise AssertionError(f"{message!r} does not survive")


def read_token(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        read = tokens.read(text)
    except (DispatchNotFoundError, TokenExpiredError):
        return
    raise AssertionError(f"{text!r} was read as {read!r}")


def prefer(data: bytes) -> None:
    preferences = parse_preferences(data.decode("latin-1"))
    if preferences.wait is not None and not 0 <= preferences.wait < 1_000_000_000:
        raise AssertionError(f"{preferences!r}")


def conditions(data: bytes) -> None:
    """What a client sends, as the values that conditions read."""
    provider = atheris.FuzzedDataProvider(data)

    def text() -> str:
        return str(provider.ConsumeUnicode(provider.ConsumeIntInRange(0, 40)))

    values = {
        "request.headers": {name: text() for name in FIELDS},
        "request.cookies": {"sessionid": text()},
        "request.query": {"wait": text()},
        "request.content_type": text(),
        "request.size": provider.ConsumeIntInRange(0, 10**18),
        "request.full_path": text(),
        "request.host": text(),
        "request.remote_addr": text(),
        "now": timezone.now(),
    }
    answers = Evaluation(Conditions(ASKED), lambda names: {name: values[name] for name in names})
    for condition in ASKED:
        answers.why_not(condition)


@dataclass(frozen=True, slots=True)
class Target:
    """A function to fuzz, and its first inputs."""

    function: Callable[[bytes], None]
    seeds: Sequence[bytes]


TARGETS = {
    "envelopes": Target(open_envelope, SEALED),
    "envelope-texts": Target(open_text, [to_text(sealed).encode() for sealed in SEALED]),
    "requests": Target(decode_request, [REQUEST.encode()]),
    "responses": Target(decode_response, [RESPONSE.encode()]),
    "tokens": Target(read_token, [b"18a02573e8dc4dd898bb0a3ca95fb0c1.18a025.AAAAAAAAAAAAAAAA"]),
    "preferences": Target(prefer, [b'respond-async, wait=5; a="b,c"', b'wait="10", handling=lenient']),
    "conditions": Target(conditions, [b"respond-async 10.0.0.1 80 2030-01-01T00:00:00Z 1h30m" * 8]),
}


def fuzz(target: Target, runs: int, artifacts: Path, corpus: Path) -> NoReturn:
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    limits = [f"-runs={runs}", "-max_len=2048", "-timeout=20"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={artifacts}/", str(corpus)], target.function)
    atheris.Fuzz()
    raise AssertionError("libFuzzer ends the process")


def main() -> int:
    parser = argparse.ArgumentParser(description="Coverage-guided fuzzing of what parses input.")
    parser.add_argument("--runs", type=int, default=100_000, help="for each target")
    parser.add_argument("--artifacts", type=Path, default=Path.cwd(), help="the directory for inputs that failed")
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    parser.add_argument("--corpus", type=Path, help="run in this process, on the inputs in this directory")
    options = parser.parse_args()
    if options.target and options.corpus:
        fuzz(TARGETS[options.target], options.runs, options.artifacts, options.corpus)
    names = [options.target] if options.target else list(TARGETS)
    return sum(not passes(name, options.runs, options.artifacts) for name in names)


def passes(name: str, runs: int, artifacts: Path) -> bool:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as corpus:
        command = [sys.executable, "-m", "tests.fuzz.atheris", "--target", name, "--corpus", corpus]
        command += ["--runs", str(runs), "--artifacts", str(artifacts.absolute())]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    word = "failed" if done.returncode else "passed"
    print(f"{name}: {word}, {runs} runs in {time.monotonic() - started:.0f} s", flush=True)
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
