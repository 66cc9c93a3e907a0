"""Translations of messages that `broker_core`, which knows no framework, makes."""

from __future__ import annotations

from typing import Any

from django.utils import translation
from django.utils.functional import lazy
from django.utils.translation import gettext_noop as _

from broker_core.texts import Text

TEMPLATES = (
    _("a comprehension may contain one sum: each copies its operands"),
    _("a comprehension may not call bytes, which copies a text"),
    _("a comprehension may not call matches, which compiles its pattern"),
    _("a comprehension may not contain another"),
    _("a comprehension may not put {name} into a list or a map, which copies it"),
    _("a comprehension may test what is in {name}, but not use all of it"),
    _("a condition has at most {most} characters, this one has {length}"),
    _("a map may not make its elements larger"),
    _("a map may read the request by its element only, as request.query[{name}]"),
    _("a parameter must be written <converter:name> or <name>"),
    _("a path must begin with a slash"),
    _("a prefix may not have parameters: use <path:name> at the end of a pattern"),
    _("a proxied destination must be a path of this project"),
    _("a redirect must lead to a path, or to an http or https URL"),
    _("a source has at most {most} characters, this one has {length}"),
    _("a source may not contain control characters"),
    _("a source must begin with a slash"),
    _("a URL may not contain control characters or backslashes"),
    _("at most {most} parameters are allowed between two slashes, or from a path parameter on"),
    _("column {position}: {reason}"),
    _("invalid URL: {error}"),
    _("it has no active destination with a weight"),
    _("it is too large"),
    _("its condition could not be evaluated: {reason}"),
    _("its condition is false"),
    _("only one {name} is allowed: each builds a list"),
    _("redirects to {host} are not allowed: see ALLOWED_REDIRECT_HOSTS"),
    _("sticky by a header field requires the field's name"),
    _("the argument of matches must be a string literal"),
    _("the parameter {name!r} is used twice"),
    _("the pattern of matches is invalid: {reason}"),
    _("the patterns of matches are too large: {reason}"),
    _("the rank must be 1 or more"),
    _("the weight must be 0 or more"),
    _("there is no action {action!r}"),
    _("there is no path converter {name!r}; there are {known}"),
    _("there is no queue {queue!r}"),
    _("there is no sticky_by {sticky_by!r}"),
    _("unknown function {name!r}; there are {known}"),
    _("unknown variable {name!r}; there are {known}"),
    _("use fewer of them or smaller counts, or write [A-Za-z] and [0-9] for \\w and \\d"),
    _("{action} is switched off"),
    _("{method} is not among its methods"),
    _("{name!r} is not a valid name for a parameter"),
    _("{name!r} is not an HTTP method"),
    _("{name} alone is not a value; there are {known}"),
    _("{name} does not exist; there are {known}"),
    _("{name} has more than {most} entries"),
)
"""The templates of all messages, for the catalogues."""


def translated(text: str) -> str:
    """Returns the text in the active language, if it has a template."""
    if not isinstance(text, Text):
        return text
    parameters = {name: _shown(value) for name, value in text.parameters.items()}
    return translation.gettext(text.template).format(**parameters)


def _shown(value: Any) -> Any:
    return translated(value) if isinstance(value, str) else value


translated_when_shown = lazy(translated, str)
