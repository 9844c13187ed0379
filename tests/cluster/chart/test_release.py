"""The chart on a real cluster: walked by a person in a browser and by programs, attacked, and disturbed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.browser import ARGUMENTS, CHROMIUM, launch, sign_in
from tests.support.chart import CHART, RELEASE, Installed, decoded, helm
from tests.support.cluster import kubectl, listed
from tests.support.kernel import Kernel
from tests.support.stack import Person, until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
SLOW = 90_000  # milliseconds that a page may take on a busy machine
expect.set_options(timeout=SLOW)
PICTURES = os.environ.get("CANFAR_TEST_PICTURES", "")
"""A folder for screenshots, if somebody wants to look at them."""


@pytest.fixture(scope="module")
def browser(installed: Installed) -> Iterator[Browser]:
    """A browser in which every host of the place is at the web server in front."""
    rules = f"--host-resolver-rules=MAP *.cluster.local {installed.address[0]}"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, rules])
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    # The authority is the tests' own, which Python's clients check and a browser has no place for.
    context = browser.new_context(ignore_https_errors=True, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(SLOW)
    yield context.new_page()
    context.close()


def _picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=f"{PICTURES}/{name}.png")


# A person


def test_a_person_signs_in_picks_and_works(page: Page, installed: Installed) -> None:
    sign_in(page, installed.url, "visitor")
    page.locator(".picker-launch").wait_for()
    expect(page.get_by_text("On the nodes already").first).to_be_visible()
    _picture(page, "chart-picker")
    launch(page, "Notebook", "Notebook")
    host = re.escape(installed.host_of("visitor"))
    page.wait_for_url(re.compile(rf"https://{host}/session/notebook/[a-z0-9]{{8}}/lab"))
    page.locator(".jp-LauncherCard").first.wait_for()
    _picture(page, "chart-lab")
    page.goto(f"{installed.url}/hub/home")
    expect(page.get_by_text("Running").first).to_be_visible()
    _picture(page, "chart-home")
    installed.sign_in("visitor").stop_all()


def test_a_computation_goes_on_and_its_page_recovers_while_hub_and_gateway_are_replaced(
    page: Page, installed: Installed, astronomer: Person, session: str
) -> None:
    home = installed.ground.folder / "home/astronomer"
    (home / "long.ipynb").write_text(json.dumps(_notebook(_LONG, "print('after', 6 * 7)")))
    os.chown(home / "long.ipynb", home.stat().st_uid, home.stat().st_gid)
    answers: list[str] = []
    page.on("response", lambda one: answers.append(f"{one.status} {one.url}") if one.status >= 400 else None)
    sign_in(page, installed.url, "astronomer")
    page.locator(".picker-launch, .sessions").first.wait_for()
    page.goto(f"{str(astronomer.server(session)['full_url']).rstrip('/')}/lab/tree/home/astronomer/long.ipynb")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.locator(".jp-CodeCell").first.click()
    page.keyboard.press("Shift+Enter")
    progress = home / "progress.txt"
    until(lambda: progress.exists() and int(progress.read_text() or 0) > 3, "a computation")
    before = installed.ground.pod(session)["metadata"]["uid"]

    for component in ("gateway", "hub"):
        old = installed.pod(component)
        kubectl("delete", "pod", "-n", installed.name, old, "--wait=true")
        installed.is_up()
        seen = int(progress.read_text() or 0)
        until(lambda seen=seen: int(progress.read_text() or 0) > seen, f"the computation after the {component}")

    # The same page, without a reload: it connects again, ends the first cell and runs the second.
    (home / "enough").touch()
    print(*answers, sep="\n")  # shown where the page does not recover
    expect(page.locator(".jp-OutputArea-output").filter(has_text="counted to").first).to_be_visible()
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-OutputArea-output").filter(has_text="after 42").first).to_be_visible()
    _picture(page, "chart-recovered")
    assert installed.ground.pod(session)["metadata"]["uid"] == before
    assert astronomer.server(session)["ready"]


_LONG = """import time
from pathlib import Path
count = 0
while not Path('/arc/home/astronomer/enough').exists():
    count += 1
    Path('/arc/home/astronomer/progress.txt').write_text(str(count))
    time.sleep(0.2)
