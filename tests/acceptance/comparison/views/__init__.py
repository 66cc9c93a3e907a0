"""Views of every kind that Django, DRF, django-ninja and django-csp know."""
