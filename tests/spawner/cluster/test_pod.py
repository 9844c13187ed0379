"""What a pod is made of: nothing that anybody says takes back what a session must be."""

from __future__ import annotations

import json
import subprocess
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canfar_auth.identity import PosixGroup, PosixIds
from canfar_site.settings import Cluster, Credentials
from canfar_spawner.cluster import pod
from canfar_spawner.cluster.desktop_policy import desktop_policy
from canfar_spawner.cluster.image_accounts import init_container
from canfar_spawner.cluster.pod import Start, harden
from canfar_spawner.cluster.state import PodState
from canfar_spawner.kinds import KINDS
from canfar_spawner.spec import Desktop, Mount, Placement, SessionSpec
from tests.support.identities import SURVEY

CLUSTER = Cluster.model_validate({"volume": {"claim": "data"}})
CREDENTIALS = Credentials(cred="https://cred.example.org/generate")
SECRET = "0123456789abcdef" * 4
START = Start("s1", "canfar-abcd1234", {"HOME": "/arc/home/first.last"})


@pytest.fixture
def spec() -> SessionSpec:
    kind = KINDS["notebook"]
    return SessionSpec(
        id="abcd1234",
        kind="notebook",
        profile="open",
        image="example.org/open:2",
        name="Deep field",
        owner="first.last",
        cores=2,
        memory=4,
        gpus=0,
        home="/arc/home/first.last",
        port=8888,
        prefix="/session/notebook/abcd1234",
        ready_path="api",
        secret=kind.secret,
        command=kind.command,
        program=(),
        groups=(SURVEY,),
        ids=PosixIds(10001, 10001, (PosixGroup(SURVEY, "survey-x", 900001),)),
        variables={"HOME": "/arc/home/first.last", "CANFAR_PREFIX": "/session/notebook/abcd1234"},
        environment=kind.environment,
        mounts=(
            Mount("/arc/home/first.last", "home/first.last"),
            Mount("/arc/projects/survey-x", "projects/survey-x", read_only=True),
        ),
        placement=Placement(1, 2, {"example.org/fpga": "1"}, {"disk": "ssd"}, ({"key": "big"},)),
    )


def built(**changes: Any) -> dict[str, Any]:
    """A pod as KubeSpawner makes it, with what a hook may have added."""
    made: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "jupyter-first-last", "labels": {"app": "jupyterhub"}, "annotations": {"a": "b"}},
        "spec": {
            "restartPolicy": "OnFailure",
            "containers": [{"name": "notebook", "image": "example.org/open:2", "args": ["jupyter"], "env": []}],
        },
    }
    made["spec"] |= changes
    return made


def container(made: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in made["spec"]["containers"] if one["name"] == "notebook")


HOSTILE = {
    "hostNetwork": True,
    "hostPID": True,
    "hostIPC": True,
    "shareProcessNamespace": True,
    "automountServiceAccountToken": True,
    "enableServiceLinks": True,
    "serviceAccountName": "hub",
    "restartPolicy": "Always",
    "securityContext": {
        "runAsUser": 0,
        "runAsNonRoot": False,
        "fsGroup": 100,
        "fsGroupChangePolicy": "Always",
        "supplementalGroups": [0, 27],
    },
    "containers": [
        {
            "name": "notebook",
            "image": "x",
            "env": [{"name": "CANFAR_SECRET", "value": "known"}, {"name": "HOME", "value": "/root"}],
            "envFrom": [{"secretRef": {"name": "hub"}}],
            "resources": {
                "limits": {"cpu": "64", "memory": "640G", "nvidia.com/gpu": "8", "example.org/own": "1"}
            },
            "volumeMounts": [{"name": "evil", "mountPath": "/etc/passwd"}],
            "securityContext": {"privileged": True, "runAsUser": 0, "capabilities": {"add": ["SYS_ADMIN"]}},
        }
    ],
    "initContainers": [{"name": "init", "securityContext": {"privileged": True, "runAsUser": 0}}],
}


