"""Signals of dispatches, each sent once, after the change is committed, with `dispatch` and `attempt`.

The sender is the class `Dispatch`. `dispatch_accepted` is sent in the process that accepts the request, usually a web
process. The others are sent in the process that makes the change: a worker, or the web process if a client cancels. If
a receiver raises, the error is logged and changes nothing.
"""

from __future__ import annotations

from django.dispatch import Signal

dispatch_accepted = Signal()
"""A request was accepted: its dispatch is in the ledger."""

dispatch_started = Signal()
"""An attempt began on a worker."""

dispatch_finished = Signal()
"""A dispatch is done: `dispatch.state` is succeeded, failed, cancelled or expired."""
