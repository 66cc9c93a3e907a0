"""Sealed requests that are too large for a message: files in a Django storage, which contain only ciphertext."""

from __future__ import annotations

import hashlib
import logging
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import connections

from broker_core.envelope import key_id
from broker_core.errors import StorageError, StoredRequestError
from broker_core.redaction import printable, redacted
from broker_django.conf import conf
from broker_django.models import DispatchRecord, database

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from django.core.files.storage import Storage

    from broker_core.dispatches import SealedRequest

logger = logging.getLogger("broker_django.ledger.bodies")

DIRECTORY = "request_broker"
HEAD = 64
"""The number of bytes to read for the id of the key."""


def _storage() -> Storage:
    return storages[conf.STORAGE]


def directory() -> str:
    """Returns the directory in the storage, which other projects may share. Some storages forbid colons in names."""
    return conf.prefix.replace(":", "/") + DIRECTORY


def _ledger_suffix() -> str:
    """Returns the suffix of file names. It identifies the ledger by the settings of its database."""
    settings = connections[database.alias()].settings_dict
    identity = [settings[name] for name in ("ENGINE", "HOST", "PORT", "NAME")]
    identity += [settings["OPTIONS"].get(name, "") for name in ("service", "read_default_file")]
    return "." + hashlib.sha256(repr([conf.prefix, *map(str, identity)]).encode()).hexdigest()[:12]


def set_aside(request: SealedRequest) -> SealedRequest:
    """Returns the request with its content in a file, if it is too large for a message. Raises StorageError."""
    if len(request.content) <= conf.MAX_INLINE_SIZE:
        return request
    return replace(request, content=b"", file=save(request.dispatch.id, request.content))


def save(dispatch_id: uuid.UUID, sealed: bytes) -> str:
    """Returns the name of the file in the storage. Raises StorageError."""
    longest = DispatchRecord._meta.get_field("sealed_file").max_length
    name = f"{directory()}/{dispatch_id}{_ledger_suffix()}"
    try:
        return _storage().save(name, ContentFile(sealed), max_length=longest)
    except Exception as error:
        delete([name])  # a full storage may have stored a part of it
        raise StorageError(f"the storage cannot store the request: {type(error).__name__}") from error


def read(name: str) -> bytes:
    """Raises StoredRequestError if there is no such file, and StorageError if the storage does not answer."""
    try:
        with _storage().open(name) as file:
            sealed: bytes = file.read()
            return sealed
    except Exception as error:
        if _is_missing(name, error):
            raise StoredRequestError("the stored request body is missing") from error
        raise StorageError(f"the stored request body cannot be read: {type(error).__name__}") from error


def _is_missing(name: str, error: Exception) -> bool:
    """Storages report a missing file in different ways."""
    if isinstance(error, FileNotFoundError):
        return True
    try:
        return not _storage().exists(name)
    except Exception:  # noqa: BLE001 - every storage has errors of its own
        return False


def is_ours(name: str) -> bool:
    """Whether a file was sealed with a key of this installation. Raises StorageError."""
    try:
        with _storage().open(name) as file:
            head = file.read(HEAD)
    except Exception as error:
        if _is_missing(name, error):
            return False
        raise StorageError(f"the stored request body cannot be read: {type(error).__name__}") from error
    return key_id(head) in conf.keyring.key_ids


def delete(names: Collection[str]) -> None:
    """If the storage fails, the files stay until the ledger's `sweep` deletes them."""
    for name in names:
        try:
            _storage().delete(name)
        except Exception as error:  # noqa: BLE001 - every storage has errors of its own
            logger.warning("The file %s was not deleted: %s", printable(name), redacted(error))


def older_than(moment: datetime) -> dict[str, uuid.UUID]:
    """Returns the files of this ledger that were written before `moment`, each with the id of its dispatch.

    Raises StorageError if the storage does not answer, and NotImplementedError if it cannot list its files.
    """
    storage = _storage()
    try:
        folder, suffix = directory(), _ledger_suffix()
        names = (name for name in storage.listdir(folder)[1] if name.endswith(suffix))
        named = {f"{folder}/{name}": _dispatch_id(name) for name in names}
        return {name: key for name, key in named.items() if key and storage.get_modified_time(name) < moment}
    except FileNotFoundError:
        return {}
    except NotImplementedError:
        raise
    except Exception as error:
        raise StorageError(f"the storage cannot be listed: {type(error).__name__}") from error


def _dispatch_id(name: str) -> uuid.UUID | None:
    """Returns the id from the name of a file. The storage may have added characters to it."""
    try:
        return uuid.UUID(name[:36])
    except ValueError:
        return None
