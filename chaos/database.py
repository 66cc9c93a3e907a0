"""Creates the database: `python -m chaos.database`."""

from __future__ import annotations

from broker_core.dispatches import State

ENDS = ", ".join(f"'{state}'" for state in State if state.done)
RECORD = "INSERT INTO chaos_ending (dispatch, state) VALUES ({id}, NEW.state);"
UPDATED = "AFTER UPDATE OF state ON broker_django_dispatchrecord"

FUNCTION = f"""CREATE FUNCTION chaos_record_end() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN {RECORD.format(id="NEW.id::text")} RETURN NULL; END $$"""
WHEN = f"CREATE TRIGGER chaos_ended {UPDATED} FOR EACH ROW WHEN (NEW.state IN ({ENDS}))"

TRIGGER = {
    "sqlite": [f"{WHEN} BEGIN {RECORD.format(id='NEW.id')} END"],
    "postgresql": [FUNCTION, f"{WHEN} EXECUTE FUNCTION chaos_record_end()"],
}
"""Records each time a dispatch reaches a final state. The ledger itself only stores the last one."""


OTHER = {
    "sqlite": ["CREATE TABLE chaos_window AS SELECT 0 AS opened"],
    "postgresql": ["CREATE ROLE chaos_guest"],
}
"""What faults and poisons need."""


def prepare() -> None:
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", run_syncdb=True, verbosity=0)
    with connection.cursor() as cursor:
        for statement in [*TRIGGER[connection.vendor], *OTHER[connection.vendor]]:
            cursor.execute(statement)


if __name__ == "__main__":
    import django

    django.setup()
    prepare()