def test_no_hook_takes_back_what_a_session_must_be(spec: SessionSpec) -> None:
    made = harden(built(**deepcopy(HOSTILE)), spec, START, CLUSTER)
    body = made["spec"]
    assert (
        not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "serviceAccountName"} & body.keys()
    )
    assert body["automountServiceAccountToken"] is False
    assert body["enableServiceLinks"] is False
    assert body["restartPolicy"] == "Never"
    assert body["securityContext"] == {
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "runAsNonRoot": True,
        "supplementalGroups": [900001],
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for one in (*body["containers"], *body["initContainers"]):
        context = one["securityContext"]
        assert context["privileged"] is False
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "runAsUser" not in context
    main = container(made)
    assert "envFrom" not in main
    assert main["resources"]["limits"] == {
        "cpu": "2",
        "memory": "4000000000",
        "ephemeral-storage": "50000000000",
        "example.org/fpga": "1",
        "example.org/own": "1",
    }
    assert main["resources"]["requests"]["memory"] == "2000000000"
    assert "known" not in json.dumps(main)
    assert [one for one in main["env"] if one["name"] == "HOME"] == [
        {"name": "HOME", "value": "/arc/home/first.last"}
    ]
    assert [m["name"] for m in main["volumeMounts"] if m["mountPath"] == "/etc/passwd"] == ["canfar-accounts"]


def test_what_an_administrator_adds_stays(spec: SessionSpec) -> None:
    given = built(
        volumes=[{"name": "software", "configMap": {"name": "s"}}],
        nodeSelector={"zone": "a"},
        tolerations=[{"key": "own"}],
        priorityClassName="people",
    )
    container(given)["volumeMounts"] = [{"name": "software", "mountPath": "/software"}]
    made = harden(given, spec, START, CLUSTER)
    assert made["spec"]["priorityClassName"] == "people"
    assert made["spec"]["nodeSelector"] == {"zone": "a", "disk": "ssd"}
    assert made["spec"]["tolerations"] == [{"key": "own"}, {"key": "big"}]
    assert made["spec"]["volumes"][0]["name"] == "software"
    assert {"name": "software", "mountPath": "/software"} in container(made)["volumeMounts"]
    assert made["metadata"]["labels"]["app"] == "jupyterhub"
    assert made["metadata"]["annotations"] == {"a": "b", "canfar.net/start": "s1"}


def test_a_site_can_have_no_groups_of_images(spec: SessionSpec) -> None:
    given = built(securityContext={"supplementalGroupsPolicy": "Merge"})
    strict = CLUSTER.model_copy(update={"strict_groups": True})
    security = harden(given, spec, START, strict)["spec"]["securityContext"]
    assert security["supplementalGroupsPolicy"] == "Strict"
    assert "supplementalGroupsPolicy" not in harden(built(), spec, START, CLUSTER)["spec"]["securityContext"]


def test_a_private_image_has_a_pull_secret_beside_an_administrators(spec: SessionSpec) -> None:
    given = built(imagePullSecrets=[{"name": "site"}])
    made = harden(given, spec, replace(START, pull_secret="canfar-abcd1234-pull"), CLUSTER)
    assert made["spec"]["imagePullSecrets"] == [{"name": "site"}, {"name": "canfar-abcd1234-pull"}]
    assert harden(given, spec, START, CLUSTER)["spec"]["imagePullSecrets"] == [{"name": "site"}]


def test_nothing_is_changed_in_place(spec: SessionSpec) -> None:
    given = built(**deepcopy(HOSTILE))
    before = deepcopy(given)
    harden(given, spec, START, CLUSTER)
    assert given == before


def test_mounts_are_those_of_the_plan(spec: SessionSpec) -> None:
    made = harden(built(), spec, START, CLUSTER)
    found = {m["mountPath"]: m for m in container(made)["volumeMounts"] if m["name"] == "canfar-data"}
    assert found == {
        "/arc/home/first.last": {
            "name": "canfar-data",
            "mountPath": "/arc/home/first.last",
            "subPath": "home/first.last",
            "readOnly": False,
        },
        "/arc/projects/survey-x": {
            "name": "canfar-data",
            "mountPath": "/arc/projects/survey-x",
            "subPath": "projects/survey-x",
            "readOnly": True,
        },
    }


@pytest.mark.parametrize("name", ["Deep field", "", "größe", "a" * 63, "x_y.z", "--", "UPPER"])
def test_hostname_and_labels_are_valid(spec: SessionSpec, name: str) -> None:
    made = harden(built(), replace(spec, name=name), START, CLUSTER)
    host = made["spec"]["hostname"]
    assert 0 < len(host) <= 63
    assert host.replace("-", "a").isalnum()
    assert host == host.lower()
    assert host.isascii()
    for value in made["metadata"]["labels"].values():
        assert len(value) <= 63
        assert value.isascii()
        assert value[0].isalnum()


def test_labels_are_as_skaha_writes_them(spec: SessionSpec) -> None:
    assert pod.labels(spec) == {
        "canfar.net/id": "abcd1234",
        "canfar.net/kind": "notebook",
        "canfar.net/username": "first.last",
        "canfar.net/name": pod.labels(spec)["canfar.net/name"],
        "canfar.net/flavor": "flexible",
        "canfar.net/accelerator": "none",
    }
    assert pod.labels(replace(spec, gpus=1))["canfar.net/accelerator"] == "gpu"


# Environment and command


def kubelet(text: str, known: dict[str, str]) -> str:
    """What Kubernetes makes of references : `$$` is `$`, `$(A)` a value (its `expansion` package)."""
    found, rest = "", text
    while rest:
        before, dollar, rest = rest.partition("$")
        found += before
        if not dollar:
            break
        if rest.startswith("$"):
            found, rest = found + "$", rest[1:]
        elif rest.startswith("(") and ")" in rest:
            name, _, rest = rest[1:].partition(")")
            found += known.get(name, f"$({name})")
        else:
            found += "$"
    return found


def inside(spec: SessionSpec, given: dict[str, str] | None = None) -> dict[str, str]:
    """The environment as a program in the pod has it."""
    known = {"CANFAR_SECRET": SECRET}
    for name, value in pod.environment(spec, given or {}, CREDENTIALS).items():
        known[name] = kubelet(value, known)
    return known


def test_the_environment_inside(spec: SessionSpec) -> None:
    found = inside(spec)
    assert found["JUPYTER_TOKEN"] == SECRET
    assert found["XDG_CACHE_HOME"] == "/arc/home/first.last/.cache"
    assert found["X509_USER_PROXY"] == "/run/canfar/credentials/cadcproxy.pem"
    assert found["CANFAR_PORT"] == "8888"


@pytest.mark.parametrize(
    "text",
    ["{username}", "$(CANFAR_SECRET)", "$(HOME)", "$$(HOME)", "$HOME", "$$$$", "a$", "`id`", "$(", "{{x}}"],
)
def test_text_of_users_stays_text(spec: SessionSpec, text: str) -> None:
    hostile = replace(spec, variables={**spec.variables, "skaha_username": text})
    made = pod.environment(hostile, {}, CREDENTIALS)
    assert kubelet(made["skaha_username"], {"CANFAR_SECRET": SECRET, "HOME": "/x"}) == text
    named = replace(hostile, environment={"NB_USER": "$(skaha_username)"})
    assert inside(named)["NB_USER"] == text


def test_an_images_references_are_replaced_once(spec: SessionSpec) -> None:
    named = replace(spec, environment={"A": "$(HOME)/$(CANFAR_SECRET)/$$(HOME)/$(NOTHING)/$x"})
    assert inside(named)["A"] == f"/arc/home/first.last/{SECRET}/$(HOME)/$(NOTHING)/$x"


def test_an_administrators_variables_give_way(spec: SessionSpec) -> None:
    found = inside(spec, {"HOME": "/elsewhere", "SITE": "ours"})
    assert (found["HOME"], found["SITE"]) == ("/arc/home/first.last", "ours")


def test_the_secret_is_in_no_pod(spec: SessionSpec) -> None:
    start = replace(START, environment=pod.environment(spec, {}, CREDENTIALS))
    made = harden(built(), spec, start, CLUSTER)
    assert SECRET not in json.dumps(made)
    assert container(made)["env"][0]["valueFrom"] == {
        "secretKeyRef": {"name": "canfar-abcd1234", "key": "session_secret"}
    }
    argument = replace(spec, command=("run", "$(CANFAR_SECRET)", "$(HOME)", "$(CANFAR_PORT)"))
    assert pod.command(argument, CREDENTIALS) == ["run", "$$(CANFAR_SECRET)", "/arc/home/first.last", "8888"]


def test_the_command_is_the_plans_and_an_image_without_keeps_its_own(spec: SessionSpec) -> None:
    made = container(harden(built(), spec, START, CLUSTER))
    assert made["command"] == ["jupyter"]
    assert "args" not in made
    own = built()
    container(own).pop("args")
    assert "command" not in container(harden(own, replace(spec, command=()), START, CLUSTER))


# Resources


def test_traits(spec: SessionSpec) -> None:
    found = pod.traits(replace(spec, gpus=2), CLUSTER)
    assert (found["cpu_limit"], found["cpu_guarantee"]) == (2, 1)
    assert (found["mem_limit"], found["mem_guarantee"]) == (4 * 10**9, 2 * 10**9)
    assert found["extra_resource_limits"] == {"example.org/fpga": "1", "nvidia.com/gpu": "2"}
    assert (found["uid"], found["gid"], found["supplemental_gids"]) == (10001, 10001, [900001])


def test_scratch_and_shared_memory_have_sizes(spec: SessionSpec) -> None:
    volumes = {v["name"]: v for v in harden(built(), spec, START, CLUSTER)["spec"]["volumes"]}
    assert volumes["canfar-scratch"]["emptyDir"] == {"sizeLimit": "20000000000"}
    assert volumes["canfar-shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1000000000"}
    limits = container(harden(built(), spec, START, CLUSTER))["resources"]["limits"]
    assert limits["ephemeral-storage"] == "50000000000"


def test_account_files(spec: SessionSpec) -> None:
    data = pod.secret_data(spec, SECRET)
    assert "first.last:x:10001:10001:first.last:/arc/home/first.last:/bin/bash\n" in data["passwd"]
    assert "survey-x:x:900001:first.last\n" in data["group"]
    with pytest.raises(ValueError, match="numeric ids"):
        pod.secret_data(replace(spec, ids=None), SECRET)


# The image's own accounts


def merged(tmp_path: Path, own: dict[str, str], image: dict[str, str]) -> dict[str, str]:
    """What the init container makes of account files."""
    folders = {name: tmp_path / name for name in ("OWN", "IMAGE", "MERGED")}
    for folder in folders.values():
        folder.mkdir()
    for folder, files in ((folders["OWN"], own), (folders["IMAGE"], image)):
        for name, text in files.items():
            (folder / name).write_text(text)
    container = init_container("example.org/open:2", "accounts", "merged")
    script = container["command"][2].replace("$$", "$")
    environment = {name: str(folder) for name, folder in folders.items()}
    subprocess.run(["/bin/sh", "-c", script], env={**environment, "PATH": "/nowhere"}, check=True, timeout=60)
    return {name: (folders["MERGED"] / name).read_text() for name in ("passwd", "group")}


def test_an_images_own_accounts_are_known_where_they_are_free(tmp_path: Path) -> None:
    own = {
        "passwd": "root:x:0:0:root:/root:/bin/sh\nfirst.last:x:10001:10001::/h:/bin/sh\n",
        "group": "g:x:900:\n",
    }
    image = {
        "passwd": "root:!:0:0:evil:/:/bin/evil\nsame:x:10001:1::/:\n"
        "jovyan:secret:1000:100:J \\t:/home/jovyan:/bin/bash\n"
        "+nis::::::\nbad:x:abc:1::/:\nfirst.last:x:5:5::/:\nlast:x:1001:1::/:/bin/sh",
        "group": "sudo:x:27:first.last,jovyan\ng:x:5:\nother:x:900:\nusers:x:100:jovyan\n",
    }
    found = merged(tmp_path, own, image)
    assert found["passwd"] == (
        own["passwd"] + "jovyan:x:1000:100:J \\t:/home/jovyan:/bin/bash\nlast:x:1001:1::/:/bin/sh\n"
    )
    assert found["group"] == own["group"] + "sudo:x:27:\nusers:x:100:\n"


def test_an_image_without_account_files(tmp_path: Path) -> None:
    own = {"passwd": "a:x:10001:1::/:\n", "group": "a:x:1:\n"}
    assert merged(tmp_path, own, {}) == own


def test_a_site_chooses_whether_an_images_accounts_are_known(spec: SessionSpec) -> None:
    chosen = CLUSTER.model_copy(update={"image_accounts": True})
    made = harden(built(), spec, START, chosen)
    (first,) = made["spec"]["initContainers"]
    assert first["image"] == spec.image
    assert first["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounts = {m["mountPath"]: m["name"] for m in container(made)["volumeMounts"]}
    assert mounts["/etc/passwd"] == mounts["/etc/group"] == "canfar-merged"
    assert "initContainers" not in harden(built(), spec, START, CLUSTER)["spec"]


def test_an_application_goes_with_the_pod_of_its_desktop(spec: SessionSpec) -> None:
    owner = PodState(name="jupyter-desk", uid="u1", start="s", owner="a", server="desk", phase="Running")
    app = replace(
        spec,
        kind="desktop-app",
        files=("desktop-app.sh", "desktop-terminal.sh"),
        desktop=Desktop(id="desk1234", server="desk", start="s", display="10.1.2.3:1"),
    )
    made = harden(built(), app, Start("s2", "canfar-app", {}, owner), CLUSTER)
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "jupyter-desk", "uid": "u1"}
    ]
    starts = next(one for one in made["spec"]["volumes"] if one["name"] == "canfar-starts")
    assert starts["secret"]["defaultMode"] == 0o555
    assert [item["key"] for item in starts["secret"]["items"]] == ["desktop-app.sh", "desktop-terminal.sh"]
    main = made["spec"]["containers"][0]
    address = {"fieldRef": {"fieldPath": "status.podIP"}}
    assert {"name": "CANFAR_ADDRESS", "valueFrom": address} in main["env"]


