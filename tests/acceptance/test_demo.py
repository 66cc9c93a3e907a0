"""The demo: the example under `broker_dev`, used in a browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from broker_django.development import parent_watch
from tests.containers import ROOT
from tests.processes import read_until
from tests.servers import require

if TYPE_CHECKING:
    from collections.abc import Iterator

BROWSER_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
)
BURST = 60
PATIENCE = 60


@pytest.fixture(scope="module")
def front_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the front page of a demo with a database of its own."""
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("CELERY", "DJANGO"))},
        "DATABASE_PATH": str(tmp_path_factory.mktemp("demo") / "db.sqlite3"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "example/manage.py", "broker_dev", "--migrate", "--noreload"]
    with subprocess.Popen(
        parent_watch.command(command),
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output = read_until(process, "Ctrl-C")
        found = re.search(r"Site +(\S+)", output)
        assert found, output
        yield found[1]
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Headless Chromium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(require("chromium"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for option in (*BROWSER_OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        driver = webdriver.Chrome(options=options, service=Service(str(require("chromedriver"))))
        driver.implicitly_wait(PATIENCE)  # a click does not always wait for the next page
        yield driver
        driver.quit()


def text_of(browser, name: str) -> str:
    return browser.find_element("id", name).text


def wait_for(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, PATIENCE, poll_frequency=0.1).until(lambda _: condition())


def count(browser, lane: str, name: str) -> int:
    return int(browser.find_element("css selector", f"#lane-{lane} [data-count={name}]").text or 0)


@pytest.mark.server("chromium", "chromedriver")
@pytest.mark.timeout(240)
def test_a_payment_overtakes_a_burst_of_newsletters(front_page, browser):
    browser.get(front_page)
    size = browser.find_element("id", "burst-size")
    size.clear()
    size.send_keys(str(BURST))
    browser.find_element("id", "burst").click()
    wait_for(browser, lambda: count(browser, "bulk", "queued") > BURST // 3)
    browser.find_element("id", "pay").click()
    overtake = wait_for(
        browser, lambda: re.search(r"answered in .* ahead of (\d+) waiting", text_of(browser, "overtake"))
    )
    assert int(overtake[1]) > 0
    wait_for(browser, lambda: count(browser, "payment", "done") == 1)
    wait_for(browser, lambda: '"replayed": true' in text_of(browser, "http-response"))
    assert "202" in text_of(browser, "http-accepted")
    wait_for(browser, lambda: count(browser, "bulk", "done") == BURST)
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.server("chromium", "chromedriver")
def test_a_chat_message_and_the_catalogue(front_page, browser):
    browser.get(front_page)
    browser.find_element("id", "chat-text").send_keys("Is the kettle hot?")
    browser.find_element("id", "chat-send").click()
    wait_for(browser, lambda: "Is the kettle hot?" in text_of(browser, "chat-messages"))
    browser.find_element("id", "catalogue").click()
    wait_for(browser, lambda: text_of(browser, "catalogue-result").strip())


def fill(browser, **values: str) -> None:
    for name, value in values.items():
        entry = browser.find_element("name", name.replace("__", "-"))
        if entry.tag_name != "select":
            entry.clear()
        entry.send_keys(value)


@pytest.mark.server("chromium", "chromedriver")
def test_a_weight_that_is_edited_in_the_admin_shows_its_new_share(front_page, browser):
    browser.get(f"{front_page}admin/broker_django/router/add/")
    fill(browser, username="demo", password="demo")
    browser.find_element("css selector", "[type=submit]").click()
    browser.find_element("link text", "Add another Destination").click()
    fill(browser, code="try-out", source="/try-out/", action="302")
    fill(browser, destinations__0__url="/products/", destinations__0__weight="3")
    fill(browser, destinations__1__url="/", destinations__1__weight="1")
    browser.find_element("name", "_save").click()
    assert "/products/ 75%" in text_of(browser, "result_list")

    browser.find_element("link text", "try-out").click()
    fill(browser, destinations__1__weight="9")
    browser.find_element("name", "_save").click()
    assert "/products/ 25%" in text_of(browser, "result_list")

    browser.find_element("css selector", ".object-tools [href$='/try/']").click()
    fill(browser, path="/try-out/")
    browser.find_element("css selector", "[value=Try]").click()
    assert "Router try-out answers: 302 to" in text_of(browser, "outcome")

    browser.get(f"{front_page}try-out/")
    assert "/try-out/" not in browser.current_url
