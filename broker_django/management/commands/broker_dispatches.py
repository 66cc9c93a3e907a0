"""List dispatches, and retry or discard dead letters."""

from __future__ import annotations

import getpass
import socket
import uuid
from argparse import ArgumentTypeError
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError
from django.utils import timezone

from broker_core.dispatches import State
from broker_django import ledger
from broker_django.conf import conf
from broker_django.ledger import dead_letters
from broker_django.management.terminal import EscapingCommand

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from django.db.models import QuerySet

    from broker_django.models import DispatchRecord

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _duration(text: str) -> timedelta:
    """Parses `30m`, `12h` or `7d`; seconds if there is no unit."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    if not number.isdigit():
        raise ArgumentTypeError(f"{text!r} is not a duration such as 90s, 30m, 12h or 7d")
    return timedelta(seconds=int(number) * UNITS[unit])


def _id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not a dispatch id") from error


class Command(EscapingCommand):
    help = (
        "list: list dispatches, or with --groups dead letters grouped by error. "
        "retry: run dead letters (failed or expired dispatches) again under the same ids. "
        "discard: delete the requests of dead letters, so that they can never run again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=("list", "retry", "discard"))
        parser.add_argument("ids", nargs="*", type=_id, metavar="ID", help="only these dispatches")
        parser.add_argument("--queue", help="only this queue")
        parser.add_argument("--state", choices=[state.value for state in State], help="only this state")
        parser.add_argument("--route", help="only this route, such as /orders/<int:pk>/")
        parser.add_argument("--error", help="only errors that contain this text")
        parser.add_argument("--older-than", type=_duration, metavar="TIME", help="accepted before: 90s, 30m, 12h, 7d")
        parser.add_argument("--newer-than", type=_duration, metavar="TIME", help="accepted since")
        parser.add_argument("--all", action="store_true", help="retry or discard all dead letters")
        parser.add_argument("--groups", action="store_true", help="list dead letters by queue and error, with counts")
        parser.add_argument("--limit", type=int, default=50, help="list at most this many, 50 by default")
        parser.add_argument(
            "--dry-run", action="store_true", help="print how many dispatches match, and change nothing"
        )
        parser.add_argument("--actor", help="the actor to record; your user name by default")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["queue"] and options["queue"] not in conf.queues:
            self.stderr.write(f"The queue {options['queue']!r} is not configured.")
        if options["action"] != "list":
            self._act(options)
        elif options["groups"]:
            self._groups(_matching(dead_letters.dead_letters(), options))
        else:
            rows = _matching(ledger.rows().defer("sealed", "kept_response"), options)
            self._list(rows.order_by("-accepted_at")[: options["limit"]])

    def _list(self, rows: QuerySet[DispatchRecord]) -> None:
        for row in rows:
            answered = f" {row.response_status}" if row.response_status else ""
            self.say(
                f"{row.pk}  {row.accepted_at:%Y-%m-%d %H:%M:%S}  {row.state:9}  {row.queue}  "
                f"{row.method} {row.path}{answered}  attempts {row.attempts}  {row.error}".rstrip()
            )

    def _groups(self, letters: QuerySet[DispatchRecord]) -> None:
        for group in dead_letters.by_error(letters):
            self.say(
                f"{group['count']:7}  {group['queue']}  {group['state']}  "
                f"{group['first']:%Y-%m-%d %H:%M} to {group['last']:%Y-%m-%d %H:%M}  {group['error'] or '(no error)'}"
            )

    def _act(self, options: dict[str, Any]) -> None:
        chosen = ("ids", "queue", "state", "route", "error", "older_than", "newer_than", "all")
        if not any(options[name] for name in chosen):
            raise CommandError("Choose dead letters: ids, a filter such as --queue or --error, or --all.")
        letters = _matching(dead_letters.dead_letters(), options)
        if options["dry_run"]:
            self.say(f"Dead letters that match: {letters.count()}.")
            return
        actor = options["actor"] or f"{_user()}@{socket.gethostname()}"
        if options["action"] == "retry":
            count = dead_letters.run_again(letters, actor)
            self.say(f"{count} dispatch{'es run' if count != 1 else ' runs'} again.")
        else:
            count = dead_letters.discard(letters, actor)
            self.say(f"{count} dead letter{'s are' if count != 1 else ' is'} discarded.")
        if count < len(set(options["ids"])):
            raise CommandError(f"{len(set(options['ids'])) - count} of these ids are not dead letters.")


def _matching(rows: QuerySet[DispatchRecord], options: dict[str, Any]) -> QuerySet[DispatchRecord]:
    now = timezone.now()
    conditions = {
        "pk__in": options["ids"],
        "queue": options["queue"],
        "state": options["state"],
        "route": options["route"],
        "error__icontains": options["error"],
        "accepted_at__lt": options["older_than"] and now - options["older_than"],
        "accepted_at__gte": options["newer_than"] and now - options["newer_than"],
    }
    return rows.filter(**{name: value for name, value in conditions.items() if value})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, the user id may have no name
        return "somebody"
