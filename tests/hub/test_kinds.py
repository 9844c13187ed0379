"""What programs of the kinds see of the world, and the world of them, through the whole hub."""

import json
import socket
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from tests.support.stack import Person


@pytest.fixture
def owner(people: dict[str, Person]) -> Iterator[Person]:
    found = people["first.last@example.org"]
    yield found
    found.stop_all()


def test_firefly_is_served_below_its_base_path(owner: Person) -> None:
    assert owner.start("sky", {"profile": "firefly"}).status_code in {201, 202}
    page = owner.browser.get(owner.ready("sky")["full_url"])
    address = str(page.url).removesuffix("firefly/")
    session_id = address.rstrip("/").rpartition("/")[2]
    path = f"/session/firefly/{session_id}/"
    assert (page.status_code, page.url.path) == (200, f"{path}firefly/")
    seen = page.json()
    assert seen["path"] == f"{path}firefly/"
    assert seen["environment"]["baseURL"] == path
    assert seen["environment"]["DEBUG"] == "FALSE"
    assert seen["environment"]["XDG_CACHE_HOME"] == f"{seen['environment']['HOME']}/.cache"
    assert seen["headers"]["X-Forwarded-Proto"] == "http"
    assert seen["headers"]["X-Forwarded-Host"] == page.url.netloc.decode()

    redirected = owner.browser.get(f"{address}firefly")
    assert (redirected.status_code, redirected.url.path) == (200, f"{path}firefly/")
    # Nothing of it is at its root.
    assert owner.browser.get(address, headers={"Accept": "*/*"}).status_code == 404

    host = page.url.netloc.decode()
    signed_in = "; ".join(f"{c.name}={c.value}" for c in owner.browser.cookies.jar if c.domain == page.url.host)
    with connect(
        f"ws://{host}{path}firefly/sticky/firefly/events",
        sock=socket.create_connection(("127.0.0.1", owner.stack.port)),
        origin=f"http://{host}",  # type: ignore[arg-type]
        additional_headers={"Cookie": signed_in},
    ) as opened:
        opened.send("center")
        assert json.loads(opened.recv(60)) == {"heard": "center"}


@pytest.mark.parametrize(
    ("profile", "kept"), [("open", False), ("keeps-its-path", True)], ids=["stripped", "kept"]
)
def test_a_contributed_program_is_given_the_paths_that_it_expects(
    owner: Person, profile: str, kept: bool
) -> None:
    assert owner.start("mine", {"profile": profile}).status_code in {201, 202}
    page = owner.browser.get(owner.ready("mine")["full_url"] + "below/here")
    root = page.url.path.removesuffix("below/here")
    assert root.startswith("/session/contributed/")
    assert page.text == f"<h1>path {root if kept else '/'}below/here</h1>"
    told = owner.browser.get(page.url.join("../environ")).json()["environ"]
    assert told["CANFAR_PREFIX"] == (root.rstrip("/") if kept else "")
