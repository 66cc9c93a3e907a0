"""`manage.py broker_explain METHOD PATH`: explain which router or rule decides, and why the others do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError, no_translations

from broker_django.management.terminal import EscapingCommand
from broker_django.operations.explain import Tried, explain
from broker_django.operations.forms import TrialForm

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(EscapingCommand):
    help = "Explain what would happen to a request, and why. Nothing is run or queued."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("method", help="such as GET")
        parser.add_argument("path", help="such as /orders/42/?page=2")
        parser.add_argument("-H", "--header", action="append", default=[], help="such as 'X-Tenant: a'; repeatable")
        parser.add_argument("--user", help="login name of the user")

    @no_translations
    def handle(self, *_args: Any, **options: Any) -> None:
        form = TrialForm({**options, "headers": "\n".join(options["header"])})
        if not form.is_valid():
            raise CommandError(" ".join(str(error) for errors in form.errors.values() for error in errors))
        given = form.cleaned_data
        explanation = explain(given["method"], given["path"], given["headers"], given["user"])
        for tried in (*explanation.routers, *explanation.rules):
            self.say(_line(tried))
        if explanation.shares:
            self.say("  of 1,000 visitors: " + ", ".join(f"{n} to {url}" for url, n in explanation.shares.items()))
        if explanation.view:
            self.say(
                f"view {explanation.view}" + (f", decorated: {explanation.decorator}" if explanation.decorator else "")
            )
        self.say(str(explanation.outcome), self.style.SUCCESS)


def _line(tried: Tried) -> str:
    return f"{tried.name} ({tried.about}): {tried.why_not or 'applies'}"
