"""Conditions in the Common Expression Language (https://cel.dev), compiled once; they get only the values they read."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from broker_core.conditions.comprehensions import comprehension_variables
from broker_core.conditions.expressions import cel
from broker_core.conditions.guards import guards_of, ruled_out
from broker_core.conditions.patterns import require_small_patterns
from broker_core.errors import InvalidConditionError
from broker_core.texts import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger("broker_core.conditions")

Values = Callable[[frozenset[str]], Mapping[str, Any]]
"""Returns the values of these names for one request, such as `{"request.path": "/"}`."""

FALSE = Text("its condition is false")

MAX_LENGTH = 2_000

MOST_ENTRIES = 1_000
"""The maximum number of query parameters, header fields, cookies or groups. If there are more, a condition that reads
them is not evaluated.

A comprehension does work for each of them. Django's own default limit for parameters is the same.
"""

VARIABLES: Mapping[str, frozenset[str]] = {
    "request": frozenset(
        {
            "method",
            "path",
            "full_path",
            "query",
            "headers",
            "cookies",
            "content_type",
            "size",
            "scheme",
            "host",
            "remote_addr",
        }
    ),
    "user": frozenset({"id", "username", "is_authenticated", "is_staff", "is_superuser", "groups"}),
    "now": frozenset(),
}
"""The variables that a condition may read, and the members of each."""

FUNCTIONS = frozenset(
    [
        "bytes",
        "contains",
        "double",
        "duration",
        "dyn",
        "endsWith",
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getFullYear",
        "getHours",
        "getMilliseconds",
        "getMinutes",
        "getMonth",
        "getSeconds",
        "int",
        "matches",
        "size",
        "startsWith",
        "string",
        "timestamp",
        "type",
        "uint",
    ]
)
"""The functions that a condition may call. A call of another function compiles, but always fails."""

_TEXT = re.compile(
    r"""//[^\n]*"""
    r"""|[rR](?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"]*"|'[^']*')"""
    r"""|\"{3}(?:[^\\]|\\.)*?\"{3}|'{3}(?:[^\\]|\\.)*?'{3}|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'""",
    re.DOTALL,
)
"""Comments and strings. A backslash in a raw string escapes nothing."""
_USE = re.compile(r"\.\s*[A-Za-z_]\w*|\b(request|user|now)\b(?:\s*\.\s*([A-Za-z_]\w*)\b(?!\s*\())?")
_LIKE_A_FLAT_NAME = re.compile(r"\b(?:request|user)_")
_POSITION = re.compile(r"<input>:\d+:(\d+): (?:Syntax error: )?([^\n]*)")
_EXPECTING = re.compile(r" expecting \{.*\}$")  # a list of all possible tokens


class Condition:
    """A compiled condition. `names` are the values it reads, such as `request.path` or `now`.

    Raises InvalidConditionError, with the column, if the text does not parse, reads an unknown value, is longer than
    `MAX_LENGTH`, or could run long (see `conditions.comprehensions` and `conditions.patterns`).
    """

    __slots__ = ("_program", "guards", "names", "nested", "text")

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise InvalidConditionError(
                Text(
                    "a condition has at most {most} characters, this one has {length}",
                    most=MAX_LENGTH,
                    length=len(text),
                )
            )
        self.text = text
        program = _compile(text)
        bare = _TEXT.sub(lambda match: " " * len(match[0]), text)
        bound = comprehension_variables(bare)
        self.names = frozenset(_uses(bare))
        _require_known_functions(program, bare)
        require_small_patterns(text, bare)
        self.guards = guards_of(text, bare)
        unknown = set(program.variables()) - set(VARIABLES) - bound
        if unknown:
            name = min(unknown)
            raise InvalidConditionError(
                Text("unknown variable {name!r}; there are {known}", name=name, known=", ".join(VARIABLES)),
                _column(bare, name),
            )
        flat = _flattened(text, bare)
        self.nested = flat is None
        self._program = flat or program

    def holds(self, context: cel.Context) -> bool:
        """Whether the condition is true. Raises ValueError, TypeError or RuntimeError if it cannot be evaluated."""
        return self._program.execute(context) is True

    def __repr__(self) -> str:
        return f"Condition({self.text!r})"


def context(values: Mapping[str, Any], *, nested: bool = True) -> cel.Context:
    """Returns a context from values by name, such as `{"request.path": "/", "now": datetime(...)}`.

    `nested` adds the values for conditions whose `nested` is true. The others read flat variables, which are much
    cheaper. Collections with more than `MOST_ENTRIES` entries are left out.
    """
    small = {name: value for name, value in values.items() if not _is_too_large(value)}
    variables: dict[str, Any] = {name.replace(".", "_"): value for name, value in small.items()}
    if nested:
        for name, value in small.items():
            head, _, member = name.partition(".")
            if member:
                variables.setdefault(head, {})[member] = value
    return cel.Context(variables)


