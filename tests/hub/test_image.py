"""`canfar-hub image`: from a registry or a file to a catalogue's entry, and what is refused."""

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from canfar_hub.__main__ import main
from canfar_hub.problem import Problem
from canfar_hub.references import parse_reference
from canfar_spawner.catalogue import CatalogueFolder
from tests.support.registry import Registry, digest_of, registry_running

LABELS = {
    "org.opencontainers.image.title": "Tool",
    "net.canfar.session.kinds": "contributed",
    "net.canfar.session.path": "keep",
    "net.canfar.session.secret": "Authorization: Bearer",
}


@pytest.fixture
def registry() -> Iterator[Registry]:
    with registry_running() as found:
        yield found


@pytest.fixture
def printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs the command, puts what it prints into a catalogue, and gives the one entry that is read there."""

    def run(*arguments: str):
        assert main(["image", *map(str, arguments)]) == 0
        folder = tmp_path / "catalogue"
        folder.mkdir(exist_ok=True)
        (folder / "tool.yaml").write_text(capsys.readouterr().out)
        catalogue = CatalogueFolder(folder).read()
        assert catalogue.problems == ()
        (found,) = catalogue.profiles
        return found

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    """Runs the command, which has to fail, and gives its one sentence."""

    def run(*arguments: str) -> str:
        assert main(["image", *map(str, arguments)]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.endswith(".\n")
        return err

    return run


# From a registry


def test_an_image_of_a_registry_is_pinned(registry: Registry, printed) -> None:
    made = registry.image(LABELS, "1.0")
    found = printed(f"{registry.host}/team/tool:1.0")
    assert found.images == (f"{registry.host}/team/tool:1.0@{made['digest']}",)
    assert (found.profile, found.title, found.path) == ("tool", "Tool", "keep")
    assert found.secret.scheme == "Bearer"


def test_a_digest_is_asked_for_as_it_is(registry: Registry, printed) -> None:
    digest = registry.image(LABELS)["digest"]
    assert printed(f"{registry.host}/team/tool@{digest}").images == (f"{registry.host}/team/tool@{digest}",)


def test_of_several_platforms_ours_is_read_and_all_are_pinned(registry: Registry, printed) -> None:
    ours = registry.image(LABELS)
    theirs = registry.image({}, architecture="arm64")
    attestation = {**registry.image({}), "platform": {"os": "unknown", "architecture": "unknown"}}
    digest = registry.index("latest", attestation, theirs, ours)
    assert printed(f"{registry.host}/team/tool").images == (f"{registry.host}/team/tool@{digest}",)


def test_a_token_goes_to_the_registry_alone(registry: Registry, printed) -> None:
    registry.image(LABELS, "1")
    with registry_running() as storage:
        storage.blobs, registry.elsewhere = registry.blobs, f"http://{storage.host}"
        printed(f"{registry.host}/team/tool:1")
    assert storage.asked
    assert {authorization for _, authorization in storage.asked} == {""}
    assert {authorization for path, authorization in registry.asked if path.startswith("/token")} == {""}


@pytest.mark.parametrize("part", ["manifest", "config"])
def test_what_is_not_what_its_digest_says_is_refused(registry: Registry, refused, part: str) -> None:
    digest = registry.image(LABELS, "1")["digest"]
    if part == "config":
        digest = json.loads(registry.blobs[digest])["config"]["digest"]
        registry.blobs[digest] = registry.blobs[digest].replace(b"keep", b"cut!")
        assert "not whole" in refused(f"{registry.host}/team/tool:1")
    else:
        registry.blobs[digest] += b" "
        assert "not whole" in refused(f"{registry.host}/team/tool@{digest}")


def test_what_is_not_there_or_not_open_or_not_for_us(registry: Registry, refused) -> None:
    assert "check the reference" in refused(f"{registry.host}/team/tool:2")
    registry.index("arm", registry.image(LABELS, architecture="arm64"))
    assert "linux/arm64" in refused(f"{registry.host}/team/tool:arm")
    registry.image(LABELS, "alone", architecture="arm64")
    assert "linux/arm64" in refused(f"{registry.host}/team/tool:alone")
    registry.open_to_all = False
    assert "not open to everybody" in refused(f"{registry.host}/team/tool:arm")


def test_no_host_is_asked_without_encryption(registry: Registry, refused) -> None:
    registry.image(LABELS, "1")
    registry.elsewhere = "http://192.0.2.1"
    assert "without encryption" in refused(f"{registry.host}/team/tool:1")
    registry.elsewhere, registry.realm = "", "http://192.0.2.1/token"
    assert "without encryption" in refused(f"{registry.host}/team/tool:1")
    registry.realm = "file:///etc/passwd"
    assert "without encryption" in refused(f"{registry.host}/team/tool:1")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({}, "net.canfar.session.kinds"),
        ({**LABELS, "net.canfar.session.path": "both"}, "net.canfar.session.path"),
        (["a"], "no mapping"),
        ({"a": 1}, "no mapping"),
    ],
)
def test_labels_that_cannot_be_used(registry: Registry, refused, labels: object, said: str) -> None:
    registry.image(labels, "1")
    assert said in refused(f"{registry.host}/team/tool:1")


@pytest.mark.parametrize(
    "content", [b"[]", b"not JSON", b'{"config": 5}', b'{"manifests": [{}]}', b'{"config": {}}']
)
def test_what_is_no_manifest(registry: Registry, refused, content: bytes) -> None:
    registry.blobs["odd"] = content
    registry.tags["1"] = "odd"
    refused(f"{registry.host}/team/tool:1")


def test_a_registry_that_does_not_answer(refused) -> None:
    with registry_running() as gone:
        host = gone.host
    assert f"{host} cannot be reached" in refused(f"{host}/team/tool:1")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("example.org/a", ("example.org", "a", "", "")),
        ("example.org:5000/a/b-c:V1.0", ("example.org:5000", "a/b-c", "V1.0", "")),
        ("localhost/canfar/x:test", ("localhost", "canfar/x", "test", "")),
        ("registry:80/a", ("registry:80", "a", "", "")),
        (f"docker.io/library/a:1@sha256:{'a' * 64}", ("docker.io", "library/a", "1", f"sha256:{'a' * 64}")),
    ],
)
def test_references(text: str, parts: tuple[str, ...]) -> None:
    found = parse_reference(text)
    assert (found.host, found.path, found.tag, found.digest) == parts


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "library/a", "https://example.org/a", "example.org/", "example.org/A", "example.org/a:",
        "example.org/a@b", "example.org/a b", "example.org/../a", "u@example.org/a", "example.org/a\n",
    ],
)  # fmt: skip
def test_what_is_no_reference_asks_nobody(text: str) -> None:
    with pytest.raises(Problem, match="names no image"):
        parse_reference(text)


# From files


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An image in an OCI layout, without a name of its own."""
    images = Registry()
    made = images.image(LABELS)
    folder = tmp_path / "layout"
    (folder / "blobs/sha256").mkdir(parents=True)
    for digest, content in images.blobs.items():
        (folder / "blobs" / digest.replace(":", "/")).write_bytes(content)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [made]}))
    return folder


