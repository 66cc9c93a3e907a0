"""`manage.py broker_dev`: run a whole installation in one terminal."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from argparse import ArgumentTypeError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.urls import NoReverseMatch, reverse
from django.utils.termcolors import colorize

from broker_django.development import parent_watch
from broker_django.development.embedded import EmbeddedServerError, EmbeddedValkey
from broker_django.development.ports import reserved_port
from broker_django.development.supervisor import Program, Supervisor

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from django.core.management.base import CommandParser, OutputWrapper

    Watched = dict[str, subprocess.Popen[bytes]]

PARTS = ("web", "workers", "flower", "valkey")
COLOURS = {"web": "green", "workers": "cyan", "flower": "magenta"}
WARM_SHUTDOWN_SECONDS = 15.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """The programs to run and their addresses."""

    parts: frozenset[str]
    host: str
    web_port: int
    flower_port: int
    broker_url: str | None

    @property
    def web_url(self) -> str:
        return f"http://{self.visible_host}:{self.web_port}"

    @property
    def flower_url(self) -> str:
        return f"http://127.0.0.1:{self.flower_port}/"

    @property
    def visible_host(self) -> str:
        return "127.0.0.1" if self.host == "0.0.0.0" else self.host  # noqa: S104 - compares, does not bind


class Command(BaseCommand):
    help = (
        "Run the web server, the workers, Flower and an embedded Valkey in one terminal, and stop them together. "
        "For development only. Do not expose it to the internet."
    )
    # Each process runs its own checks, and the web server waits until errors are corrected.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="Address of the web server (127.0.0.1).")
        parser.add_argument("--port", type=int, help="Port of the web server (8000, or the next free one).")
        parser.add_argument("--flower-port", type=int, help="Port of Flower (5555, or the next free one).")
        parser.add_argument("--valkey-port", type=int, help="Port of the embedded Valkey (6379, or the next free one).")
        parser.add_argument(
            "--broker-url",
            default=os.environ.get("CELERY_BROKER_URL"),
            help="Use this message broker instead of an embedded Valkey ($CELERY_BROKER_URL if it is set).",
        )
        parser.add_argument("--app", help="The Celery app for Flower (derived from the settings).")
        parser.add_argument(
            "--asgi", action="store_true", help="Serve ASGI_APPLICATION with uvicorn instead of runserver."
        )
        parser.add_argument("--noreload", action="store_true", help="Do not restart on code changes.")
        parser.add_argument("--migrate", action="store_true", help="Run migrate first.")
        parser.add_argument(
            "--exit-with-parent", action="store_true", help="Stop when the process that started this one ends."
        )
        parser.add_argument(
            "--without",
            action="extend",
            type=_parts,
            default=[],
            metavar="PART,...",
            help=f"Leave out: {', '.join(PARTS)}.",
        )
        for part in PARTS:
            parser.add_argument(
                f"--no-{part}", action="append_const", dest="without", const=part, help=f"The same as --without {part}."
            )

    def handle(self, *_args: str, **options: Any) -> None:
        if options["exit_with_parent"]:
            parent_watch.tie(os.getppid())
        self.terminal = Terminal(self.stdout)
        parts = self._parts(options)
        if options["migrate"]:
            call_command("migrate", verbosity=options["verbosity"])
        with ExitStack() as stack:
            watched: Watched = {}
            broker_url = options["broker_url"]
            if "valkey" in parts:
                server = stack.enter_context(_embedded_valkey(options["valkey_port"]))
                watched = {"valkey": server.process}
                broker_url = server.url
            plan = Plan(
                parts=parts,
                host=options["host"],
                web_port=options["port"] or stack.enter_context(reserved_port(8000, options["host"])),
                flower_port=options["flower_port"] or stack.enter_context(reserved_port(5555)),
                broker_url=broker_url,
            )
            status = asyncio.run(self._run(plan, options, watched))
        if status:
            sys.exit(status)

    def _parts(self, options: dict[str, Any]) -> frozenset[str]:
        parts = set(PARTS) - set(options["without"])
        if options["broker_url"]:
            parts.discard("valkey")
        if "flower" in parts and not find_spec("flower"):
            self.terminal.write(
                "", 'Continuing without Flower. To install it: pip install "django-request-broker[flower]"'
            )
            parts.discard("flower")
        if not parts:
            raise CommandError("There is nothing left to run.")
        return frozenset(parts)

    async def _run(self, plan: Plan, options: dict[str, Any], watched: Watched) -> int:
        supervisor = Supervisor(_programs(plan, options), _environment(plan), self.terminal.write)
        return await supervisor.run(self._announce(plan), watched)

    async def _announce(self, plan: Plan) -> None:
        if "web" in plan.parts:
            await _wait_for_server(plan.visible_host, plan.web_port)
        self.terminal.banner(_banner(plan))


class Terminal:
    """Prints the output of several programs to one stream. Each line starts with the program's name."""

    def __init__(self, stream: OutputWrapper) -> None:
        self._stream = stream
        self._colours = stream.isatty()

    def write(self, name: str, text: str) -> None:
        label = f"{name or 'broker_dev':>10} | "
        self._print(self._paint(label, fg=COLOURS.get(name, "yellow")) + text)

    def banner(self, lines: list[tuple[str, str]]) -> None:
        self._print("")
        for label, text in lines:
            self._print(f"  {label:<12}{self._paint(text, 'bold')}")
        self._print("")

    def _paint(self, text: str, *styles: str, fg: str | None = None) -> str:
        return colorize(text, styles, **({"fg": fg} if fg else {})) if self._colours else text

    def _print(self, line: str) -> None:
        # The terminal may be closed. The programs must still be stopped.
        with suppress(OSError):
            self._stream.write(line)
            self._stream.flush()


