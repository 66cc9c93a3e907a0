"""Content codings (RFC 9110, section 8.4.1): whether a client takes a stored response as it is coded."""

from __future__ import annotations

from dataclasses import dataclass

from broker_core.errors import NotAcceptableError

UNDONE = frozenset({"gzip", "x-gzip", "deflate"})
"""The codings that can be undone."""

PARTS = frozenset({206, 226})
"""Responses with a part of the coded bytes (RFC 9110, section 14.2), or with what has changed in them (RFC 3229)."""


def codings_in(field: str) -> tuple[str, ...]:
    """The codings of a Content-Encoding field, in the order in which they were applied."""
    names = (name.strip().lower() for name in field.split(","))
    return tuple(name for name in names if name not in {"", "identity"})


@dataclass(frozen=True, slots=True)
class Coded:
    """A stored response in codings. `coded_for` is the Accept-Encoding field of the request that it was made for.

    `varies` says that it is coded for those who accept it, and not for everybody.
    """

    codings: tuple[str, ...]
    status: int = 200
    coded_for: str = ""
    varies: bool = False

    def has_to_be_decoded(self, accepted: str | None) -> bool:
        """Whether a client that sends this Accept-Encoding field, or none, cannot have it as it is.

        Raises NotAcceptableError if it cannot be decoded for the client either.
        """
        if self._suits(accepted):
            return False
        named = ", ".join(self.codings)
        if self.status in PARTS:
            raise NotAcceptableError(f"the response is a part of one in the coding {named}")
        if not UNDONE.issuperset(self.codings) or not _accepts_none(accepted or ""):
            raise NotAcceptableError(f"the response is stored in the coding {named}")
        return True

    def _suits(self, accepted: str | None) -> bool:
        if accepted is None:
            return not self.varies
        weights = _weights(accepted)
        answers = {weights.get(coding, weights.get("*")) for coding in self.codings}
        if accepted and accepted == self.coded_for:
            return False not in answers  # it may have been coded unasked, but Django overlooks `gzip;q=0`
        return answers == {True}


def _accepts_none(field: str) -> bool:
    """Whether a response without a coding is acceptable, as it is unless the client says otherwise."""
    weights = _weights(field)
    return weights.get("identity", weights.get("*", True))


def _weights(field: str) -> dict[str, bool]:
    """By coding, whether it is acceptable (RFC 9110, section 12.5.3)."""
    parts = (part.lower().split(";") for part in field.split(","))
    return {name.strip(): all(map(_is_positive, parameters)) for name, *parameters in parts}


def _is_positive(parameter: str) -> bool:
    """Whether it is a weight above 0, or none at all."""
    name, _, weight = parameter.partition("=")
    try:
        return name.strip() != "q" or float(weight) > 0
    except ValueError:
        return False
