"""The chart on a real cluster: walked by a person in a browser and by programs, attacked, and disturbed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from tests.support.browser import ARGUMENTS, CHROMIUM, launch, sign_in
from tests.support.chart import RELEASE, Installed, apply, decoded, helm, place, site_values
from tests.support.cluster import kubectl, listed, projects
from tests.support.kernel import Kernel
from tests.support.stack import Person, until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
SLOW = 90_000  # milliseconds that a page may take on a busy machine
expect.set_options(timeout=SLOW)
PICTURES = os.environ.get("CANFAR_TEST_PICTURES", "")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, kubeconfig: str) -> Iterator[Installed]:
    """A release with PostgreSQL."""
    with place(tmp_path_factory.mktemp("chart")) as found:
        projects(found.ground.folder, found.world.database(found.world.service_ip("postgres")))
        url = found.world.database(f"postgres.{found.world.name}.svc.cluster.local")
        secret = {"metadata": {"name": "database", "namespace": found.name}, "stringData": {"url": url}}
        apply({"apiVersion": "v1", "kind": "Secret", **secret})
        values = site_values(found.world, found.ground.folder)
        values["hub"]["database"] = {"secret": "database"}
        found.upgrade(values)
        yield found


@pytest.fixture(scope="module")
def astronomer(installed: Installed) -> Iterator[Person]:
    found = installed.sign_in("astronomer")
    yield found
    found.stop_all()


@pytest.fixture(scope="module")
def session(astronomer: Person) -> str:
    """A notebook that the tests which leave it alone share."""
    started = astronomer.start("shared", {"profile": "notebook", "name": "Deep field"})
    assert started.status_code in {201, 202}, started.text
    astronomer.ready("shared")
    return "shared"


@pytest.fixture(scope="module")
def browser(installed: Installed) -> Iterator[Browser]:
    """A browser in which every host of the place is at the web server in front."""
    rules = f"--host-resolver-rules=MAP *.cluster.local {installed.address[0]}"
    with sync_playwright() as playwright:
        yield from _launched(playwright, rules)


def _launched(playwright: Playwright, rules: str) -> Iterator[Browser]:
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
        kubectl("rollout", "status", "-n", installed.name, f"deployment/{component}", "--timeout=100s")
        seen = int(progress.read_text() or 0)
        until(lambda seen=seen: int(progress.read_text() or 0) > seen, f"the computation after the {component}")

    # The same page, without a reload: it connects again, ends the first cell and runs the second.
    (home / "enough").touch()
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
        "nothing": (400, "nothing"),
    }
    for profile, (status, part) in refused.items():
        answer = astronomer.start("not-this", {"profile": profile})
        assert answer.status_code == status, answer.text
        assert part in answer.json()["message"]
    astronomer.start("missing", {"profile": "missing"})
    until(lambda: not astronomer.server("missing").get("pending"), "the end of a start")
    assert not astronomer.server("missing").get("ready")
    assert len(installed.ground.pods()) <= pods + 1
    outsider = installed.sign_in("outsider").arrived
    assert outsider.status_code == 403
    assert "canfar-users" in outsider.text


def test_the_release_tests_itself(installed: Installed) -> None:
    told = helm("test", RELEASE, "-n", installed.name, "--logs")
    assert "JupyterHub 6.1" in told.stdout


def test_metrics_are_for_the_holder_of_their_token_alone(installed: Installed) -> None:
    script = (
        "import sys, urllib.request as r, urllib.error as e\n"
        "q = r.Request('http://localhost:8081/hub/metrics', headers={'Authorization': 'token ' + sys.argv[1]})\n"
        "try: print(r.urlopen(q).read().decode())\n"
        "except e.HTTPError as x: print(x.code)"
    )
    token = decoded("hub", installed.name)["CANFAR_METRICS_TOKEN"]
    assert "jupyterhub_running_servers" in installed.run("hub", "python", "-c", script, token).stdout
    assert installed.run("hub", "python", "-c", script, "wrong").stdout.strip() == "403"


def test_secrets_are_made_once(installed: Installed) -> None:
    before, hub = decoded("hub", installed.name), installed.pod("hub")
    file = installed.ground.folder.parent / "values.yaml"
    chart = str(Path(__file__).parents[2] / "helm/canfar-hub")
    helm("upgrade", RELEASE, chart, "-n", installed.name, "-f", str(file), "--wait", "--timeout=5m")
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


# Who reaches whom


_TRY = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 3).close()
        print(target, "open")
    except OSError as error:
        print(target, "closed")
"""


def _reached(installed: Installed, server: str, *targets: str) -> dict[str, str]:
    told = installed.ground.run(server, "/opt/venv/bin/python", "-c", _TRY, *targets).stdout
    return dict(line.split() for line in told.splitlines())


def _ip(space: str, pod: str) -> str:
    return kubectl("get", "pod", "-n", space, pod, "-o", "jsonpath={.status.podIP}")


def test_what_a_session_reaches_and_what_not(astronomer: Person, session: str, installed: Installed) -> None:
    visitor = installed.sign_in("visitor")
    visitor.start("other", {"profile": "notebook"})
    visitor.ready("other")
    other = installed.ground.pod("other")["status"]["podIP"]
    hub, gateway = _ip(installed.name, installed.pod("hub")), _ip(installed.name, installed.pod("gateway"))
    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].status.addresses[0].address}")
    closed = (
        f"{other}:8888",  # another session
        f"{hub}:8081",  # the hub past the gateway
        f"{gateway}:8001",  # where routes are written
        "10.96.0.1:443",  # the API server
        f"{node}:10250",  # the kubelet
        "169.254.169.254:80",  # where clouds give credentials away
        f"postgres.{installed.world.name}.svc.cluster.local:5432" if False else f"{hub}:22",
    )
    public = installed.url.removeprefix("https://")
    opened = (f"{gateway}:8000", f"gateway.{installed.name}.svc.cluster.local:80", f"{public}:443")
    found = _reached(installed, session, *closed, *opened)
    assert [target for target in closed if found[target] != "closed"] == []
    assert [target for target in opened if found[target] != "open"] == []
    # From outside, and from a pod of the web server's, no session's port can be had.
    tried = ["kubectl", "exec", "-n", installed.world.name, "deployment/world", "-c", "web", "--"]
    import subprocess

    told = subprocess.run(
        [*tried, "python", "-c", _TRY, f"{other}:8888", f"{hub}:8081", f"{gateway}:8001", f"{gateway}:8000"],
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert dict(line.split() for line in told.splitlines()) == {
        f"{other}:8888": "closed",
        f"{hub}:8081": "closed",
        f"{gateway}:8001": "closed",
        f"{gateway}:8000": "open",
    }
    visitor.stop_all()
