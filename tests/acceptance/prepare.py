"""Create the database of the acceptance tests: `python -m tests.acceptance.prepare`."""

import django

USERS = ("ada", "grace")
STAFF = "root"
PASSWORD = "correct horse"

if __name__ == "__main__":
    django.setup()

    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", run_syncdb=True, verbosity=0)
    for name in USERS:
        User.objects.create_user(name, password=PASSWORD)
    User.objects.create_superuser(STAFF, password=PASSWORD)
