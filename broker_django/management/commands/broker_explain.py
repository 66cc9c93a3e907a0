"""`manage.py broker_explain METHOD PATH`: which rule, router and destination, and why the others not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from broker_django.explanation import Asked, explain

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):
    help = "Tell what would happen to a request, and why. Nothing is run or queued."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("method", help="such as GET")
        parser.add_argument("path", help="such as /orders/42/?page=2")
        parser.add_argument("-H", "--header", action="append", default=[], help="such as 'X-Tenant: a'; repeatable")
        parser.add_argument("--user", help="the name that the user logs in with")

    def handle(self, *_args: Any, **options: Any) -> None:
        path = options["path"]
        if not path.startswith("/"):
            raise CommandError("A path begins with a slash.")
        told = explain(options["method"], path, dict(map(_header, options["header"])), _user(options["user"]))
        for asked in (*told.routers, *told.rules):
            self.stdout.write(_line(asked))
        if told.shares:
            self.stdout.write("  of 1,000 visitors: " + ", ".join(f"{n} to {url}" for url, n in told.shares.items()))
        if told.view:
            self.stdout.write(f"view {told.view}" + (f", decorated: {told.decorator}" if told.decorator else ""))
        self.stdout.write(self.style.SUCCESS(told.outcome))


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition(":")
    if not separator:
        raise CommandError(f"A header field is written 'Name: value', not {text!r}.")
    return name.strip(), value.strip()


def _user(name: str | None) -> Any:
    if name is None:
        return None
    model = get_user_model()
    try:
        return model._default_manager.get_by_natural_key(name)
    except model.DoesNotExist as error:
        raise CommandError(f"There is no user {name!r}.") from error


def _line(asked: Asked) -> str:
    return f"{asked.name} ({asked.about}): {asked.why_not or 'takes it'}"