def _is_too_large(value: object) -> bool:
    return isinstance(value, dict | list) and len(value) > MOST_ENTRIES


class Conditions:
    """Conditions that are evaluated together.

    `names` are all values that they read, `compared` those that guards read.
    """

    def __init__(self, conditions: Iterable[Condition]) -> None:
        asked = list(conditions)
        self.names = frozenset[str]().union(*(condition.names for condition in asked))
        self.compared = frozenset(guard.name for condition in asked for guard in condition.guards)
        self.nested = any(condition.nested for condition in asked)


class Evaluation:
    """Evaluates conditions for one request. The values are read once for all conditions, and only if one needs them."""

    __slots__ = ("_conditions", "_context", "_given", "_values", "compared")

    def __init__(self, conditions: Conditions, values: Values) -> None:
        self._conditions = conditions
        self._values = values
        self._context: cel.Context | None = None
        self._given: Mapping[str, Any] = {}
        self.compared = values(conditions.compared) if conditions.compared else {}

    def why_not(self, condition: Condition) -> str:
        """Returns why the condition does not match, or an empty text if it does.

        A condition that fails does not match.
        """
        if condition.guards and ruled_out(condition.guards, self.compared):
            return FALSE
        try:
            if self._context is None:
                self._given = self._values(self._conditions.names)
                self._context = context(self._given, nested=self._conditions.nested)
            return "" if condition.holds(self._context) else FALSE
        except (ValueError, TypeError, LookupError, RuntimeError, ArithmeticError) as error:
            logger.debug("The condition %s could not be evaluated: %s", condition.text, type(error).__name__)
            reason = self._too_large(condition) or str(error)
            return Text("its condition could not be evaluated: {reason}", reason=reason)

    def _too_large(self, condition: Condition) -> str:
        """Returns which of the condition's values has too many entries, as a reason; an empty text if none has."""
        names = [name for name in sorted(condition.names) if _is_too_large(self._given.get(name))]
        for name in names:
            _log_once(name)
        return Text("{name} has more than {most} entries", name=names[0], most=MOST_ENTRIES) if names else ""


@lru_cache
def _log_once(name: str) -> None:
    """Logged once per process: a client could otherwise fill the log."""
    logger.warning(
        "A request has more than %d entries in %s. Conditions that read them do not match such requests. "
        "This warning is logged once.",
        MOST_ENTRIES,
        name,
    )


def _compile(text: str) -> cel.Program:
    try:
        return cel.compile(text)
    except ValueError as error:
        match = _POSITION.search(str(error))
        reason = match[2] if match else str(error).splitlines()[0]
        raise InvalidConditionError(_EXPECTING.sub("", reason), int(match[1]) if match else 0) from error


def _flattened(text: str, bare: str) -> cel.Program | None:
    """Compiles the condition with flat variables: `request_path` instead of `request.path`.

    Returns None if CEL needs the member itself, or if a name in the condition looks like a flat variable.
    """
    if _LIKE_A_FLAT_NAME.search(bare):
        return None
    flat = list(text)
    for match in _USE.finditer(bare):
        if match[2]:
            name = f"{match[1]}_{match[2]}"
            flat[match.start(1) : match.end(2)] = name.ljust(match.end(2) - match.start(1))
    try:
        return cel.compile("".join(flat))
    except ValueError:
        return None


def _column(text: str, name: str) -> int:
    match = re.search(rf"(?<![\w.]){re.escape(name)}\b", text)
    return match.start() + 1 if match else 0


def _uses(bare: str) -> Iterable[str]:
    for match in _USE.finditer(bare):
        variable, member = match[1], match[2]
        if variable is None:
            continue  # a member of another value
        members = VARIABLES[variable]
        if not members:
            yield variable
        elif member in members:
            yield f"{variable}.{member}"
        else:
            known = ", ".join(f"{variable}.{each}" for each in sorted(members))
            if member:
                wrong = Text("{name} does not exist; there are {known}", name=f"{variable}.{member}", known=known)
            else:
                wrong = Text("{name} alone is not a value; there are {known}", name=variable, known=known)
            raise InvalidConditionError(wrong, match.start() + 1)


def _require_known_functions(program: cel.Program, bare: str) -> None:
    # Operators are functions too; their names are not identifiers.
    for name in sorted(set(program.functions()) - FUNCTIONS):
        if re.fullmatch(r"[A-Za-z_][\w.]*", name):
            match = re.search(rf"\b{re.escape(name)}\s*\(", bare)
            raise InvalidConditionError(
                Text("unknown function {name!r}; there are {known}", name=name, known=", ".join(sorted(FUNCTIONS))),
                match.start() + 1 if match else 0,
            )
