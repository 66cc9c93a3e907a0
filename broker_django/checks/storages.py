"""Checks of the storage for large requests."""

from __future__ import annotations

import contextlib
from typing import Any

from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning
from django.core.files.storage import FileSystemStorage, InvalidStorageError, storages

from broker_django.conf import conf


@register("request_broker")
def check_storage(**_: Any) -> list[CheckMessage]:
    try:
        storages[conf.STORAGE]
    except InvalidStorageError as error:
        text = f"REQUEST_BROKER['STORAGE'] cannot be used: {error}"
        hint = "Name an alias in STORAGES. Large requests are stored there."
        return [Error(text, hint=hint, id="request_broker.E011")]
    return []


@register("request_broker", deploy=True)
def check_shared_storage(**_: Any) -> list[CheckMessage]:
    with contextlib.suppress(InvalidStorageError):
        storage = storages[conf.STORAGE]
        if isinstance(storage, FileSystemStorage) and not storage.base_location:
            return [
                CheckWarning(
                    "Large requests are stored in whatever directory a process was started in.",
                    hint="Set MEDIA_ROOT, or name one of STORAGES as REQUEST_BROKER['STORAGE'], to a place that web "
                    "processes and workers share.",
                    id="request_broker.W007",
                )
            ]
    return []
