"""Translate django-route's conditions, which are expressions of Django's `if` tag, to CEL."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from django.template import TemplateSyntaxError
from django.template.base import FilterExpression, Parser, Variable
from django.template.defaulttags import TemplateIfParser
from django.template.engine import Engine
from django.utils.text import smart_split

from broker_core.errors import ConfigurationError


class UntranslatableError(ConfigurationError):
    """The condition has no equivalent in CEL, or none that is certain to mean the same."""

    slug = "untranslatable-condition"
    title = "The condition has no equivalent"


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a condition in CEL, and its type: `bool`, `string`, `int`, `map`, or a user's `id`."""

    text: str
    kind: str

    @property
    def truth(self) -> str:
        """The term as a condition of its own: empty and zero are false."""
        match self.kind:
            case "bool":
                return self.text
            case "string" | "id":
                return f'({self.text}) != ""'
            case "int":
                return f"({self.text}) != 0"
            case _:
                return f"size({self.text}) != 0"


_USER = {
    "is_authenticated": "bool",
    "is_staff": "bool",
    "is_superuser": "bool",
    "username": "string",
    "id": "id",
    "pk": "id",
}
_REQUEST = {
    "method": Term("request.method", "string"),
    "path": Term("request.path", "string"),
    "path_info": Term("request.path", "string"),
    "get_full_path": Term("request.full_path", "string"),
    "get_host": Term("request.host", "string"),
    "scheme": Term("request.scheme", "string"),
    "content_type": Term("request.content_type", "string"),
    "is_secure": Term('request.scheme == "https"', "bool"),
    "GET": Term("request.query", "map"),
    "COOKIES": Term("request.cookies", "map"),
}
_META = {
    "REMOTE_ADDR": Term("request.remote_addr", "string"),
    "REQUEST_METHOD": Term("request.method", "string"),
    "PATH_INFO": Term("request.path", "string"),
    "CONTENT_TYPE": Term("request.content_type", "string"),
}
_COMPARE = {"==": "==", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def to_cel(condition: str) -> str:
    """Returns the condition in CEL. Raises UntranslatableError."""
    try:
        parser = Parser([], builtins=Engine().template_builtins)
        parsed = TemplateIfParser(parser, list(smart_split(condition))).parse()
    except TemplateSyntaxError as error:
        raise UntranslatableError(str(error)) from error
    return _term(parsed).truth


def _term(node: Any) -> Term:
    operator = getattr(node, "id", None)
    if operator == "literal":
        return _filtered(node.value)
    if operator == "not":
        return Term(f"!({_term(node.first).truth})", "bool")
    first, second = _term(node.first), _term(node.second)
    if operator in {"and", "or"}:
        sign = "&&" if operator == "and" else "||"
        return Term(f"({first.truth}) {sign} ({second.truth})", "bool")
    if operator in {"in", "not in"}:
        found = _contains(first, second)
        return Term(found if operator == "in" else f"!({found})", "bool")
    if operator in _COMPARE:
        return _compared(first, _COMPARE[operator], second)
    raise UntranslatableError(f"the operator {operator!r} has no equivalent")


def _compared(first: Term, sign: str, second: Term) -> Term:
    if {first.kind, second.kind} == {"id", "int"} and sign in {"==", "!="}:
        first, second = (Term(json.dumps(t.text), "id") if t.kind == "int" else t for t in (first, second))
    comparable = {"string", "int"} if sign not in {"==", "!="} else {"string", "int", "bool", "id"}
    if first.kind != second.kind or first.kind not in comparable:
        raise UntranslatableError(f"{first.kind} {sign} {second.kind} has no equivalent")
    return Term(f"({first.text}) {sign} ({second.text})", "bool")


def _contains(item: Term, container: Term) -> str:
    if item.kind == "string" and container.kind == "string":
        return f"({container.text}).contains({item.text})"
    if item.kind == "string" and container.kind == "map":
        return f"({item.text}) in {container.text}"
    raise UntranslatableError(f"a search for a {item.kind} in a {container.kind} has no equivalent")


def _filtered(expression: FilterExpression) -> Term:
    term = _variable(expression.var)
    for function, arguments in expression.filters:
        term = _filter(term, getattr(function, "_filter_name", ""), [value for _, value in arguments])
    return term


def _filter(term: Term, name: str, arguments: list[Any]) -> Term:
    if name == "length" and term.kind in {"string", "map"}:
        return Term(f"size({term.text})", "int")
    if name == "default" and term.kind == "string" and len(arguments) == 1 and isinstance(arguments[0], str):
        fallback = json.dumps(str(arguments[0]), ensure_ascii=False)
        return Term(f'({term.text}) != "" ? ({term.text}) : {fallback}', "string")
    raise UntranslatableError(f"the filter {name!r} has no equivalent")


def _variable(variable: Any) -> Term:
    if isinstance(variable, str):  # a string literal, which the parser has marked safe
        return Term(json.dumps(str(variable), ensure_ascii=False), "string")
    if not isinstance(variable, Variable):
        raise UntranslatableError(f"{variable!r} has no equivalent")
    if variable.literal is not None:
        return _literal(variable.literal)
    return _lookup(list(variable.lookups or ()))


def _literal(value: Any) -> Term:
    if isinstance(value, bool):
        return Term(str(value).lower(), "bool")
    if isinstance(value, int):
        return Term(str(value), "int")
    if isinstance(value, str):
        return Term(json.dumps(str(value), ensure_ascii=False), "string")
    raise UntranslatableError(f"{value!r} has no equivalent")


def _lookup(names: list[str]) -> Term:
    text = ".".join(names)
    match names:
        case ["True" | "False"]:
            return Term(names[0].lower(), "bool")
        case ["request", "user", member] | ["user", member] if member in _USER:
            return Term(f"user.{'id' if member == 'pk' else member}", _USER[member])
        case ["request", member] if member in _REQUEST:
            return _REQUEST[member]
        case ["request", "GET" | "COOKIES" as member, key]:
            return _member(_REQUEST[member].text, key)
        case ["request", "META", key] if key in _META:
            return _META[key]
        case ["request", "META", key] if key.startswith("HTTP_"):
            return _member("request.headers", key.removeprefix("HTTP_").replace("_", "-").lower())
        case ["request", "headers", key]:
            return _member("request.headers", key.lower())
    raise UntranslatableError(f"{text} has no equivalent")


def _member(container: str, key: str) -> Term:
    """Returns the value of the key; an empty text if the key is missing, as in a template."""
    name = json.dumps(key)
    return Term(f'{name} in {container} ? {container}[{name}] : ""', "string")
