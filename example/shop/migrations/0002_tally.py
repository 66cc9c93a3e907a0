from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("shop", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="Tally",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("queue", models.CharField(max_length=40, unique=True)),
                ("done", models.PositiveIntegerField(default=0)),
            ],
            options={
                "verbose_name_plural": "tallies",
                "ordering": ["queue"],
            },
        ),
    ]
