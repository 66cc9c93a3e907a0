"""pytest-celery's own message brokers, in Docker: chosen with TEST_BROKER, if a Docker engine runs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import docker
from pytest_celery import CeleryTestContainer, RabbitMQContainer, RedisContainer

from tests import servers
from tests.containers import READY_WITHIN
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def _running(vendor: type[CeleryTestContainer], *command: str) -> Iterator[CeleryTestContainer]:
    """Yields a container of this vendor. Without a Docker engine the test is skipped, or fails."""
    try:
        engine = docker.from_env()
        engine.ping()
    except docker.errors.DockerException as error:
        servers.absent(f"Docker does not answer: {error}")
    started = engine.containers.run(
        vendor.image(),
        command=list(command) or None,
        environment=vendor.initial_env(),
        ports=vendor.ports(),
        detach=True,
    )
    try:
        container = vendor(started)
        wait_until(container.ready, READY_WITHIN)
        yield container
    finally:
        started.remove(force=True, v=True)


@contextlib.contextmanager
def redis() -> Iterator[servers.MessageBroker]:
    with _running(RedisContainer, *RedisContainer.command("--appendonly", "yes")) as container:
        url = container.celeryconfig["host_url"]
        yield servers.MessageBroker(container, url, f"{url.rpartition('/')[0]}/1")


@contextlib.contextmanager
def rabbitmq() -> Iterator[servers.MessageBroker]:
    with _running(RabbitMQContainer) as container:
        everything = [".*", ".*", ".*"]
        for arguments in (
            ["add_vhost", servers.UNATTENDED],
            ["set_permissions", "-p", servers.UNATTENDED, "guest", *everything],
        ):
            code, output = container.exec_run(["rabbitmqctl", *arguments])
            if code:
                raise RuntimeError(output.decode(errors="replace"))
        url = f"amqp://guest:guest@localhost:{container.port}"
        yield servers.MessageBroker(container, f"{url}//", f"{url}/{servers.UNATTENDED}")


BROKERS = {"docker-redis": redis, "docker-rabbitmq": rabbitmq}
