"""The Celery side of the request broker."""
