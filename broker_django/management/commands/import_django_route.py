"""`manage.py import_django_route`: copy the rows of django-route in this database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, no_translations
from django.db import connections, transaction

from broker_core.routing import condition_of
from broker_django.management.terminal import EscapingCommand
from broker_django.models import Destination, Router
from broker_django.models.database import alias
from broker_django.routing.django_route import UntranslatableError, to_cel

if TYPE_CHECKING:
    from argparse import ArgumentParser

ROUTERS, DESTINATIONS = "django_route_router", "django_route_destination"


class Command(EscapingCommand):
    help = (
        "Copies django-route's routers and destinations and translates their conditions to CEL. A router whose "
        "condition has no equivalent is inactive and keeps it. Routers with an existing code are skipped."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--database", help="the database alias of django-route's tables; the broker's by default")
        parser.add_argument("--dry-run", action="store_true", help="print what would be done, and change nothing")

    @no_translations
    def handle(self, *_args: Any, database: str | None, dry_run: bool, **_options: Any) -> None:
        database = database or alias()
        present = connections[database].introspection.table_names()
        if not {ROUTERS, DESTINATIONS} <= set(present):
            raise CommandError(f"The database {database!r} has no django-route tables.")
        existing = set(Router.objects.using(alias()).values_list("code", flat=True))
        destinations: dict[int, list[dict[str, Any]]] = {}
        for row in _rows(database, DESTINATIONS):
            destinations.setdefault(row["router_id"], []).append(row)
        with transaction.atomic(using=alias()):
            for row in _rows(database, ROUTERS):
                if row["code"] in existing:
                    self.say(f"{row['code']}: exists already, skipped")
                else:
                    self._import(row, destinations.get(row["id"], []))
            transaction.set_rollback(dry_run, using=alias())

    def _import(self, row: dict[str, Any], targets: list[dict[str, Any]]) -> None:
        condition, reason = _translated(row["condition"])
        router = Router(
            code=row["code"],
            source=row["source"],
            rank=row["rank"],
            action=row["action"],
            condition=condition,
            description=row.get("description") or "",
            is_active=bool(row["is_active"]) and not reason,
        )
        reason = reason or _validation_errors(router)
        router.is_active = router.is_active and not reason
        router.save(using=alias())
        Destination.objects.using(alias()).bulk_create(
            Destination(
                router=router,
                weight=each["weight"],
                url=each["url"],
                carry_params=bool(each["carry_params"]),
                append_params=each["append_params"],
                is_active=bool(each["is_active"]),
            )
            for each in targets
        )
        if reason:
            self.say(f"{router.code}: inactive, {reason}", self.style.WARNING)
        else:
            self.say(f"{router.code}: {len(targets)} destinations, condition {condition}")


def _rows(database: str, table: str) -> list[dict[str, Any]]:
    connection = connections[database]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)} ORDER BY id")  # noqa: S608 - only our own names
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _translated(text: str) -> tuple[str, str]:
    """Returns the condition in CEL and an empty text; or the original condition and the reason."""
    if text.strip() in {'"*"', "'*'", "True"}:
        return '"*"', ""
    try:
        translated = to_cel(text)
        condition_of(translated)
    except UntranslatableError as error:
        return text, f"its condition is unchanged: {error}"
    return translated, ""


def _validation_errors(router: Router) -> str:
    try:
        router.full_clean(validate_unique=False)
    except ValidationError as error:
        return "; ".join(f"{field}: {' '.join(texts)}" for field, texts in error.message_dict.items())
    return ""
