"""The rules of a request broker, independent of Django and Celery."""