print('counted to', count)"""


def _notebook(*cells: str) -> dict[str, object]:
    made = [
        {
            "cell_type": "code",
            "metadata": {},
            "id": f"c{number}",
            "source": text,
            "outputs": [],
            "execution_count": None,
        }
        for number, text in enumerate(cells)
    ]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


# A program


def test_a_kernel_reads_the_project_and_writes_the_home(
    astronomer: Person, session: str, installed: Installed
) -> None:
    with Kernel(astronomer, session) as kernel:
        shape = kernel.run(
            "from astropy.io import fits\nprint(fits.getdata('/arc/projects/survey-x/m13.fits').shape)"
        )
        kernel.run("from pathlib import Path\nPath('/arc/home/astronomer/made.txt').write_text('here')")
        seen = kernel.run("import os\nprint(sorted(os.listdir('/arc/projects')), os.listdir('/arc/home'))")
    assert shape == "(300, 300)"
    assert seen == "['survey-x'] ['astronomer']"
    home = installed.ground.folder / "home/astronomer"
    assert (home / "made.txt").stat().st_uid == home.stat().st_uid >= 1000


def test_credentials_of_the_sites_services_are_in_it(
    astronomer: Person, session: str, installed: Installed
) -> None:
    def subject() -> str:
        script = (
            "import os; from cryptography import x509;"
            "print(x509.load_pem_x509_certificate(open(os.environ['X509_USER_PROXY'],'rb').read()).subject)"
        )
        return installed.ground.run(session, "/opt/venv/bin/python", "-c", script).stdout

    until(lambda: "astronomer" in subject(), "a certificate in the session")


def test_what_may_not_start_is_refused_with_a_sentence(astronomer: Person, installed: Installed) -> None:
    pods = len(installed.ground.pods())
    refused = {
        "team": (403, "ivo://example.org/gms?other-project"),
        "nothing": (400, "not in the catalogue"),
    }
    for profile, (status, part) in refused.items():
        answer = astronomer.start("not-this", {"profile": profile})
        assert answer.status_code == status, answer.text
        assert part in answer.json()["message"]
    assert len(installed.ground.pods()) == pods
    outsider = installed.sign_in("outsider").arrived
    assert outsider.status_code == 403
    assert "canfar-users" in outsider.text


def test_the_release_tests_itself(installed: Installed) -> None:
    told = helm("test", RELEASE, "-n", installed.name, "--logs")
    assert "JupyterHub 6.1" in told.stdout


_METRICS = """
import sys, urllib.error, urllib.request
headers = {"Authorization": "token " + sys.argv[1]}
request = urllib.request.Request("http://localhost:8081/hub/metrics", headers=headers)
try:
    print(urllib.request.urlopen(request).read().decode())
except urllib.error.HTTPError as error:
    print(error.code)
"""


def test_metrics_are_for_the_holder_of_their_token_alone(installed: Installed) -> None:
    token = decoded("hub", installed.name)["CANFAR_METRICS_TOKEN"]
    assert "jupyterhub_running_servers" in installed.run("hub", "python", "-c", _METRICS, token).stdout
    assert installed.run("hub", "python", "-c", _METRICS, "wrong").stdout.strip() == "403"


def test_secrets_are_made_once(installed: Installed) -> None:
    before, hub = decoded("hub", installed.name), installed.pod("hub")
    helm("upgrade", RELEASE, str(CHART), "-n", installed.name, "-f", str(installed.file))
    installed.is_up()
    assert decoded("hub", installed.name) == before
    assert installed.pod("hub") == hub  # nothing changed, so nothing starts anew


def test_pods_keep_to_the_restricted_level(installed: Installed) -> None:
    for pod in listed("pods", "-n", installed.name):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, container["name"]
            assert context["capabilities"] == {"drop": ["ALL"]}
