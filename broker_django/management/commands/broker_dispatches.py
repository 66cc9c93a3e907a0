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

from broker_core.dispatches import Selection, State
from broker_django.conf import conf
from broker_django.ledger import ledger
from broker_django.management.terminal import EscapingCommand

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterable

    from broker_core.dispatches import DeadLetters, Dispatch

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
        raise CommandError(
            f"{text!r} is not a whole dispatch id. An id has 36 characters, as list prints it."
        ) from error


class Command(EscapingCommand):
    help = (
        "list: list dispatches, or with --groups dead letters grouped by error. "
        "retry: run dead letters (failed or expired dispatches) again under the same ids. "
        "discard: delete the requests of dead letters, so that they can never run again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=("list", "retry", "discard"))
        parser.add_argument("ids", nargs="*", metavar="ID", help="only these dispatches")
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
        options["ids"] = [_id(str(text)) for text in options["ids"]]
        if options["queue"] and options["queue"] not in conf.queues:
            self.stderr.write(f"The queue {options['queue']!r} is not configured.")
        if options["action"] != "list":
            self._act(options)
        elif options["groups"]:
            self._groups(ledger.dead_letters_by_error(_selection(options)))
        else:
            self._list(ledger.select(_selection(options), options["limit"]))

    def _list(self, dispatches: Iterable[Dispatch]) -> None:
        for each in dispatches:
            answered = f" {each.response_status}" if each.response_status else ""
            self.say(
                f"{each.id}  {each.accepted_at:%Y-%m-%d %H:%M:%S}  {each.state:9}  {each.queue}  "
                f"{each.method} {each.path}{answered}  attempts {each.attempts}  {each.error}".rstrip()
            )

    def _groups(self, groups: Iterable[DeadLetters]) -> None:
        for group in groups:
            self.say(
                f"{group.count:7}  {group.queue}  {group.state}  "
                f"{group.first:%Y-%m-%d %H:%M} to {group.last:%Y-%m-%d %H:%M}  {group.error or '(no error)'}"
            )

    def _act(self, options: dict[str, Any]) -> None:
        chosen = ("ids", "queue", "state", "route", "error", "older_than", "newer_than", "all")
        if not any(options[name] for name in chosen):
            raise CommandError("Choose dead letters: ids, a filter such as --queue or --error, or --all.")
        selection = _selection(options)
        if options["dry_run"]:
            self.say(f"Dead letters that match: {ledger.count_dead_letters(selection)}.")
            return
        actor = options["actor"] or f"{_user()}@{socket.gethostname()}"
        act = ledger.revive if options["action"] == "retry" else ledger.discard
        count, others = 0, dict.fromkeys(options["ids"])
        for dispatch_id in ledger.dead_letters(selection):
            if act(dispatch_id, actor):
                count += 1
                others.pop(dispatch_id, None)
        if options["action"] == "retry":
            self.say(f"{count} dispatch{'es run' if count != 1 else ' runs'} again.")
        else:
            self.say(f"{count} dead letter{'s are' if count != 1 else ' is'} discarded.")
        if others:
            raise CommandError(f"Left alone, because they are not dead letters: {', '.join(map(str, others))}")


def _selection(options: dict[str, Any]) -> Selection:
    now = timezone.now()
    return Selection(
        ids=options["ids"],
        queue=options["queue"],
        state=options["state"],
        route=options["route"],
        error=options["error"],
        accepted_before=now - options["older_than"] if options["older_than"] else None,
        accepted_since=now - options["newer_than"] if options["newer_than"] else None,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, the user id may have no name
        return "somebody"
