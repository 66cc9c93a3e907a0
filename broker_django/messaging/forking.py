"""Forks beside threads: a process that is forked while another thread talks to a server inherits the locks that this
thread holds inside of SQLite, OpenSSL or a driver, and nobody ever releases them there.
"""

from __future__ import annotations

import os
import threading

undisturbed = threading.RLock()
"""Held by threads of the broker's own while they talk to a server, and by whoever forks the process."""

os.register_at_fork(before=undisturbed.acquire, after_in_parent=undisturbed.release, after_in_child=undisturbed.release)
