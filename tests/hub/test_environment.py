"""The hub's environment: what it lacks is said in one line, and what an administrator adds works."""

import ast
import os
import secrets
from unittest.mock import patch

import pytest

from canfar_hub import environment
from tests.hub.test_demo import refused
from tests.support.ports import free_port
from tests.support.stack import ROOT, demo_command, running

TABLE = ast.get_docstring(ast.parse((ROOT / "jupyterhub_config.py").read_text())) or ""
NEEDED = (
    "CANFAR_SITE",
    "CANFAR_SPAWNER",
    "CANFAR_HUB_URL",
    "CANFAR_DATABASE_URL",
    "CANFAR_CLIENT_SECRET",
    "CANFAR_SITE_KEY",
    "CANFAR_GATEWAY_API_URL",
    "CANFAR_GATEWAY_TOKEN",
    "CONFIGPROXY_AUTH_TOKEN",
    "JUPYTERHUB_CRYPT_KEY",
    "JPY_COOKIE_SECRET",
)
ENOUGH = dict.fromkeys(NEEDED, "some") | {"CANFAR_DATABASE_URL": "sqlite://", "CANFAR_SPAWNER": "canfar-local"}


def hub(tmp_path, **change):
    """A hub that must not start, with all that it needs but for `change`; the line that it says."""
    keys = dict.fromkeys(("JUPYTERHUB_CRYPT_KEY", "JPY_COOKIE_SECRET"), "0" * 64)
    site = {"CANFAR_SITE": str(ROOT / "demo/site.yaml")}
    python = demo_command(0, tmp_path)[0]
    return refused(python, "-m", "jupyterhub", "-f", "jupyterhub_config.py", **ENOUGH | keys | site | change)


@pytest.mark.parametrize("value", [None, ""], ids=["absent", "empty"])
@pytest.mark.parametrize("name", NEEDED)
def test_a_variable_that_is_missing_is_named_with_its_meaning(name, value):
    change = {name: value} if value is not None else {}
    given = {key: text for key, text in ENOUGH.items() if key != name} | change
    with pytest.raises(SystemExit, match=rf"^{name} is not set\. Set it in the hub's environment: .+\.$"):
        environment.check_or_exit(TABLE, given)


def test_nothing_else_is_needed():
    environment.check_or_exit(TABLE, ENOUGH)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("hub.sqlite", "is not usable"),
        ("mongodb://host/hub", "is not usable"),
        ("mysql://canfar:s3cret@127.0.0.1/hub", "is not usable"),  # a driver that is not installed
        ("postgresql+psycopg://canfar:s3cret@127.0.0.1:{port}/hub", "Connection refused"),
        ("sqlite:////no/such/folder/hub.sqlite", "unable to open database file"),
        ("sqlite:///file:{folder}/hub.sqlite?mode=ro&uri=true", "readonly database"),
    ],
)
def test_a_database_that_cannot_be_used(tmp_path, url, complaint):
    (tmp_path / "hub.sqlite").touch()
    url = url.format(port=free_port(), folder=tmp_path)
    with pytest.raises(SystemExit) as caught:
        environment.check_or_exit(TABLE, ENOUGH | {"CANFAR_DATABASE_URL": url})
    line = str(caught.value)
    assert complaint in line
    assert "CANFAR_DATABASE_URL" in line
    assert line.endswith(".")
    assert "\n" not in line
    assert "s3cret" not in line


def test_the_hub_ends_with_that_line_alone(tmp_path):
    assert "CANFAR_SITE_KEY is not set." in hub(tmp_path, CANFAR_SITE_KEY="")
    url = f"postgresql+psycopg://canfar@127.0.0.1:{free_port()}/hub"
    assert "Start it, or set CANFAR_DATABASE_URL" in hub(tmp_path, CANFAR_DATABASE_URL=url)
    assert "CANFAR_EXTRA_CONFIG is /no/such, which" in hub(tmp_path, CANFAR_EXTRA_CONFIG="/no/such")
    cluster = (ROOT / "demo/site.yaml").read_text() + "\ncluster: {volume: {claim: canfar-data}}\n"
    (tmp_path / "cluster.yaml").write_text(cluster)
    line = hub(tmp_path, CANFAR_SITE=str(tmp_path / "cluster.yaml"), CANFAR_NAMESPACE="")
    assert line == "CANFAR_NAMESPACE is not set. Set it to the namespace of the sessions' pods.\n"
    (tmp_path / "site.yaml").write_text("contact: me\ncontct: you\n")
    line = hub(tmp_path, CANFAR_SITE=str(tmp_path / "site.yaml"))
    assert "site.yaml, line 2: contct: there is no such setting" in line


def test_metrics_and_an_administrators_own_files(tmp_path):
    extra, token = tmp_path / "extra", secrets.token_hex(16)
    extra.mkdir()
    (extra / "10-first.py").write_text("c.JupyterHub.template_vars.update({'announcement': 'First'})\n")
    (extra / "20-second.py").write_text(
        "c.JupyterHub.template_vars.update({'announcement': 'Second'})\n"
        "c.JupyterHub.services.append({'name': 'added', 'url': 'http://127.0.0.1:9'})\n"
    )
    (extra / "note.txt").write_text("no Python")
    given = {"CANFAR_METRICS_TOKEN": token, "CANFAR_EXTRA_CONFIG": str(extra)}
    with patch.dict(os.environ, given), running(tmp_path / "data") as stack, stack.client() as visitor:
        person = stack.sign_in("astronomer")
        page = person.browser.get(f"{stack.url}/hub/home").text
        assert "Second" in page
        assert "First" not in page
        headers = {"Authorization": f"token {token}"}
        assert visitor.get(f"{stack.url}/hub/metrics").status_code == 403
        metrics = visitor.get(f"{stack.url}/hub/metrics", headers=headers)
        assert "jupyterhub_total_users" in metrics.text
        assert visitor.get(f"{stack.url}/hub/api/users", headers=headers).status_code == 403
        # Nothing listens for it, but the way there is known.
        services = f"http://added--service.localhost:{stack.port}/services"
        assert visitor.get(f"{services}/added/").status_code == 503
        assert visitor.get(f"{services}/missing/").status_code == 404
