"""Users of a project's own, without django.contrib.auth."""
