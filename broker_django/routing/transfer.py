"""Routers as JSON in the shape of `dumpdata`, to take them from one site to another."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.core import serializers
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.utils.translation import gettext as _

from broker_django.models import Destination, Router, database

if TYPE_CHECKING:
    from collections.abc import Iterable

MODELS = {model._meta.label_lower: model for model in (Router, Destination)}


def _fields(model: type[Router | Destination]) -> frozenset[str]:
    return frozenset(column.name for column in model._meta.concrete_fields if not column.primary_key)


FIELDS = {model: _fields(model) for model in MODELS.values()}


@dataclass(slots=True)
class TakenIn:
    """The routers that were made, and those that were there already."""

    created: list[Router] = field(default_factory=list)
    changed: list[Router] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Entry:
    number: int
    model: type[Router | Destination]
    fields: dict[str, Any]


def export(routers: Iterable[Router]) -> str:
    """The routers with their destinations. They go by their codes: keys of rows mean nothing elsewhere."""
    rows = list(routers)
    destinations = Destination.objects.filter(router__in=rows).select_related("router").order_by("pk")
    text: str = serializers.serialize(
        "json", [*rows, *destinations], indent=1, use_natural_foreign_keys=True, use_natural_primary_keys=True
    )
    return text


def take_in(text: str) -> TakenIn:
    """Make these routers as the text has them, by their codes.

    A router gets the destinations of the text and loses others, so there is none without its router; routers that the
    text does not have stay. All is checked as when it is saved in the admin, and all or nothing is done. Raises
    ValidationError.
    """
    entries = _entries(text)
    taken = TakenIn()
    with transaction.atomic(using=database.alias()):
        codes = [entry.fields["code"] for entry in entries if entry.model is Router]
        there = {row.code: row for row in Router.objects.filter(code__in=codes)}
        spare = list(Destination.objects.filter(router__in=there.values()).order_by("pk"))
        # Until each is as it should be, what is unique among active rows must not stand in the way of another.
        Router.objects.filter(code__in=codes).update(is_active=False)
        Destination.objects.filter(router__code__in=codes).update(is_active=False)
        rows: dict[str, Router] = {}
        for entry in entries:
            if entry.model is Router:
                row = rows[entry.fields["code"]] = _router(entry, there)
                (taken.changed if row.code in there else taken.created).append(row)
            else:
                _destination(entry, rows, spare)
        Destination.objects.filter(pk__in=[row.pk for row in spare]).delete()
    return taken


def _router(entry: _Entry, there: dict[str, Router]) -> Router:
    row = Router(**entry.fields)
    _save(entry, row, there.get(row.code))
    return row


def _destination(entry: _Entry, rows: dict[str, Router], spare: list[Destination]) -> None:
    """Saved in place of a spare one that leads there too: a visitor stays where the destination is the same."""
    code = entry.fields.pop("router")
    if code not in rows:
        raise _refused(entry, _("its router is not in the text"))
    row = Destination(router=rows[code], **entry.fields)
    alike = [
        each
        for each in spare
        if (each.router_id, each.url, each.append_params) == (row.router_id, row.url, row.append_params)
    ]
    same = min(alike, key=lambda each: (each.is_active != row.is_active, each.pk), default=None)
    if same is not None:
        spare.remove(same)
    _save(entry, row, same)


def _save(entry: _Entry, row: Router | Destination, same: Router | Destination | None) -> None:
    if same is not None:
        row.pk, row._state.adding = same.pk, False
    try:
        row.full_clean()
    except ValidationError as error:
        told = [f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items()]
        raise ValidationError([_refused(entry, f"{row}: {text}") for text in told]) from error
    row.save()


def _refused(entry: _Entry, text: str) -> ValidationError:
    return ValidationError(_("Entry %(number)d, %(text)s") % {"number": entry.number, "text": text})


def _entries(text: str) -> list[_Entry]:
    """The routers and then the destinations, each with the code of its router."""
    try:
        given = json.loads(text)
        codes = {each.get("pk"): each["fields"]["code"] for each in given if _model(each) is Router}
        entries = [_entry(number, each, codes) for number, each in enumerate(given, 1)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValidationError(_("This is no JSON of routers, as `dumpdata` writes it: %s") % error) from error
    return sorted(entries, key=lambda entry: entry.model is Destination)


def _entry(number: int, given: dict[str, Any], codes: dict[Any, str]) -> _Entry:
    model, fields = _model(given), dict(given["fields"])
    unknown = sorted(fields.keys() - FIELDS[model])
    if unknown:
        raise ValueError(f"entry {number} has the unknown field {unknown[0]!r}")
    if model is Destination:
        named = fields["router"]
        fields["router"] = named[0] if isinstance(named, list) and named else codes.get(named)
        if not isinstance(fields["router"], str | None):
            raise ValueError(f"the router of entry {number} is no code")
    elif not isinstance(fields["code"], str):
        raise ValueError(f"the code of entry {number} is no text")
    for name, value in fields.items():
        if name != "router" and not _fits(model._meta.get_field(name), value):
            raise ValueError(f"entry {number} has another kind of value for {name!r}")
    return _Entry(number, model, fields)


def _fits(field: Any, value: Any) -> bool:
    """Whether the value is of a kind that the column could take, a text or its own. What it says is looked at later."""
    if isinstance(value, str):
        return "\0" not in value and not _SURROGATE.search(value)
    if isinstance(field, models.CharField | models.TextField):
        return False
    return isinstance(value, bool) if isinstance(field, models.BooleanField) else type(value) is int


_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character, which JSON can write and no database takes."""


def _model(entry: dict[str, Any]) -> type[Router | Destination]:
    model = MODELS.get(str(entry["model"]).lower())
    if model is None:
        raise ValueError(f"{entry['model']!r} is neither a router nor a destination")
    return model
