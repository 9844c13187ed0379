"""From the click on Launch to JupyterLab's page, beside the same `jupyter lab` alone, in turns in one run.

Both end when the same browser has the page's first bytes. Alone, the program is started without hub and
gateway, and the browser goes to its page as soon as it is served.
"""

import os
import re
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.browser import CHROMIUM, sign_in
from tests.support.ports import free_port
from tests.support.stack import Stack, running

RUNS = 7
LIMIT = 0.5  # seconds above the program alone, at the median


def measure() -> dict[str, Any]:
    """Seconds until JupyterLab's page is in the browser: by the click on Launch, and by the program alone."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        with running(Path(folder) / "data") as stack:
            page = _signed_in(browser, stack)
            _launch(page, stack)  # the first start of all makes caches that later ones find
            pairs = [(_launch(page, stack), _alone(page, stack, Path(folder))) for _ in range(RUNS)]
        browser.close()
    above = [clicked - alone for clicked, alone in pairs]
    return {
        "what": "seconds until JupyterLab's page is served",
        "click": [round(clicked, 2) for clicked, _ in pairs],
        "alone": [round(alone, 2) for _, alone in pairs],
        "median above": round(statistics.median(above), 2),
        "limit": LIMIT,
        "within the limit": statistics.median(above) <= LIMIT,
    }


def _signed_in(browser: Browser, stack: Stack) -> Page:
    page = browser.new_page()
    sign_in(page, stack.url, "astronomer")
    page.locator(".picker-launch").wait_for()
    return page


def _launch(page: Page, stack: Stack) -> float:
    page.goto(f"{stack.url}/hub/spawn?profile=astronomy-notebook")
    button = page.get_by_role("button", name="Launch")
    button.wait_for()
    before = time.monotonic()
    button.click()
    page.wait_for_url(re.compile(r"/session/notebook/.*/lab"), wait_until="commit", timeout=60_000)
    taken = time.monotonic() - before
    page.goto("about:blank")
    stack.sign_in("astronomer").stop_all()
    return taken


def _alone(page: Page, stack: Stack, folder: Path) -> float:
    """The program with the session's own command line, home and variables, without hub and gateway."""
    port = free_port()
    arc = stack.data / "arc"
    home = arc / "home" / "astronomer"
    command = [
        *("jupyter", "lab", "--no-browser", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"),
        *("--ServerApp.port_retries=0", "--ServerApp.allow_root=True", f"--ServerApp.root_dir={arc}"),
        *(f"--ServerApp.preferred_dir={home}", "--ServerApp.allow_remote_access=True"),
        *("--ServerApp.quit_button=False", "--ServerApp.use_redirect_file=False"),
        *("--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url="),
    ]
    own = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = {**own, "HOME": str(home), "JUPYTER_TOKEN": "secret", "XDG_CACHE_HOME": f"{home}/.cache"}
    before = time.monotonic()
    with open(folder / "alone.log", "wb") as output:
        process = subprocess.Popen(command, cwd=home, env=environment, stdout=output, stderr=output)
    while not _served(f"http://127.0.0.1:{port}/lab"):
        assert process.poll() is None, (folder / "alone.log").read_text()
        time.sleep(0.01)
    page.goto(f"http://127.0.0.1:{port}/lab?token=secret", wait_until="commit")
    taken = time.monotonic() - before
    page.goto("about:blank")
    process.terminate()
    process.wait(30)
    return taken


def _served(url: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": "token secret"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
