from typing import Any

from django.db import migrations, models


SEARCHED = {"path", "route", "error", "description"}


def default_of(field: Any, schema_editor: Any) -> str:
    """Returns the DEFAULT clause, because MODIFY drops a default that is not repeated."""
    return f" DEFAULT {schema_editor.quote_value(field.db_default)}" if field.has_db_default() else ""


def set_collations(apps: Any, schema_editor: Any) -> None:
    """Make MySQL distinguish `Bulk` from `bulk`, and store emoji.

    Searched columns still ignore case. The primary key is unchanged, because the project's foreign keys may refer to it.
    """
    if schema_editor.connection.vendor != "mysql":
        return
    quote = schema_editor.quote_name
    for name in ("DispatchRecord", "AttemptRecord", "ActionRecord", "Router", "Destination"):
        options = apps.get_model("broker_django", name)._meta
        changes = ", ".join(
            f"MODIFY {quote(field.column)} {field.db_type(schema_editor.connection)} "
            f"CHARACTER SET utf8mb4 COLLATE {'utf8mb4_general_ci' if field.name in SEARCHED else 'utf8mb4_bin'} "
            f"{'NULL' if field.null else 'NOT NULL'}{default_of(field, schema_editor)}"
            for field in options.local_fields
            if isinstance(field, (models.CharField, models.TextField))
        )
        schema_editor.execute(f"ALTER TABLE {quote(options.db_table)} {changes}")


class Migration(migrations.Migration):

    dependencies = [
        ('broker_django', '0004_seals'),
    ]

    operations = [
        migrations.RunPython(set_collations, migrations.RunPython.noop, atomic=False),
        migrations.AddField(
            model_name='routingversion',
            name='kept_by_triggers',
            field=models.BooleanField(db_default=False, default=False, help_text='Whether triggers increase the number.'),
        ),
        migrations.AddIndex(
            model_name='dispatchrecord',
            index=models.Index(condition=models.Q(('due_at__isnull', False), ('finished_at', None), ('published_at', None)), fields=['queue', 'due_at'], name='dispatch_held'),
        ),
    ]
