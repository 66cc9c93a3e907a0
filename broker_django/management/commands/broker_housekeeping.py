"""Delete what is kept no longer. Workers do it too, unless none runs."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from broker_core.errors import StorageError
from broker_django.ledger import ledger
from broker_django.ledger.retention import sweep


class Command(BaseCommand):
    help = (
        "Delete dispatches, responses and files that are not kept any more, a chunk at a time; also those of queues "
        "that are not configured any more, and files that no dispatch has."
    )

    def handle(self, *_args: Any, **_options: Any) -> None:
        deleted = sum(ledger.keep_house(of_former_queues=True))
        self.stdout.write(f"Dispatches deleted: {deleted}.")
        try:
            self.stdout.write(f"Files deleted that no dispatch had: {sweep()}.")
        except StorageError as error:
            self.stderr.write(str(error))
