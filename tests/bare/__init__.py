"""A project with only those of Django's apps that the environment names."""