def _parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(PARTS):
        raise ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(PARTS)}")
    return names


@contextmanager
def _embedded_valkey(port: int | None) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(getattr(settings, "BASE_DIR", Path.cwd()), port=port)
    try:
        server.start()
    except EmbeddedServerError as error:
        raise CommandError(f"{error} (--broker-url URL uses another message broker)") from error
    try:
        yield server
    finally:
        server.stop()


def _environment(plan: Plan) -> dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    # Lets `python -m celery` and `python -m uvicorn` import the project's modules, as manage.py does.
    places = [str(_manage_directory()), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    if plan.broker_url:
        environment["CELERY_BROKER_URL"] = plan.broker_url
    if "flower" in plan.parts:
        environment.setdefault("FLOWER_URL", plan.flower_url)
    return environment


def _programs(plan: Plan, options: dict[str, Any]) -> list[Program]:
    """Returns the programs in starting order. They are stopped in reverse order."""
    programs = []
    reload = ["--noreload"] if options["noreload"] else []
    if "workers" in plan.parts:
        programs.append(Program("workers", _manage("broker_worker", *reload), grace=WARM_SHUTDOWN_SECONDS))
    if "flower" in plan.parts:
        programs.append(Program("flower", _flower(plan, options["app"] or celery_app())))
    if "web" in plan.parts:
        web = _uvicorn if options["asgi"] else _runserver
        programs.append(Program("web", web(plan, *reload)))
    return programs


def _runserver(plan: Plan, *options: str) -> list[str]:
    return _manage("runserver", f"{plan.host}:{plan.web_port}", *options)


def _uvicorn(plan: Plan, *options: str) -> list[str]:
    if not find_spec("uvicorn"):
        raise CommandError('uvicorn is not installed. Run: pip install "django-request-broker[asgi]"')
    # Otherwise an open event stream would block the shutdown forever.
    arguments = [f"--host={plan.host}", f"--port={plan.web_port}", "--timeout-graceful-shutdown=2"]
    return _module("uvicorn", _asgi_application(), *arguments, *([] if "--noreload" in options else ["--reload"]))


def _asgi_application() -> str:
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path:
        raise CommandError("--asgi needs the setting ASGI_APPLICATION.")
    if settings.DEBUG and apps.is_installed("django.contrib.staticfiles"):
        path = "broker_django.development.static_files.application"
    return ":".join(path.rsplit(".", 1))


def _flower(plan: Plan, app: str) -> list[str]:
    return _module("celery", "-A", app, "flower", "--address=127.0.0.1", f"--port={plan.flower_port}")


def celery_app() -> str:
    """Returns the project's own Celery app, if it has the usual name, or this package's."""
    for module in (settings.ROOT_URLCONF, os.environ.get("DJANGO_SETTINGS_MODULE", "")):
        package, dot, _ = module.partition(".")
        if dot and find_spec(f"{package}.celery"):
            return f"{package}.celery"
    return "workers.celery:app"


def _manage(*arguments: str) -> list[str]:
    script = _manage_script()
    return [sys.executable, str(script), *arguments] if script else _module("django", *arguments)


def _manage_directory() -> Path:
    script = _manage_script()
    return script.parent if script else Path.cwd()


def _manage_script() -> Path | None:
    """Returns the project's manage.py, or None under `django-admin` and `python -m django`."""
    script = Path(sys.argv[0]).resolve()
    return script if script.suffix == ".py" and script.name != "__main__.py" else None


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


async def _wait_for_server(host: str, port: int) -> None:
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return
        await asyncio.sleep(POLL_SECONDS)


def _banner(plan: Plan) -> list[tuple[str, str]]:
    lines = []
    if "web" in plan.parts:
        lines.append(("Site", f"{plan.web_url}/"))
        with suppress(NoReverseMatch):
            lines.append(("Admin", plan.web_url + reverse("admin:index")))
    if "flower" in plan.parts:
        lines.append(("Flower", plan.flower_url))
    if plan.broker_url:
        lines.append(("Terminal 2", f"export CELERY_BROKER_URL={shlex.quote(plan.broker_url)}"))
    return [*lines, ("Stop", "Ctrl-C")]
