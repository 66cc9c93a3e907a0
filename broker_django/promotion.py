"""Routers as JSON in the shape of `dumpdata`, to take them from one site to another."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from django.core import serializers
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.core.serializers.base import DeserializationError
from django.db import router, transaction
from django.utils.translation import gettext as _

from broker_django.models import Destination, Router

if TYPE_CHECKING:
    from collections.abc import Iterable

MODELS = {model._meta.label_lower: model for model in (Router, Destination)}


def export(routers: Iterable[Router]) -> str:
    """The routers with their destinations. They go by their codes: keys of rows mean nothing elsewhere."""
    rows = list(routers)
    destinations = Destination.objects.filter(router__in=rows).select_related("router").order_by("pk")
    text: str = serializers.serialize(
        "json", [*rows, *destinations], indent=1, use_natural_foreign_keys=True, use_natural_primary_keys=True
    )
    return text


def take_in(text: str) -> Counter[str]:
    """Make these routers as the text has them, by their codes: how many were `created` and `changed`.

    A router gets the destinations of the text and loses others; routers that the text does not have stay. All is
    checked as when it is saved in the admin, and all or nothing is done. Raises ValidationError.
    """
    entries = _entries(text)
    counts: Counter[str] = Counter()
    kept: dict[Any, set[Any]] = {}
    with transaction.atomic(using=router.db_for_write(Router)):
        _deactivate([entry["fields"].get("code") for entry in entries])
        for number, entry in enumerate(entries, 1):
            row = _read(entry, number)
            row._state.adding = row.pk is None
            created = row._state.adding
            _check(row, number)
            row.save()
            if isinstance(row, Router):
                counts["created" if created else "changed"] += 1
                kept.setdefault(row.pk, set())
            else:
                kept.setdefault(row.router_id, set()).add(row.pk)
        for pk, destinations in kept.items():
            Destination.objects.filter(router=pk).exclude(pk__in=destinations).delete()
    return counts


def _entries(text: str) -> list[dict[str, Any]]:
    """The routers and then the destinations, each without its key, and with the code of a router for its key."""
    try:
        given = json.loads(text)
        codes = {entry.get("pk"): entry["fields"]["code"] for entry in given if _model(entry) is Router}
        entries = [{"model": entry["model"], "fields": dict(entry["fields"])} for entry in given]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValidationError(_("This is no JSON of routers, as `dumpdata` writes it: %s") % error) from error
    for entry in entries:
        fields = entry["fields"]
        if "router" in fields and not isinstance(fields["router"], list):
            fields["router"] = [codes.get(fields["router"])]
    return sorted(entries, key=lambda entry: _model(entry) is Destination)


def _deactivate(codes: Iterable[Any]) -> None:
    """Until each is as it should be, what is unique among active rows must not stand in the way of another."""
    known = [code for code in codes if isinstance(code, str)]
    Destination.objects.filter(router__code__in=known).update(is_active=False)
    Router.objects.filter(code__in=known).update(is_active=False)


def _model(entry: dict[str, Any]) -> type[Router | Destination]:
    model = MODELS.get(str(entry["model"]).lower())
    if model is None:
        raise ValueError(f"{entry['model']} is neither a router nor a destination")
    return model


def _read(entry: dict[str, Any], number: int) -> Router | Destination:
    try:
        [read] = serializers.deserialize("python", [entry])
    except (DeserializationError, FieldDoesNotExist, ValidationError, TypeError, ValueError) as error:
        raise ValidationError(_("Entry %(number)d: %(error)s") % {"number": number, "error": error}) from error
    row: Any = read.object
    return cast("Router | Destination", row)


def _check(row: Router | Destination, number: int) -> None:
    try:
        row.full_clean()
    except ValidationError as error:
        told = [f"{field}: {' '.join(texts)}" for field, texts in error.message_dict.items()]
        where = _("Entry %(number)d, %(row)s") % {"number": number, "row": row}
        raise ValidationError([f"{where}: {text}" for text in told]) from error
