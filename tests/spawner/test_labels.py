"""From an image's labels to an entry of the catalogue, as tables."""

import pytest

from canfar_spawner.labels import LabelError, entry

IMAGE = "example.org/team/My_Tool:1.0@sha256:" + "0" * 64
KIND = {"net.canfar.session.kinds": "contributed"}
FULL = {
    "org.opencontainers.image.title": " My\n tool ",
    "org.opencontainers.image.description": "Shows <tables> & {braces}.",
    "org.opencontainers.image.licenses": "MIT",
    "net.canfar.session.kinds": "contributed, notebook",
    "net.canfar.session.path": "keep",
    "net.canfar.session.ready-path": "api/health",
    "net.canfar.session.secret": "X-Token:",
    "net.canfar.session.environment.TOOL_TOKEN": "$(CANFAR_SECRET)",
    "net.canfar.session.environment.BASE": "$(CANFAR_PREFIX)/",
}


def test_every_label_has_its_setting():
    found = entry(IMAGE, FULL)
    assert found.profile == "my-tool"
    assert found.images == (IMAGE,)
    assert (found.title, found.description) == ("My tool", "Shows <tables> & {braces}.")
    assert found.kinds == ("contributed", "notebook")
    assert (found.path, found.ready_path) == ("keep", "api/health")
    assert found.secret is not None
    assert (found.secret.header, found.secret.scheme) == ("X-Token", "")
    assert found.environment == {"TOOL_TOKEN": "$(CANFAR_SECRET)", "BASE": "$(CANFAR_PREFIX)/"}


@pytest.mark.parametrize(
    ("labels", "kinds"),
    [
        ({"ca.nrc.cadc.skaha.type": "carta"}, ("carta",)),
        ({"canfar.image.type": "notebook,headless"}, ("notebook", "headless")),
        ({"canfar.image.type": "notebook", **KIND}, ("contributed",)),
    ],
)
def test_labels_that_images_have_already(labels, kinds):
    found = entry("example.org/tool:1", labels)
    assert found.kinds == kinds
    assert (found.title, found.description) == ("tool", "tool")
    assert (found.path, found.ready_path, found.secret) == (None, None, None)


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        ("Authorization: Bearer", ("Authorization", "Bearer")),
        ("Cookie: key=", ("Cookie", "key=")),
        ("X-Key:", ("X-Key", "")),
    ],
)
def test_how_a_secret_is_sent(secret, expected):
    found = entry("example.org/tool:1", {**KIND, "net.canfar.session.secret": secret}).secret
    assert found is not None
    assert (found.header, found.scheme) == expected


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({}, "net.canfar.session.kinds"),
        ({"net.canfar.session.kinds": " , "}, "net.canfar.session.kinds"),
        ({"net.canfar.session.kinds": "web"}, "no kind “web”"),
        ({"net.canfar.session.kinds": "notebook notebook"}, "once"),
        ({**KIND, "net.canfar.session.kind": "notebook"}, "net.canfar.session.kind”; check its spelling"),
        ({**KIND, "net.canfar.session.path": "cut"}, "net.canfar.session.path"),
        ({**KIND, "net.canfar.session.ready-path": "a b"}, "net.canfar.session.ready-path"),
        ({**KIND, "net.canfar.session.ready-path": "?x"}, "net.canfar.session.ready-path"),
        ({**KIND, "net.canfar.session.secret": "Authorization"}, "a colon"),
        ({**KIND, "net.canfar.session.secret": "A\r\nB: c"}, "net.canfar.session.secret"),
        ({**KIND, "net.canfar.session.secret": "A: b c"}, "net.canfar.session.secret"),
        ({**KIND, "net.canfar.session.environment.A-B": "x"}, "net.canfar.session.environment"),
        ({**KIND, "net.canfar.session.environment.": "x"}, "net.canfar.session.environment"),
        ({**KIND, "org.opencontainers.image.title": "x" * 401}, "org.opencontainers.image.title"),
    ],
)
def test_what_is_refused_with_the_label_that_is_wrong(labels, said):
    with pytest.raises(LabelError) as caught:
        entry("example.org/tool:1", labels)
    assert said in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_name_that_no_entry_can_have():
    with pytest.raises(LabelError, match="name cannot be used"):
        entry("example.org/___:1", KIND)
