"""The embedded provider as a person starts it, and as a browser and a hub meet it."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import jwt
import pytest

from canfar_hub.identity_provider.accounts import load_accounts
from canfar_site.yamlfile import FileError
from tests.support.oidc_provider import DEMO_ACCOUNTS, EmbeddedProvider, sign_in_form
from tests.support.ports import free_port

CALLBACK = "http://localhost:8000/hub/oauth_callback"
VERIFIER = "a-code-verifier-of-forty-three-characters-or-more"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedProvider]:
    running = EmbeddedProvider(tmp_path_factory.mktemp("provider") / "data", free_port(), CALLBACK)
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
def browser(provider: EmbeddedProvider) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=provider.issuer, trust_env=False, timeout=20) as client:
        yield client


def authorize(**changes: str) -> str:
    query = {
        "response_type": "code",
        "client_id": "canfar-hub",
        "redirect_uri": CALLBACK,
        "scope": "openid profile email",
        "state": "s",
        "nonce": "n",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        **changes,
    }
    return "/authorize?" + urlencode({key: value for key, value in query.items() if value})


def sign_in(browser: httpx.Client, name: str, password: str | None = None, **changes: str) -> httpx.Response:
    url = authorize(**changes)
    page = browser.get(url)
    return browser.post(url, data=sign_in_form(page.text, name, name if password is None else password))


def tokens(browser: httpx.Client, provider: EmbeddedProvider, name: str, **changes: str) -> httpx.Response:
    code = parse_qs(urlsplit(sign_in(browser, name).headers["location"]).query)["code"][0]
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": CALLBACK,
        "client_id": "canfar-hub",
        "client_secret": provider.client_secret,
        "code_verifier": VERIFIER,
        **changes,
    }
    return browser.post("/token", data={key: value for key, value in form.items() if value})


def refresh(browser: httpx.Client, provider: EmbeddedProvider, token: str) -> httpx.Response:
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": "canfar-hub"}
    return browser.post("/token", data={**form, "client_secret": provider.client_secret})


# Signing in


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("astronomer", ["ivo://example.org/gms?canfar-users", "ivo://example.org/gms?survey-x"]),
        ("visitor", ["ivo://example.org/gms?canfar-users"]),
        ("admin", ["ivo://example.org/gms?canfar-admins"]),
        ("outsider", ["ivo://example.org/gms?other-project"]),
        ("first.last@example.org", ["ivo://example.org/gms?canfar-users"]),
    ],
)
def test_the_sample_accounts_and_their_claims(
    browser: httpx.Client, provider: EmbeddedProvider, name: str, groups: list[str]
) -> None:
    said = tokens(browser, provider, name).json()
    claims = browser.get("/userinfo", headers={"Authorization": f"Bearer {said['access_token']}"}).json()
    account = load_accounts(DEMO_ACCOUNTS).accounts[name]
    assert claims == {
        "sub": name,
        "preferred_username": name,
        "name": account.full_name,
        "email": account.email,
        "groups": groups,
    }
    id_token = jwt.decode(said["id_token"], options={"verify_signature": False})
    assert (id_token["iss"], id_token["sub"], id_token["nonce"]) == (provider.issuer, name, "n")


def test_a_name_only_where_the_scope_says_so(browser: httpx.Client, provider: EmbeddedProvider) -> None:
    code = parse_qs(urlsplit(sign_in(browser, "visitor", scope="openid").headers["location"]).query)["code"][0]
    said = tokens(browser, provider, "visitor", code=code).json()
    claims = browser.get("/userinfo", headers={"Authorization": f"Bearer {said['access_token']}"}).json()
    assert set(claims) == {"sub", "groups"}


@pytest.mark.parametrize(("name", "password"), [("astronomer", "wrong"), ("nobody", "nobody")])
def test_a_wrong_password_is_a_sentence(browser: httpx.Client, name: str, password: str) -> None:
    answer = sign_in(browser, name, password)
    assert not answer.is_redirect
    assert "The account name or the password is not right; check both and try again." in answer.text
    assert f'value="{name}"' in answer.text
    assert 'role="alert"' in answer.text


def test_a_hostile_name_stays_text(browser: httpx.Client) -> None:
    answer = sign_in(browser, '"><script>x</script>', "y")
    assert "<script>x" not in answer.text


@pytest.mark.parametrize(
    "changes",
    [{"code_challenge": "", "code_challenge_method": ""}, {"code_challenge_method": "plain"}],
    ids=["none", "plain"],
)
def test_a_proof_key_is_required(browser: httpx.Client, changes: dict[str, str]) -> None:
    answer = browser.get(authorize(**changes))
    assert parse_qs(urlsplit(answer.headers["location"]).query)["error"] == ["invalid_request"]


@pytest.mark.parametrize(
    "changes",
    [{"code_verifier": ""}, {"code_verifier": "x" * 43}, {"client_secret": "wrong"}, {"client_secret": ""}],
    ids=str,
)
def test_a_code_alone_is_worth_nothing(
    browser: httpx.Client, provider: EmbeddedProvider, changes: dict[str, str]
) -> None:
    assert tokens(browser, provider, "visitor", **changes).status_code in (400, 401)


@pytest.mark.parametrize(
    "changes", [{"redirect_uri": "http://evil.example.org/"}, {"client_id": "other"}], ids=str
)
def test_what_cannot_go_back_to_the_hub_is_a_page(browser: httpx.Client, changes: dict[str, str]) -> None:
    answer = browser.get(authorize(**changes))
    assert answer.status_code == 400
    assert "This sign-in cannot go on" in answer.text


@pytest.mark.parametrize(
    "grant", ["password", "client_credentials", "urn:ietf:params:oauth:grant-type:device_code"]
)
def test_other_grants_are_closed(browser: httpx.Client, provider: EmbeddedProvider, grant: str) -> None:
    form = {"grant_type": grant, "username": "admin", "password": "admin", "client_id": "canfar-hub"}
    answer = browser.post("/token", data={**form, "client_secret": provider.client_secret})
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


def test_a_refresh_token_works_once(browser: httpx.Client, provider: EmbeddedProvider) -> None:
    first = tokens(browser, provider, "visitor").json()["refresh_token"]
    second = refresh(browser, provider, first)
    assert second.status_code == 200
    assert second.json()["refresh_token"] != first
    assert refresh(browser, provider, first).status_code == 400


# Signing out


def test_signing_out_returns_to_the_hub_only(browser: httpx.Client) -> None:
    back = browser.get("/logout", params={"post_logout_redirect_uri": "http://localhost:8000/hub/login"})
    assert (back.status_code, back.headers["location"]) == (302, "http://localhost:8000/hub/login")
    assert "Signed out" in browser.get("/logout").text


@pytest.mark.parametrize(
    "elsewhere",
    [
        "http://evil.example.org/",
        "//evil.example.org/",
        "http://localhost:8000@evil.example.org/",
        "http://localhost:8000\\.evil.example.org/",
        "http://localhost:8000\t.evil.example.org/",
        "javascript:alert(1)",
        "http:///evil.example.org",
    ],
)
def test_signing_out_goes_nowhere_else(browser: httpx.Client, elsewhere: str) -> None:
    for answer in (
        browser.get("/logout", params={"post_logout_redirect_uri": elsewhere}),
        browser.post("/end_session", data={"post_logout_redirect_uri": elsewhere}),
        browser.post(
            "/logout?post_logout_redirect_uri=http://localhost:8000/",
            data={"post_logout_redirect_uri": elsewhere},
        ),
    ):
        assert answer.status_code == 400


# What is open, and what it looks like


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/login",
        "/users",
        "/users/create",
        "/clients",
        "/settings",
        "/keys",
        "/keys/download/private",
        "/claims",
        "/audit",
        "/test",
        "/management/unlock",
        "/api/users",
        "/api/users/admin/token",
        "/api/config",
        "/api/keys/rotate",
        "/api/audit",
        "/api/runtime/users",
        "/register",
        "/device",
        "/device_authorization",
        "/saml/metadata",
        "/saml/sso",
        "/health",
        "/static/logos/x",
        "/assets/../application.py",
    ],
)
def test_everything_but_signing_in_is_not_there(browser: httpx.Client, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = browser.request(method, path)
        assert answer.status_code in (404, 405), method
        assert "nanoidp" not in answer.text.lower()


def test_discovery_names_only_what_is_open(browser: httpx.Client, provider: EmbeddedProvider) -> None:
    said = browser.get("/.well-known/openid-configuration").json()
    assert said["issuer"] == provider.issuer
    assert said["code_challenge_methods_supported"] == ["S256"]
    assert said["grant_types_supported"] == ["authorization_code", "refresh_token"]
    for name, url in said.items():
        if name.endswith("_endpoint") or name == "jwks_uri":
            assert url.startswith(provider.issuer)
            assert {browser.get(url).status_code, browser.post(url).status_code} != {404}, name


def test_another_host_name_is_refused(browser: httpx.Client) -> None:
    # A page elsewhere could otherwise bind its own name to this address.
    assert browser.get("/logout", headers={"Host": "evil.example.org"}).status_code == 400


def test_pages_ask_nothing_of_the_internet(browser: httpx.Client) -> None:
    pages = [
        browser.get(authorize()),
        sign_in(browser, "astronomer", "wrong"),
        browser.get("/logout"),
        browser.get(authorize(client_id="x")),
        browser.get("/nothing"),
    ]
    assets = {name for page in pages for name in re.findall(r'(?:href|src)="(/[^"]*)"', page.text)}
    assert {"/assets/provider.css", "/assets/provider.js", "/assets/mark.svg"} == assets
    for page in [*pages, *(browser.get(asset) for asset in assets)]:
        found = set(re.findall(r"(?:https?:)?//[a-z0-9][^\s\"'<>)]*", page.text))
        assert found <= {"http://localhost:8000/", "http://www.w3.org/2000/svg"}
        assert page.headers["content-security-policy"].startswith("default-src 'none'")


def test_pages_are_made_for_everybody(browser: httpx.Client) -> None:
    page = browser.get(authorize()).text
    assert '<html lang="en">' in page
    assert "<title>Sign in" in page
    for landmark in ("<header", "<main", "<footer", "<h1"):
        assert page.count(landmark) == 1
    for field in re.findall(r'<input id="([^"]+)"', page):
        assert f'<label for="{field}">' in page
    assert re.findall(r'data-account="([^"]+)"', page) == list(load_accounts(DEMO_ACCOUNTS).accounts)


# Starting and stopping


def test_keys_and_tokens_survive_a_restart_and_the_end_is_clean(tmp_path: Path) -> None:
    provider = EmbeddedProvider(tmp_path / "data", free_port(), CALLBACK).start()
    try:
        with httpx.Client(base_url=provider.issuer, trust_env=False) as browser:
            keys = browser.get("/.well-known/jwks.json").json()
            held = tokens(browser, provider, "visitor").json()
            used = tokens(browser, provider, "visitor").json()["refresh_token"]
            assert refresh(browser, provider, used).status_code == 200
            page = browser.get(authorize())
            assert provider.stop() == 0
            provider.start()
            assert browser.get("/.well-known/jwks.json").json() == keys
            bearer = {"Authorization": f"Bearer {held['access_token']}"}
            assert browser.get("/userinfo", headers=bearer).status_code == 200
            assert refresh(browser, provider, used).status_code == 400
            form = sign_in_form(page.text, "visitor", "visitor")
            assert browser.post(authorize(), data=form).is_redirect
    finally:
        assert provider.stop() == 0
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    for path in (tmp_path / "data").rglob("*"):
        assert path.is_dir() or provider.client_secret.encode() not in path.read_bytes()
    for name in ("session.key", "config/settings.yaml", "config/users.yaml", "keys/rsa_private.pem"):
        assert stat.S_IMODE((tmp_path / "data" / name).stat().st_mode) == 0o600


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "canfar_hub.identity_provider", *arguments],
        env={**os.environ, "CANFAR_CLIENT_SECRET": "a-secret", **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def refused_to_start(done: subprocess.CompletedProcess[str], *words: str) -> bool:
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert "a-secret" not in done.stderr
    return done.returncode == 1


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, str]:
    return {
        "--accounts": str(DEMO_ACCOUNTS),
        "--data": str(tmp_path / "data"),
        "--port": str(free_port()),
        "--redirect-uri": CALLBACK,
    }


def flat(arguments: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in arguments.items()]


@pytest.mark.parametrize("ip", ["0.0.0.0", "192.0.2.1", "::", "localhost", "example.org"])
def test_loopback_only(arguments: dict[str, str], ip: str) -> None:
    assert refused_to_start(run(*flat({**arguments, "--ip": ip})), ip, "not a loopback address")


def test_a_taken_port(arguments: dict[str, str]) -> None:
    with closing(socket.create_server(("127.0.0.1", int(arguments["--port"])))):
        assert refused_to_start(run(*flat(arguments)), arguments["--port"], "choose another")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"--port": "0"}, "not a port"),
        ({"--redirect-uri": "hub/oauth_callback"}, "not an address to return to"),
        ({"--accounts": "/nowhere/accounts.yaml"}, "/nowhere/accounts.yaml"),
        ({"--data": "/proc/nowhere"}, "/proc/nowhere"),
    ],
)
def test_other_reasons_not_to_start(arguments: dict[str, str], changes: dict[str, str], word: str) -> None:
    assert refused_to_start(run(*flat({**arguments, **changes})), word)


def test_no_secret_no_start(arguments: dict[str, str]) -> None:
    done = run(*flat(arguments), CANFAR_CLIENT_SECRET="")
    assert refused_to_start(done, "CANFAR_CLIENT_SECRET")


GOOD = """authority: example.org
accounts:
  visitor:
    full_name: Vera Visitor
    email: visitor@example.org
    groups: [canfar-users]
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "word"),
    [
        ("authority", "autority", 1, "autority"),
        ("authority: example.org\n", "", 1, "authority"),
        ("    email: visitor@example.org\n", "", 3, "email"),
        ("email:", "e-mail:", 5, "e-mail"),
        ("[canfar-users]", "[canfar users]", 6, "canfar users"),
        ("[canfar-users]", "[canfar-users, '{x}']", 6, "{x}"),
        ("[canfar-users]", "canfar-users", 6, "groups"),
        ("[canfar-users]", "[canfar-users", 7, "YAML"),
        ("visitor:", "Visitor/..:", 3, "Visitor/.."),
        ("Vera Visitor", "${HOME}", 4, "${"),
        ("email:", "full_name: V\n    email:", 5, "twice"),
        (GOOD, "", 1, "authority"),
        (GOOD, "[]", 1, "the file"),
        (GOOD, "a: b: c", 1, "YAML"),
        (GOOD, "a: !!python/object/apply:os.system [x]", 1, "YAML"),
    ],
)
def test_a_malformed_accounts_file_names_the_line(
    tmp_path: Path, old: str, new: str, line: int, word: str
) -> None:
    path = tmp_path / "accounts.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(FileError) as refusal:
        load_accounts(path)
    assert f"{path}, line {line}:" in str(refusal.value)
    assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_malformed_accounts_file_stops_the_start(arguments: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "accounts.yaml"
    path.write_text(GOOD.replace("email", "e-mail"))
    assert refused_to_start(run(*flat({**arguments, "--accounts": str(path)})), "line 5", "e-mail")


def test_an_account_with_a_password_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "accounts.yaml"
    path.write_text(GOOD.replace("    email", "    password: another\n    email"))
    accounts: Any = load_accounts(path)
    assert accounts.password_of("visitor") == "another"
