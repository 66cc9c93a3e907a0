"""`manage.py broker_explain METHOD PATH`: which rule, router and destination, and why the others not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError

from broker_django.management.terminal import TellingCommand
from broker_django.operations.explain import Asked, explain
from broker_django.operations.forms import TrialForm

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(TellingCommand):
    help = "Tell what would happen to a request, and why. Nothing is run or queued."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("method", help="such as GET")
        parser.add_argument("path", help="such as /orders/42/?page=2")
        parser.add_argument("-H", "--header", action="append", default=[], help="such as 'X-Tenant: a'; repeatable")
        parser.add_argument("--user", help="the name that the user logs in with")

    def handle(self, *_args: Any, **options: Any) -> None:
        form = TrialForm({**options, "headers": "\n".join(options["header"])})
        if not form.is_valid():
            raise CommandError(" ".join(str(error) for errors in form.errors.values() for error in errors))
        given = form.cleaned_data
        told = explain(given["method"], given["path"], given["headers"], given["user"])
        for asked in (*told.routers, *told.rules):
            self.say(_line(asked))
        if told.shares:
            self.say("  of 1,000 visitors: " + ", ".join(f"{n} to {url}" for url, n in told.shares.items()))
        if told.view:
            self.say(f"view {told.view}" + (f", decorated: {told.decorator}" if told.decorator else ""))
        self.say(told.outcome, self.style.SUCCESS)


def _line(asked: Asked) -> str:
    return f"{asked.name} ({asked.about}): {asked.why_not or 'takes it'}"
