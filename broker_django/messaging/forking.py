"""A lock for forks in processes with threads. A process that is forked while a thread talks to a server inherits the
locks that this thread has acquired inside SQLite, OpenSSL or a driver, and nobody releases them there.
"""

from __future__ import annotations

import os
import threading

fork_lock = threading.RLock()
"""Acquired by the broker's own threads while they talk to a server, and by any thread that forks the process."""

os.register_at_fork(before=fork_lock.acquire, after_in_parent=fork_lock.release, after_in_child=fork_lock.release)