def test_pods_of_a_desktop_are_known_by_its_id(spec: SessionSpec) -> None:
    def desktop_of(one: SessionSpec) -> str | None:
        return harden(built(), one, START, CLUSTER)["metadata"]["labels"].get("canfar.net/desktop")

    assert desktop_of(spec) is None
    assert desktop_of(replace(spec, kind="desktop", id="desk1234")) == "desk1234"
    on_it = Desktop(id="desk1234", server="desk", start="s", display="10.1.2.3:1")
    assert desktop_of(replace(spec, kind="desktop-app", desktop=on_it)) == "desk1234"


def test_the_policy_of_a_desktop_opens_x_and_samp_to_its_own_pods_alone(spec: SessionSpec) -> None:
    policy = desktop_policy(replace(spec, kind="desktop", id="desk1234"), "5eed", "jupyter-desk", "u1")
    body = policy["spec"]
    own = {"podSelector": {"matchLabels": {"canfar.net/desktop": "desk1234"}}}
    (into,), (out,) = body["ingress"], body["egress"]
    assert body["podSelector"] == own["podSelector"]
    assert (into["from"], out["to"]) == ([own], [own])
    ranges = [range(one["port"], one.get("endPort", one["port"]) + 1) for one in into["ports"]]
    assert out["ports"] == into["ports"]
    assert 6001 in ranges[0]
    assert 6901 not in {port for one in ranges for port in one}  # its page is the gateway's
