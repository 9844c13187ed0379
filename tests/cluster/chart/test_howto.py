"""The operators' guides, followed command by command on a release of its own, under a running session."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.chart import Installed, decoded, place, records_on_a_claim
from tests.support.cluster import kubectl, listed
from tests.support.howto import Guide, commands
from tests.support.stack import Person, until

pytestmark = pytest.mark.cluster

INSTALL, OPERATE, STORAGE = (commands(f"{page}.md") for page in ("install", "operate", "storage"))
(UPGRADE,) = OPERATE["Upgrade"]
GONE = 180.0  # seconds until the hub has removed what it does not know, on a busy machine
ELSEWHERE = {
    "On kind": "has its own program; the commands of Helm and kubectl are those of “Install”",
}
"""What is not tried, and why."""


def test_every_block_of_commands_is_tried() -> None:
    tried = Path(__file__).read_text()
    for guide, page in (("INSTALL", INSTALL), ("OPERATE", OPERATE), ("STORAGE", STORAGE)):
        for heading in page.keys() - ELSEWHERE.keys():
            assert f'{guide}["{heading}"]' in tried, heading


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, kubeconfig: str) -> Iterator[Installed]:
    """A place with a values file that names no storage, in which nothing is installed yet."""
    with place(tmp_path_factory.mktemp("howto")) as found:
        values = records_on_a_claim(found)
        del values["storage"]
        found.ground = dataclasses.replace(found.ground, folder=Path("/var/lib/canfar-hub", found.name))
        found.file.write_text(yaml.safe_dump(values))
        yield found
        shutil.rmtree(found.ground.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def shell(small: Installed) -> Guide:
    return Guide(small)


@dataclasses.dataclass(frozen=True)
class Visit:
    """Somebody in a browser, who has been in the session at `address`."""

    person: Person
    address: str

    def opens(self) -> bool:
        """Whether the session opens, without another sign-in."""
        self.person.browser.get(self.address)
        return self.person.browser.get(f"{self.address}api/status").status_code == 200

    def notices(self) -> tuple[bool, bool, bool]:
        """Whether they are signed in at the hub, have an API token that works, and can open the session."""
        home = self.person.browser.get(f"{self.person.stack.url}/hub/home")
        signed_in = home.status_code == 200 and home.url.path == "/hub/home"
        return signed_in, self.person.api("GET", "/user").status_code == 200, self.opens()


@pytest.fixture
def visit(small: Installed) -> Visit:
    """Somebody who has signed in at this hub as it is now."""
    person = small.sign_in("astronomer")
    model = person.server("kept")
    if not model.get("ready"):
        model = person.begin("kept", {"profile": "notebook"})
    found = Visit(person, str(model["full_url"]))
    assert found.notices() == (True, True, True)
    return found


def _upgrade(shell: Guide, **changes: object) -> None:
    """Changes the values file, and upgrades as the guide says."""
    file = shell.release.file
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))
    shell.type(UPGRADE)
    shell.release.is_up()


# Install


def test_it_installs_and_tests_itself(small: Installed, shell: Guide) -> None:
    (block,) = INSTALL["Install"]
    told = shell.type(block).stdout
    assert "successfully rolled out" in told
    assert "Phase:          Succeeded" in told
    small.is_up()
    # Helm can wait for all of it; here without images ahead, one of which cannot be had.
    upgrade = UPGRADE.splitlines()[0]
    assert "upgraded" in shell.type(f"{upgrade} --set prepull.enabled=false --wait --timeout=2m").stdout


def test_what_to_look_at_when_it_does_not_come_up(shell: Guide) -> None:
    (look,) = INSTALL["When it does not come up"]
    told = [shell.type(line).stdout for line in look.splitlines()]
    assert "hub-" in told[0]
    assert told[1].strip()
    assert "Readiness" in told[2]


def test_registries_secrets_are_made_for_private_images(small: Installed, shell: Guide) -> None:
    held = {"auths": {"registry.example.org": {"auth": "dTpw"}}}
    (shell.release.top / "config.json").write_text(json.dumps(held))
    (secret,) = INSTALL["Private images"]
    shell.type(secret)
    _upgrade(shell, registries={"secret": "registries"})
    assert small.sign_in("visitor").begin("private", {"profile": "notebook"})["ready"]
    small.sign_in("visitor").stop_all()


# Projects


def test_a_groups_number_is_found_and_a_project_added(small: Installed, shell: Guide, visit: Visit) -> None:
    numbers, directory = STORAGE["Add a project"]
    told = dict(reversed(line.split()) for line in shell.type(numbers).stdout.splitlines())
    number = told["ivo://example.org/gms?survey-x"]
    here = directory.replace("/arc/", f"{small.ground.folder}/").replace("900001", number)
    shell.type(here)
    site = yaml.safe_load(small.file.read_text())["site"]
    project = {"name": "survey-x", "write": ["ivo://example.org/gms?survey-x"]}
    site["cluster"]["volume"]["projects"] = [project]
    _upgrade(shell, site=site)
    visit.person.begin("member", {"profile": "notebook"})
    written = small.ground.run("member", "touch", "/arc/projects/survey-x/mine")
    assert written.returncode == 0, written.stderr
    visit.person.stop("member")
    assert (small.ground.folder / "projects/survey-x/mine").stat().st_gid == int(number)


# Back up and restore


def test_a_backup_is_restored_under_a_running_session(small: Installed, shell: Guide, visit: Visit) -> None:
    kept = small.ground.pod("kept")["metadata"]["uid"]
    sqlite, _ = OPERATE["Back up"]
    shell.type(sqlite)
    for copy in ("hub.sqlite", "hub-secret.yaml"):
        assert (shell.release.top / copy).stat().st_mode & 0o077 == 0
    since = small.sign_in("visitor")
    since.begin("since", {"profile": "notebook"})

    stop, restored, _, start = OPERATE["Restore"]
    for block in (stop, restored, start):
        shell.type(block)
    small.is_up()
    until(lambda: visit.person.server("kept").get("ready"), "the session of before")
    assert small.ground.pod("kept")["metadata"]["uid"] == kept
    assert visit.opens()
    until(lambda: not small.ground.pod("since"), "the removal of a session that is unknown", GONE)


def test_a_dump_of_postgresql_is_restored_under_a_running_session(
    installed: Installed, astronomer: Person, session: str
) -> None:
    kept = installed.ground.pod(session)["metadata"]["uid"]
    _, dump = OPERATE["Back up"]
    _in_the_databases_pod(installed, dump)
    stop, _, restored, start = OPERATE["Restore"]
    shell = Guide(installed)
    shell.type(stop)
    _in_the_databases_pod(installed, restored)
    shell.type(start)
    installed.is_up()
    until(lambda: astronomer.server(session).get("ready"), "the session of before")
    assert installed.ground.pod(session)["metadata"]["uid"] == kept


def _in_the_databases_pod(found: Installed, command: str) -> None:
    here = command.replace("=db.example.org", "=127.0.0.1")
    here = here.replace("custom canfar", "custom postgres").replace("dbname=canfar", "dbname=postgres")
    script = f'cd /tmp; export PGPASSWORD="$PASSWORD" PATH="$(echo /usr/lib/postgresql/*/bin):$PATH"; {here}'
    kubectl("exec", "-n", found.world.name, "deployment/postgres", "--", "sh", "-ec", script)


def test_the_databases_password_is_changed(installed: Installed, astronomer: Person, session: str) -> None:
    world = installed.world
    fresh = dataclasses.replace(world, password=f"{world.password}-again")
    statement = f"ALTER USER canfar PASSWORD '{fresh.password}'"
    _in_the_databases_pod(installed, f'psql --host=127.0.0.1 --username=canfar postgres -c "{statement}"')
    url = fresh.database(f"postgres.{world.name}.svc.cluster.local")
    changed = {"stringData": {"url": url}}
    kubectl("patch", "secret", "database", "-n", installed.name, "--patch-file", "/dev/stdin", given=changed)
    shell = Guide(installed)
    shell.type("kubectl -n canfar rollout restart deployment/hub")
    installed.is_up()
    assert astronomer.server(session)["ready"]
    assert installed.sign_in("visitor").token


# Secrets

NOTICED = {  # is still signed in at the hub, has API tokens that work, opens the session
    "CANFAR_METRICS_TOKEN": (True, True, True),
    "CANFAR_GATEWAY_TOKEN": (True, True, True),
    "CONFIGPROXY_AUTH_TOKEN": (True, True, True),
    "JPY_COOKIE_SECRET": (False, True, True),
    "JUPYTERHUB_CRYPT_KEY": (False, False, True),
    "CANFAR_SITE_KEY": (True, True, True),
}


@pytest.mark.parametrize("key", NOTICED)
def test_a_secret_is_rotated_with_what_the_table_says(
    small: Installed, shell: Guide, visit: Visit, key: str
) -> None:
    take_away, _ = OPERATE["Rotate secrets"]
    before, kept = decoded("hub", small.name), small.ground.pod("kept")["metadata"]["uid"]
    shell.type(take_away.replace("CANFAR_METRICS_TOKEN", key))
    small.is_up()
    # The gateway before this one answers its visitors for some seconds more.
    until(lambda: len(small.pods("gateway")) == 1, "the end of the gateway with the former secrets")
    after = decoded("hub", small.name)
    assert {name for name in after if after[name] != before[name]} == {key}
    assert visit.notices() == NOTICED[key]
    assert small.ground.pod("kept")["metadata"]["uid"] == kept
    # Another browser, in which the program has left no cookie of its own.
    again = small.sign_in("astronomer")
    opens = key != "CANFAR_SITE_KEY"
    assert Visit(again, visit.address).notices() == (True, True, opens)
    if not opens:  # as the table says, a start anew mends it
        again.stop("kept")
        again.begin("kept", {"profile": "notebook"})
        assert Visit(again, visit.address).opens()


def test_a_new_key_of_encryption_beside_the_old_is_not_noticed(
    small: Installed, shell: Guide, visit: Visit
) -> None:
    _, beside = OPERATE["Rotate secrets"]
    shell.type(beside)
    small.is_up()
    assert decoded("hub", small.name)["JUPYTERHUB_CRYPT_KEY"].count(";") == 1
    assert visit.notices() == (True, True, True)


def test_the_providers_secret_is_changed_on_both_sides(small: Installed, shell: Guide, visit: Visit) -> None:
    world = small.world.name
    kubectl("set", "env", "-n", world, "deployment/web", "-c", "provider", "CANFAR_CLIENT_SECRET=another")
    kubectl("rollout", "status", "-n", world, "deployment/web", "--timeout=100s")
    until(lambda: len(listed("pods", "-n", world, "-l", "app=web")) == 1, "the end of the former provider")
    discovery = f"{small.world.url('idp')}/.well-known/openid-configuration"
    until(lambda: small.answers(discovery), "the provider again")
    small.is_up()
    refused = small.sign_in("visitor").arrived
    assert refused.status_code == 403, refused.text
    _upgrade(shell, secrets={"clientSecret": "another"})
    assert small.sign_in("visitor").token
    # This provider forgets at its restart who has signed in, so the hub asks for that once more.
    assert visit.notices()[1:] == (True, True)


def test_a_secret_of_the_sites_own_takes_the_charts_place(small: Installed, shell: Guide, visit: Visit) -> None:
    own = {"metadata": {"name": "own", "namespace": small.name}, "stringData": decoded("hub", small.name)}
    kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "Secret", **own})
    _upgrade(shell, secrets={"existing": "own"})
    assert "secret/hub" not in kubectl("get", "secrets", "-n", small.name, "-o", "name").split()
    assert visit.notices() == (True, True, True)
    token = {"stringData": {"CANFAR_GATEWAY_TOKEN": "f" * 64}}
    kubectl("patch", "secret", "own", "-n", small.name, "--patch-file", "/dev/stdin", given=token)
    shell.type("kubectl -n canfar rollout restart deployment/hub deployment/gateway")
    small.is_up()
    assert visit.notices() == (True, True, True)


def test_metrics_are_looked_at_by_hand(shell: Guide) -> None:
    (look,) = OPERATE["Metrics and alerts"]
    assert "jupyterhub_running_servers" in shell.type(look).stdout


# Nodes, and the end


@pytest.fixture
def node() -> Iterator[str]:
    """The node, which takes pods again afterwards."""
    name = str(listed("nodes", "-l", "type!=kwok")[0]["metadata"]["name"])
    yield name
    kubectl("uncordon", name)


def test_a_node_is_drained_of_all_but_sessions(small: Installed, shell: Guide, visit: Visit, node: str) -> None:
    look, drain = OPERATE["Drain a node"]
    seen = shell.type(look.replace("NODE", node)).stdout
    assert "astronomer" in seen
    assert "notebook" in seen
    # Other pods of this node are other tests'.
    for space in (small.name, small.ground.sessions):
        kubectl("label", "pods", "-n", space, "--all", "drained=yes")
    here = f"{drain.replace('NODE', node)} --pod-selector=drained=yes"
    hub = small.pod("hub")
    waits = shell.type(f"{here} --timeout=20s", check=False)
    assert waits.returncode != 0
    assert "disruption budget" in waits.stderr
    until(lambda: small.pod("hub") != hub, "the hub to have moved")

    kubectl("uncordon", node)  # the hub has no other node here
    small.is_up()
    kept = small.ground.pod("kept")["metadata"]["name"]
    kubectl("delete", "pod", "-n", small.ground.sessions, kept, "--wait=false")
    until(lambda: not visit.person.server("kept").get("ready"), "the hub to notice")
    assert "kept" in visit.person.browser.get(f"{small.url}/hub/home").text
    shell.type(f"{here} --timeout=60s")


def test_it_is_removed_with_all_that_it_left(small: Installed, shell: Guide) -> None:
    small.is_up()
    uninstall, rest = OPERATE["Remove"]
    shell.type(uninstall)
    shell.type(f"{rest.splitlines()[0]} --wait=false\n{rest.splitlines()[1]} --wait=false")
    until(lambda: not _found(small), "the end of namespaces and volumes", GONE)
    assert (small.ground.folder / "home/astronomer").is_dir()


def _found(found: Installed) -> list[str]:
    objects = [f"namespace/{name}" for name in (found.name, found.ground.sessions, found.ground.homes)]
    objects += [f"pv/{name}-data" for name in (found.ground.sessions, found.ground.homes)]
    return kubectl("get", *objects, "-o", "name", "--ignore-not-found").split()
