"""Start a worker for the broker's queues."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.exceptions import WorkerShutdown
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from broker_django.conf import conf
from broker_django.development.reloading import supervise
from broker_django.messaging.celery_app import get_app
from broker_django.operations.pools import current_plan, is_ordered
from broker_django.shadowing import HINT, describe, shadow_of

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):
    help = "Starts a Celery worker for the broker's queues. With DEBUG it restarts when code changes."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--queues", help="Comma-separated queues to serve; all queues by default.")
        parser.add_argument("--exclude", default="", help="Comma-separated queues to leave to other workers.")
        parser.add_argument(
            "-c",
            "--processes",
            "--concurrency",
            type=int,
            default=os.cpu_count() or 1,
            help="The number of cores by default.",
        )
        parser.add_argument("-P", "--pool", default="prefork", help="prefork (default), threads, solo, gevent.")
        parser.add_argument(
            "-n", "--hostname", help="By default broker@%%h, or broker-QUEUE-QUEUE@%%h for some of the queues."
        )
        parser.add_argument("-l", "--loglevel", default="INFO")
        parser.add_argument(
            "--no-task-events", action="store_true", help="Send no task events. Flower then shows no tasks."
        )
        parser.add_argument("--show", action="store_true", help="Print which process serves which queue, and exit.")
        parser.add_argument("--noreload", action="store_true", help="Do not restart when code changes.")

    def handle(self, *_args: Any, **options: Any) -> None:
        if shadow := shadow_of("workers"):
            raise CommandError(f"{describe('workers', shadow)} {HINT}")
        arguments = self.worker_arguments(options)
        if options["show"]:
            self.stdout.write(self._plan(options))
            return
        if settings.DEBUG and not options["noreload"]:
            sys.exit(supervise([sys.executable, *_own_command(), *sys.argv[2:], "--noreload"]))
        sys.exit(_run(arguments))

    def worker_arguments(self, options: dict[str, Any]) -> list[str]:
        """Returns the arguments of `celery worker`."""
        names = self._chosen(options)
        return [
            "worker",
            f"--queues={','.join(conf.queues[name].celery_queue for name in names)}",
            f"--concurrency={options['processes']}",
            f"--pool={options['pool']}",
            f"--hostname={options['hostname'] or _hostname(names, options)}",
            f"--loglevel={options['loglevel']}",
            *([] if options["no_task_events"] else ["--task-events"]),
        ]

    def _plan(self, options: dict[str, Any]) -> str:
        names = self._chosen(options)
        plan = current_plan(names, options["processes"])
        total = sum(plan.weights.values())
        rows = [("queue", "processes of its own", "reserved", "weight among the shared")]
        for name in names:
            queue = conf.queues[name].celery_queue
            share = f"{plan.weights[queue]:g} ({plan.weights[queue] / total:.0%})" if plan.shared else "-"
            rows.append((name, str(plan.dedicated.get(queue, 0)), str(plan.reserved.get(queue, 0)), share))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines.append(str(plan))
        if not is_ordered() and not plan.dedicated:
            lines.append(
                f"On this message broker, {len(names)} queues need as many processes. Otherwise one can block another."
            )
        return "\n".join(lines)

    def _chosen(self, options: dict[str, Any]) -> list[str]:
        chosen = _names(options["queues"]) if options["queues"] else list(conf.queues)
        excluded = _names(options["exclude"])
        unknown = sorted({*chosen, *excluded} - set(conf.queues))
        if unknown:
            raise CommandError(f"There is no queue {unknown[0]!r}. The queues are {', '.join(conf.queues)}.")
        if options["processes"] < 1:
            raise CommandError("A worker needs at least one process.")
        names = [name for name in chosen if name not in excluded]
        if not names:
            raise CommandError("No queue is left to serve.")
        return names


def _run(arguments: list[str]) -> int:
    """Returns the exit status of the worker, which `worker_main` does not return."""
    app: Any = get_app()
    workers: list[Any] = []

    def remember(instance: Any, **_: Any) -> None:
        workers.append(instance)

    signals.celeryd_init.connect(remember)
    signals.worker_shutdown.connect(_succeed_if_asked)
    app.worker_main(arguments)
    return next((worker.exitcode for worker in workers if worker.exitcode is not None), os.EX_OK)


def _succeed_if_asked(sender: Any, **_: Any) -> None:
    """Celery treats SIGINT as a failure. It raises WorkerShutdown for a signal, and from an error if there is one."""
    reason = sys.exc_info()[1]
    if isinstance(reason, WorkerShutdown) and reason.__cause__ is None:
        sender.exitcode = os.EX_OK


def _hostname(names: list[str], options: dict[str, Any]) -> str:
    """Workers of different queues on one host need different names, or they would receive each other's commands."""
    return f"broker-{'-'.join(names)}@%h" if options["queues"] or options["exclude"] else "broker@%h"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _own_command() -> list[str]:
    """Returns how this process was started, as arguments for the interpreter."""
    script = sys.argv[0]
    launcher = ["-m", "django"] if script.endswith("__main__.py") else [script]
    return [*launcher, "broker_worker"]
