"""A project with as few of Django's own apps as the environment says."""
