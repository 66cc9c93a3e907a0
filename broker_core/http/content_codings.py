"""Content codings (RFC 9110, section 8.4.1): whether a client accepts a stored response as it is encoded."""

from __future__ import annotations

from dataclasses import dataclass

from broker_core.errors import NotAcceptableError

DECODABLE = frozenset({"gzip", "x-gzip", "deflate"})
"""The codings that the broker can decode."""

PARTIAL = frozenset({206, 226})
"""Statuses of partial responses: a range of the encoded bytes (RFC 9110, section 14.2) or a delta (RFC 3229)."""


def codings_in(field: str) -> tuple[str, ...]:
    """Returns the codings of a Content-Encoding field, in the order in which they were applied."""
    names = (name.strip().lower() for name in field.split(","))
    return tuple(name for name in names if name not in {"", "identity"})


@dataclass(frozen=True, slots=True)
class Coded:
    """A stored response with content codings.

    coded_for: the Accept-Encoding field of the request that it answers. varies: whether the response depends on that
    field.
    """

    codings: tuple[str, ...]
    status: int = 200
    coded_for: str = ""
    varies: bool = False

    def has_to_be_decoded(self, accepted: str | None) -> bool:
        """Whether a client that sends this Accept-Encoding field (None: no such field) needs the response decoded.

        Raises NotAcceptableError if the client accepts neither the stored nor the decoded response.
        """
        if self._suits(accepted):
            return False
        named = ", ".join(self.codings)
        if self.status in PARTIAL:
            raise NotAcceptableError(f"the response is partial, in the content coding {named}")
        if not DECODABLE.issuperset(self.codings) or not _accepts_none(accepted or ""):
            raise NotAcceptableError(f"the response is stored in the content coding {named}")
        return True

    def _suits(self, accepted: str | None) -> bool:
        if accepted is None:
            return not self.varies
        weights = _weights(accepted)
        answers = {weights.get(coding, weights.get("*")) for coding in self.codings}
        if accepted and accepted == self.coded_for:
            return False not in answers  # the client did not ask for the coding, but Django ignores `gzip;q=0`
        return answers == {True}


def _accepts_none(field: str) -> bool:
    """Whether the client accepts a response without a coding, which is the default."""
    weights = _weights(field)
    return weights.get("identity", weights.get("*", True))


def _weights(field: str) -> dict[str, bool]:
    """Returns whether each coding is acceptable (RFC 9110, section 12.5.3)."""
    parts = (part.lower().split(";") for part in field.split(","))
    return {name.strip(): all(map(_is_positive, parameters)) for name, *parameters in parts}


def _is_positive(parameter: str) -> bool:
    """Whether the parameter is a weight above 0, or not a weight."""
    name, _, weight = parameter.partition("=")
    try:
        return name.strip() != "q" or float(weight) > 0
    except ValueError:
        return False
