"""The one way to a session, on a real hub: what starts, what is refused, and what survives."""

import contextlib
import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.support.stack import Stack, until

REFUSED = {
    "an image of another group": ({"profile": "team"}, 403, "survey-x"),
    "an unknown key": ({"profile": "open", "command": "sh"}, 400, "no option"),
    "an upstream key": ({"profile": "open", "image--unlisted-choice": "evil/x"}, 400, "no option"),
    "a wrong type": ({"profile": ["open"]}, 400, "must be text"),
    "a wrong type of number": ({"profile": "open", "cores": "2"}, 400, "must be a number"),
    "an unlisted image": ({"profile": "open", "image": "evil.org/x:1"}, 400, "not on offer"),
    "a newline after an image": ({"profile": "open", "image": "example.org/open:2\n"}, 400, "not on offer"),
    "too many cores": ({"profile": "open", "cores": 64}, 400, "choices"),
    "braces in the name": ({"profile": "open", "name": "{user.name}"}, 400, "name"),
    "no profile": ({"image": "example.org/open:2"}, 400, "no profile"),
    "an empty request": ({}, 400, "no profile"),
    "a program that is not there": ({"profile": "missing"}, 400, "apt-get install no-such-program"),
}


def session_processes(stack: Stack) -> dict[int, str]:
    """The start of each process that sessions of this hub run, by process id."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environ = process.environ()
            if environ.get("CANFAR_RUNTIME_DIR") == str(stack.data / "sessions"):
                found[process.pid] = environ["CANFAR_START_ID"]
    return found


def session_programs(stack: Stack) -> dict[int, str]:
    """As `session_processes`, each session's first process alone: a start's own children come and go."""
    found = session_processes(stack)
    parents = {}
    for pid in found:
        with contextlib.suppress(psutil.Error):
            parents[pid] = psutil.Process(pid).ppid()
    return {pid: found[pid] for pid, parent in parents.items() if parent not in found}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(visitor, case):
    options, status, said = REFUSED[case]
    before = session_processes(visitor.stack)
    answer = visitor.start("x", options)
    assert answer.status_code == status, answer.text
    message = answer.json()["message"]
    assert said in message
    assert message.endswith(".")
    assert "\n" not in message
    assert session_processes(visitor.stack) == before
    assert not visitor.server("x").get("ready")


def test_the_hub_is_alive_after_fifty_refusals_and_fifty_images_that_die(visitor):
    bad = [options for options, _, _ in REFUSED.values()]
    for count in range(50):
        assert visitor.start("x", bad[count % len(bad)]).status_code in {400, 403}
    for _ in range(50):
        answer = visitor.start("dying", {"profile": "dies"})
        assert answer.status_code == 424, answer.text
    visitor.begin("alive", {"profile": "open"})


def test_the_default_server_is_refused_and_leads_to_the_picker(visitor):
    answer = visitor.api("POST", f"/users/{visitor.name}/server", {"profile": "open"})
    assert answer.status_code == 400
    assert "New session" in answer.json()["message"]
    page = visitor.browser.get(f"{visitor.stack.url}/hub/home")
    assert "/hub/spawn" in page.text
    assert "start-my-server" not in page.text.lower()


def test_no_get_starts_a_session(visitor):
    before = session_processes(visitor.stack)
    for query in ("profile=open", "opt-profile=open&opt-cores=1", "opt-profile=open&name=x"):
        for path in ("", f"/{visitor.name}", f"/{visitor.name}/linked"):
            page = visitor.browser.get(f"{visitor.stack.url}/hub/spawn{path}?{query}")
            assert page.status_code == 200
            assert "picker-offer" in page.text
    assert session_processes(visitor.stack) == before
    assert not any(s["active"] for s in visitor.api("GET", "/users/visitor").json()["servers"].values())


def test_a_request_without_options_is_planned_from_the_remembered_ones(visitor):
    assert visitor.api("POST", "/users/visitor/servers/again").status_code == 400
    visitor.start("again", {"profile": "open", "image": "example.org/open:1"})
    visitor.ready("again")
    visitor.api("DELETE", "/users/visitor/servers/again")
    until(lambda: visitor.server("again")["stopped"], "stopped")
    assert visitor.api("POST", "/users/visitor/servers/again").status_code in {201, 202}
    assert visitor.ready("again")["user_options"]["image"] == "example.org/open:1"


def test_options_stored_by_patch_are_judged_at_the_start(visitor):
    visitor.start("patched", {"profile": "open"})
    visitor.ready("patched")
    visitor.api("DELETE", "/users/visitor/servers/patched")
    until(lambda: visitor.server("patched")["stopped"], "stopped")
    hostile = {"user_options": {"profile": "team"}}
    assert visitor.api("PATCH", "/users/visitor/servers/patched", hostile).status_code == 200
    answer = visitor.api("POST", "/users/visitor/servers/patched")
    assert answer.status_code == 403
    assert "survey-x" in answer.json()["message"]


def test_an_administrator_starts_with_the_owners_rights(people, visitor):
    admin = people["admin"]
    answer = admin.api("POST", "/users/visitor/servers/byadmin", {"user_options": {"profile": "team"}})
    assert answer.status_code == 403
    assert "survey-x" in answer.json()["message"]
    admin.api("POST", "/users", {"usernames": ["nobody"]})
    answer = admin.api("POST", "/users/nobody/servers/x", {"user_options": {"profile": "open"}})
    assert answer.status_code == 409
    assert "sign in once" in answer.json()["message"]


def test_two_starts_at_the_limit_of_sessions(visitor):
    for name in ("one", "two"):
        assert visitor.start(name, {"profile": "open"}).status_code in {201, 202}
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda name: visitor.start(name, {"profile": "open"}), ("three", "four")))
    refused = [a for a in answers if a.status_code == 403]
    assert len(refused) == 1, [a.text for a in answers]
    assert "3 of 3 sessions" in refused[0].json()["message"]
    assert len(answers) - len(refused) == sum(a.status_code in {201, 202} for a in answers)


def test_a_program_that_dies_at_start_says_so_with_its_last_lines(visitor):
    answer = visitor.start("dying", {"profile": "dies"})
    assert answer.status_code == 424
    message = answer.json()["message"]
    assert "ended with status 3" in message
    assert "cannot open <table>" in message
    assert "first line" in message
    secret = [line for line in message.splitlines() if line.startswith("secret")]
    assert secret == ["secret …"]


def test_the_progress_page_tells_the_death_of_a_slow_starter(visitor):
    posted = visitor.browser.post(
        f"{visitor.stack.url}/hub/spawn/visitor?_xsrf={visitor.xsrf()}",
        data={"profile": "dies-late"},
    )
    assert "/hub/spawn-pending/visitor/" in str(posted.url)
    assert "_xsrf" not in str(posted.url)
    server = str(posted.url).partition("/spawn-pending/visitor/")[2].partition("?")[0]
    url = f"{visitor.stack.url}/hub/api/users/visitor/servers/{server}/progress"
    told: list[dict] = []
    with visitor.browser.stream("GET", url, headers={"Accept": "text/event-stream"}) as events:
        for line in events.iter_lines():
            if line.startswith("data:"):
                told.append(json.loads(line[5:]))
                if "Waiting" in told[-1]["message"]:
                    (visitor.stack.data / "arc/home/visitor/die").touch()
                if told[-1].get("failed"):
                    break
    (visitor.stack.data / "arc/home/visitor/die").unlink()
    assert any("Starting example.org/dies-late:1" in event["message"] for event in told)
    assert "ended with status 1" in told[-1]["message"]
    assert "out of memory" in told[-1]["html_message"]


def test_a_refused_form_comes_back_filled_and_leaves_nothing_behind(visitor):
    before = visitor.api("GET", "/users/visitor?include_stopped_servers").json()["servers"]
    xsrf = visitor.xsrf()
    for data, status in (({"profile": "open", "name": "{x}"}, 400), ({"profile": "dies"}, 424)):
        page = visitor.browser.post(f"{visitor.stack.url}/hub/spawn/visitor?_xsrf={xsrf}", data=data)
        assert page.status_code == status
        assert "picker-offer" in page.text
    after = visitor.api("GET", "/users/visitor?include_stopped_servers").json()["servers"]
    assert set(after) == set(before)


def test_what_a_program_gets(astronomer):
    astronomer.start("seen", {"profile": "open", "name": "My work", "cores": 2})
    model = astronomer.ready("seen")
    seen = astronomer.browser.get(f"{model['full_url']}environ").json()
    environ = seen["environ"]
    assert environ["HOME"].endswith("/arc/home/astronomer")
    assert environ["OMP_NUM_THREADS"] == "2"
    assert environ["SKAHA_PROJECTS_DIR"].endswith("/arc/projects")
    assert len(environ["skaha_sessionid"]) == 8
    secrets = json.loads((astronomer.stack.data / "secrets.json").read_text())
    text = json.dumps(seen)
    assert not [name for name, value in secrets.items() if value in text]
    hubs = {name for name in environ if name.startswith("JUPYTERHUB") or "PROXY" in name.upper()}
    assert hubs == {"X509_USER_PROXY"}  # which is a certificate's
    # The secret comes in a file, and not on the command line, which others can read.
    secret = seen["headers"]["X-Session-Secret"]
    secret_file = Path(environ["CANFAR_SECRET_FILE"])
    assert secret == secret_file.read_text()
    assert secret_file.stat().st_mode & 0o077 == 0
    assert secret not in json.dumps(seen["argv"])
    assert secret not in json.dumps(astronomer.server("seen"))


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGKILL])
def test_a_hub_restart_stops_no_session_not_even_a_frozen_one(astronomer, with_signal):
    for name in ("lively", "frozen"):
        astronomer.start(name, {"profile": "open"})
    address = {name: astronomer.ready(name)["full_url"] for name in ("lively", "frozen")}
    identifier = astronomer.browser.get(f"{address['frozen']}environ").json()["environ"]["CANFAR_START_ID"]
    (pid,) = (pid for pid, start in session_processes(astronomer.stack).items() if start == identifier)
    before = session_processes(astronomer.stack)
    os.kill(pid, signal.SIGSTOP)
    try:
        astronomer.stack.restart_hub(with_signal)
        for name in ("lively", "frozen"):
            assert astronomer.ready(name)["ready"]
        assert astronomer.browser.get(f"{address['lively']}environ").status_code == 200
    finally:
        os.kill(pid, signal.SIGCONT)
    assert astronomer.browser.get(f"{address['frozen']}environ").status_code == 200
    assert session_processes(astronomer.stack) == before
    # A frozen session can be stopped, too.
    os.kill(pid, signal.SIGSTOP)
    astronomer.stop("frozen")
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_hub_that_dies_during_a_start_finds_the_program_again(astronomer):
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(astronomer.start, "slow", {"profile": "dies-late"})
        until(lambda: session_processes(astronomer.stack), "the program")
        until(lambda: astronomer.server("slow").get("pending") == "spawn", "the start")
        started = set(session_processes(astronomer.stack).values())
        astronomer.stack.restart_hub(signal.SIGKILL)
        assert asked.result().status_code >= 500
    astronomer.ready("slow")
    assert set(session_processes(astronomer.stack).values()) == started
    astronomer.stop("slow")
    assert not session_processes(astronomer.stack)


def test_stopping_ends_everything_that_a_session_started(visitor):
    before = session_processes(visitor.stack)
    visitor.start("parent", {"profile": "open"})
    visitor.ready("parent")
    (program,) = session_processes(visitor.stack).keys() - before.keys()
    mark = psutil.Process(program).environ()["CANFAR_START_ID"]
    child = subprocess.Popen(["sleep", "600"], env={**os.environ, "CANFAR_START_ID": mark})
    try:
        visitor.stop("parent")
        assert child.wait(timeout=30) == -signal.SIGKILL
    finally:
        child.kill()
    assert session_processes(visitor.stack) == before
    assert not list((visitor.stack.data / "sessions").iterdir())


def test_the_end_of_a_running_program_is_noticed(visitor):
    before = session_processes(visitor.stack)
    visitor.start("ending", {"profile": "open"})
    visitor.ready("ending")
    (program,) = session_processes(visitor.stack).keys() - before.keys()
    os.kill(program, signal.SIGKILL)
    until(lambda: visitor.server("ending")["stopped"], "the hub notices")


def test_the_catalogue_is_read_again_and_a_bad_file_harms_no_other(visitor, catalogue_folder):
    new = catalogue_folder / "new.yaml"
    text = (catalogue_folder / "tests.yaml").read_text()
    entry = "profiles:\n" + text[text.index("  - profile: open") : text.index("  - profile: team")]
    try:
        new.write_text(entry.replace("profile: open", "profile: added").replace("title: Open", "titel: Open"))
        assert visitor.start("x", {"profile": "added"}).status_code == 400
        assert visitor.start("still", {"profile": "open"}).status_code in {201, 202}
        log = (visitor.stack.data / "logs/hub.log").read_text()
        assert "new.yaml, line 3: profiles.0.titel: there is no such setting" in log
        new.write_text(entry.replace("profile: open", "profile: added"))
        assert visitor.start("added", {"profile": "added"}).status_code in {201, 202}
    finally:
        new.unlink()


def test_a_start_is_counted_from_its_plan_on(visitor):
    """A slow start holds its place among the sessions before it is ready."""
    names = ("slow1", "slow2", "slow3")
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(visitor.start, name, {"profile": "dies-late"}) for name in names]
        until(lambda: sum(bool(visitor.server(n).get("pending")) for n in names) == 3, "three starts")
        deadline = time.monotonic() + 60
        while (answer := visitor.start("fourth", {"profile": "open"})).status_code != 403:
            visitor.stop("fourth")
            assert time.monotonic() < deadline
        assert "3 of 3" in answer.json()["message"]
        die = visitor.stack.data / "arc/home/visitor/die"
        die.touch()
        statuses = {future.result().status_code for future in waiting}
        until(lambda: not any(visitor.server(n).get("pending") for n in names), "the starts end")
        die.unlink()
    assert statuses <= {202, 424}
