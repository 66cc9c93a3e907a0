"""Delete expired data. Running workers do the same."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from broker_core.errors import StorageError
from broker_django.ledger import ledger


class Command(BaseCommand):
    help = (
        "Delete expired dispatches, responses and files in chunks, including those of queues "
        "that are no longer configured, and files that belong to no dispatch."
    )

    def handle(self, *_args: Any, **_options: Any) -> None:
        deleted = sum(ledger.keep_house(of_former_queues=True))
        self.stdout.write(f"Dispatches deleted: {deleted}.")
        try:
            self.stdout.write(f"Files deleted that belonged to no dispatch: {ledger.sweep()}.")
        except StorageError as error:
            self.stderr.write(str(error))
