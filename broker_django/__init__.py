"""Any Django view, answered now or later, by rule."""

__version__ = "0.1.0"