def test_a_layout_as_folder_and_as_archive(layout: Path, tmp_path: Path, printed) -> None:
    digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    archive = tmp_path / "tool.tar.gz"
    with tarfile.open(archive, "w:gz") as made:
        made.add(layout, arcname=".")
    for source in (layout, archive):
        assert printed(source, "--name", "example.org/team/tool:1").images == (
            f"example.org/team/tool:1@{digest}",
        )


def test_files_that_do_not_say_enough(layout: Path, tmp_path: Path, refused) -> None:
    assert "--name" in refused(layout)
    assert "names no image" in refused(layout, "--name", "tool")
    (tmp_path / "text").write_text("no archive")
    assert "cannot be read" in refused(tmp_path / "text", "--name", "example.org/a:1")
    (tmp_path / "folder").mkdir()
    assert "no archive of an image" in refused(tmp_path / "folder", "--name", "example.org/a:1")
    assert "names no image" in refused(tmp_path / "missing.tar")
    shutil.rmtree(layout / "blobs")
    assert "lacks" in refused(layout, "--name", "example.org/a:1")
    (layout / "index.json").write_text('{"manifests": []}')
    assert "exactly one image" in refused(layout, "--name", "example.org/a:1")


def test_what_docker_saves_has_a_name_and_no_digest_yet(tmp_path: Path, printed) -> None:
    config = json.dumps({"os": "linux", "architecture": "amd64", "config": {"Labels": LABELS}}).encode()
    name = digest_of(config).removeprefix("sha256:") + ".json"
    listed = [{"Config": name, "RepoTags": ["example.org/team/tool:1"], "Layers": []}]
    for path, content in {name: config, "manifest.json": json.dumps(listed).encode()}.items():
        (tmp_path / path).write_bytes(content)
    with tarfile.open(tmp_path / "tool.tar", "w") as archive:
        archive.add(tmp_path / name, arcname=name)
        archive.add(tmp_path / "manifest.json", arcname="manifest.json")
    assert printed(tmp_path / "tool.tar").images == ("example.org/team/tool:1",)
    assert printed(tmp_path / name, "--name", "example.org/other:2").profile == "other"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
def test_an_image_that_podman_built(tmp_path: Path, printed) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM scratch\nCOPY Dockerfile /\n"
        + "".join(f'LABEL {name}="{value}"\n' for name, value in LABELS.items())
    )
    tag = "localhost/canfar/labels:test"
    for command in (
        ["podman", "build", "--quiet", "--tag", tag, str(tmp_path)],
        ["podman", "save", "--quiet", "--format", "oci-archive", "--output", str(tmp_path / "tool.tar"), tag],
        ["podman", "rmi", tag],
    ):
        subprocess.run(command, check=True, capture_output=True)
    found = printed(tmp_path / "tool.tar")
    name, _, digest = found.images[0].partition("@sha256:")
    assert (name, len(digest)) == (tag, 64)
    assert (found.title, found.path, found.kinds) == ("Tool", "keep", ("contributed",))


def test_what_is_printed_is_yaml_without_what_goes_without_saying(registry: Registry, capsys) -> None:
    registry.image({"net.canfar.session.kinds": "contributed"}, "1")
    assert main(["image", f"{registry.host}/team/tool:1"]) == 0
    (found,) = yaml.safe_load(capsys.readouterr().out)["profiles"]
    assert set(found) == {"profile", "title", "description", "kinds", "images"}
    registry.image(LABELS, "2")
    assert main(["image", f"{registry.host}/team/tool:2"]) == 0
    (found,) = yaml.safe_load(capsys.readouterr().out)["profiles"]
    assert found["secret"] == {"header": "Authorization", "scheme": "Bearer"}
