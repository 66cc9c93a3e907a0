from __future__ import annotations

import asyncio
import decimal
import gc
import os
import resource
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from django.core.cache import cache, caches
from django.test import override_settings

from tests import servers
from workers.replaying import isolation
from workers.replaying.isolation import isolated


@pytest.fixture(autouse=True)
def fresh():
    isolation._made.clear()
    yield
    isolation._made.clear()


def test_the_original_process_state_is_restored_for_each_replay():
    with decimal.localcontext() as started:
        started.prec = 50

        def change():
            found = decimal.getcontext().prec
            decimal.getcontext().prec = 3
            return found

        assert [isolated(change), isolated(change), decimal.getcontext().prec] == [50, 50, 50]


def test_a_thread_that_ends_does_not_affect_one_that_still_runs(monkeypatch):
    inside, done = threading.Event(), threading.Event()
    seen = {}

    def long():
        os.environ["OF_A_LIBRARY"] = "1"
        inside.set()
        assert done.wait(30)
        seen["still there"] = "OF_A_LIBRARY" in os.environ

    thread = threading.Thread(target=isolated, args=[long])
    thread.start()
    assert inside.wait(30)
    isolated(lambda: None)
    done.set()
    thread.join()
    assert seen == {"still there": True}
    assert "OF_A_LIBRARY" not in os.environ


def timer(which, number, seconds):
    def leave():
        signal.signal(number, lambda *_: None)
        signal.setitimer(which, seconds, seconds)

    return leave


def raising_alarm():
    def handle(*_):
        raise TimeoutError

    signal.signal(signal.SIGPROF, handle)
    signal.setitimer(signal.ITIMER_PROF, 0.005, 0.005)


def blocked_alarm():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    os.kill(os.getpid(), signal.SIGALRM)


@pytest.mark.parametrize(
    "leave",
    [
        timer(signal.ITIMER_REAL, signal.SIGALRM, 0.0001),
        timer(signal.ITIMER_PROF, signal.SIGPROF, 0.001),
        timer(signal.ITIMER_VIRTUAL, signal.SIGVTALRM, 0.001),
        raising_alarm,
        blocked_alarm,
    ],
    ids=["real", "profiling", "virtual", "raising", "blocked"],
)
def test_a_timer_that_a_view_left_does_not_end_the_process(leave):
    for _ in range(10):
        if not (process := os.fork()):
            isolated(lambda: None)
            isolated(leave)
            end = time.process_time() + 0.02
            while time.process_time() < end:
                pass
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def test_signals_that_a_view_blocked_arrive_again_without_losing_the_answer():
    arrived = []

    def handle(*_):
        arrived.append(True)
        raise TimeoutError

    def leave():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # another thread would let one to the process in
        return "answer"

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        assert (isolated(leave), arrived) == ("answer", [True])
        assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_replaced_environment_is_restored(monkeypatch):
    environ = os.environ

    def replace():
        os.environ = {**os.environ, "TENANT": "acme"}  # noqa: B003 - what views do
        environ["TENANT"] = "acme"
        return "answer"

    try:
        assert isolated(replace) == "answer"
        assert isolated(lambda: os.environ) is environ
        assert "TENANT" not in environ
    finally:
        os.environ = environ  # noqa: B003 - the original object


@pytest.mark.parametrize("broken", [0, 1], ids=["read", "write"])
def test_an_answer_is_kept_if_the_state_cannot_be_restored(monkeypatch, broken):
    def fail(*_):
        raise OSError

    def leave():
        part = list(isolation._PARTS["working directory"])
        part[broken] = fail
        monkeypatch.setitem(isolation._PARTS, "working directory", tuple(part))
        os.chdir("/")
        os.umask(0o77)
        return "answer"

    directory, umask = os.getcwd(), os.umask(0o22)  # noqa: PTH109 - as the code under test
    try:
        assert isolated(leave) == "answer"
        assert os.umask(0o22) == 0o22
    finally:
        os.chdir(directory)
        os.umask(umask)


def test_state_that_would_harm_the_worker_is_restored():
    kept = {
        "garbage collector": lambda: (gc.isenabled(), gc.get_threshold()),
        "switch interval": sys.getswitchinterval,
        "digits": sys.get_int_max_str_digits,
        "files": lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
        "loop": asyncio._get_running_loop,
    }
    before = {name: read() for name, read in kept.items()}
    loop = asyncio.new_event_loop()

    def leave():
        gc.disable()
        gc.set_threshold(1)
        sys.setswitchinterval(1)
        sys.set_int_max_str_digits(0)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))  # this process may have many files open
        asyncio._set_running_loop(loop)

    isolated(leave)
    loop.close()
    assert {name: read() for name, read in kept.items()} == before


def test_threads_that_start_together_agree_on_the_umask():
    umask, interval = os.umask(0o22), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            isolation._made.clear()
            with ThreadPoolExecutor(8) as threads:
                list(threads.map(lambda _: isolated(lambda: None), range(8)))
            assert os.umask(0o22) == 0o22
    finally:
        os.umask(umask)
        sys.setswitchinterval(interval)


CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "never-used": {"BACKEND": "nowhere.Cache"},
}


@override_settings(CACHES=CACHES)
def test_replays_reuse_cache_clients_one_after_another():
    first = isolated(lambda: caches["default"])
    assert isolated(lambda: caches["default"]) is first
    assert isolated(lambda: isolated(lambda: caches["default"])) is not first
    assert caches["default"] is not first


@override_settings(CACHES=CACHES)
def test_a_cache_client_is_reset_to_the_settings_for_each_replay():
    def change():
        cache.key_prefix = "acme:"
        replaced, caches["default"] = caches["default"], None
        return replaced

    changed = isolated(change)
    assert isolated(lambda: (caches["default"], cache.key_prefix)) == (changed, "")


@pytest.mark.server("valkey")
def test_replays_share_the_connections_of_a_cache():
    with servers.valkey() as server, redis.Redis.from_url(server.url) as client:
        location = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": server.url}
        with override_settings(CACHES={"default": location}):
            before = client.info("stats")["total_connections_received"]
            for _ in range(20):
                isolated(lambda: cache.get("x"))
            assert client.info("stats")["total_connections_received"] == before + 1
