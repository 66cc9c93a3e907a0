from __future__ import annotations

from types import SimpleNamespace

import pytest
from celery.exceptions import WorkerShutdown
from django.core.management import CommandError, load_command_class
from django.test import override_settings

from broker_django.management.commands.broker_worker import _succeed_if_asked


def arguments(*given):
    command = load_command_class("broker_django", "broker_worker")
    options = vars(command.create_parser("manage.py", "broker_worker").parse_args(given))
    named = [argument.removeprefix("--").partition("=") for argument in command.worker_arguments(options)[1:]]
    return {name: value for name, _, value in named}


def test_all_queues_are_served_by_default():
    assert arguments()["queues"] == "payment,realtime,bulk"


@pytest.mark.parametrize(
    ("given", "hostname"),
    [
        ([], "broker@%h"),
        (["--queues=payment"], "broker-payment@%h"),
        (["--queues=payment, bulk"], "broker-payment-bulk@%h"),
        (["--exclude=bulk"], "broker-payment-realtime@%h"),
        (["--queues=payment", "--hostname=mine@%h"], "mine@%h"),
        (["-n", "mine@%h"], "mine@%h"),
    ],
)
def test_workers_of_different_queues_have_different_names(given, hostname):
    assert arguments(*given)["hostname"] == hostname


def test_task_events_are_sent_unless_disabled():
    assert "task-events" in arguments()
    assert "task-events" not in arguments("--no-task-events")


def test_options_take_the_brokers_names_and_workers_get_celery_queues():
    with override_settings(REQUEST_BROKER={"QUEUES": {"payment": {"celery_queue": "money"}}}):
        given = arguments("--queues=payment")
    assert (given["queues"], given["hostname"]) == ("money", "broker-payment@%h")


@pytest.mark.parametrize("given", ["--queues=bluk", "--exclude=bluk", "--exclude=payment,realtime,bulk"])
def test_unknown_queues_are_refused(given):
    with pytest.raises(CommandError):
        arguments(given)


@pytest.mark.parametrize(("cause", "status"), [(None, 0), (ConnectionError("refused"), 1)])
def test_a_signal_ends_a_worker_with_success_and_an_error_does_not(cause, status):
    worker = SimpleNamespace(exitcode=1)
    try:
        raise WorkerShutdown(1) from cause
    except WorkerShutdown:
        _succeed_if_asked(worker)
    assert worker.exitcode == status
