"""A database whose connections know a tenant, as those of django-tenants do."""

from __future__ import annotations

from django.db.backends.sqlite3 import base


class DatabaseWrapper(base.DatabaseWrapper):
    schema_name = "public"

    def set_schema(self, name: str) -> None:
        self.schema_name = name

    def set_schema_to_public(self) -> None:
        self.set_schema("public")
