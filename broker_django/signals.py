"""Signals of dispatches, each sent once when the change is committed, with `dispatch` and `attempt`.

The sender is the class `Dispatch`. `dispatch_accepted` is sent where the request was accepted, usually in a web
process; the others wherever it happens: in a worker, or in the web process in which a client cancels. A receiver that
raises is logged, and changes nothing.
"""

from __future__ import annotations

from django.dispatch import Signal

dispatch_accepted = Signal()
"""A request was accepted: its dispatch is in the ledger."""

dispatch_started = Signal()
"""An attempt began on a worker."""

dispatch_finished = Signal()
"""A dispatch is done: `dispatch.state` is succeeded, failed, cancelled or expired."""
