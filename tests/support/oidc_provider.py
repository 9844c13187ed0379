"""Two real providers behind one face: the embedded one as a process, and canaille in a thread."""

from __future__ import annotations

import datetime
import os
import re
import secrets
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import yaml

CLIENT_ID = "canfar-hub"
DEADLINE_SECONDS = 20
DEMO_ACCOUNTS = Path(__file__).parents[2] / "demo" / "accounts.yaml"


class Provider(Protocol):
    """What the behaviour tests need of a provider."""

    issuer: str
    client_secret: str
    scope: list[str]

    def set_groups(self, name: str, groups: list[str]) -> None:
        """Put one account into exactly these groups, whatever they are called."""

    async def answer(self, browser: httpx.AsyncClient, url: str, name: str) -> str:
        """Sign in as ``name`` on the page at ``url``; the address that the browser is sent back to."""


@dataclass
class EmbeddedProvider:
    """``python -m canfar_hub.identity_provider`` with the demo's accounts."""

    data: Path
    port: int
    redirect_uri: str
    accounts: Path = DEMO_ACCOUNTS
    client_secret: str = ""
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.client_secret = self.client_secret or secrets.token_urlsafe(24)
        self.issuer = f"http://127.0.0.1:{self.port}"
        self.scope = ["openid", "profile", "email"]

    def start(self) -> EmbeddedProvider:
        """Start the process and wait until it answers."""
        self.process = run_module(self.arguments(), CANFAR_CLIENT_SECRET=self.client_secret)
        wait_until_answering(self.issuer, self.process)
        return self

    def arguments(self) -> list[str]:
        return [
            f"--accounts={self.accounts}",
            f"--data={self.data}",
            f"--port={self.port}",
            f"--redirect-uri={self.redirect_uri}",
        ]

    def stop(self) -> int:
        """End the process as an operator does; its exit code."""
        if self.process is None:
            return 0
        self.process.terminate()
        code = self.process.wait(DEADLINE_SECONDS)
        if self.process.stderr:
            self.process.stderr.close()
        self.process = None
        return code

    def set_groups(self, name: str, groups: list[str]) -> None:
        # Behind the accounts file, which refuses hostile names: nanoidp looks at this file for each request.
        users = self.data / "config" / "users.yaml"
        document = yaml.safe_load(users.read_text())
        document["users"][name]["groups"] = groups
        users.write_text(yaml.safe_dump(document))

    async def answer(self, browser: httpx.AsyncClient, url: str, name: str, password: str = "") -> str:
        page = await browser.get(url)
        if page.is_redirect:
            return page.headers["location"]
        done = await browser.post(url, data=sign_in_form(page.text, name, password or name))
        assert done.is_redirect, done.text
        return done.headers["location"]


def sign_in_form(page: str, name: str, password: str) -> dict[str, str]:
    """The fields that a browser would post from the sign-in page."""
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]+)">', page))
    assert 'name="username"' in page
    assert 'name="password"' in page
    return {**hidden, "username": name, "password": password}


def run_module(arguments: list[str], **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "canfar_hub.identity_provider", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_until_answering(issuer: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr
            raise AssertionError(process.stderr.read().decode())
        try:
            httpx.get(f"{issuer}/.well-known/openid-configuration", trust_env=False).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.05)
            continue
        return
    process.kill()
    raise AssertionError("The provider did not answer in time.")


class CanailleProvider:
    """canaille through pytest-iam: another implementation, another shape of claims."""

    def __init__(self, server: Any, redirect_uri: str) -> None:
        self.server = server
        self.client_secret = secrets.token_urlsafe(24)
        self.scope = ["openid", "profile", "email", "groups"]
        document = server.test_client.get("/.well-known/openid-configuration").json
        self.issuer = document["issuer"]
        self._users: dict[str, Any] = {}
        self._groups: dict[str, Any] = {}
        self._make_client(redirect_uri)
        for name, account in yaml.safe_load(DEMO_ACCOUNTS.read_text())["accounts"].items():
            self._make_user(name, account)
            self.set_groups(name, account["groups"])

    def _make_client(self, redirect_uri: str) -> None:
        client = self.server.models.Client(
            client_id=CLIENT_ID,
            client_secret=self.client_secret,
            client_name="canfar-hub",
            client_uri=redirect_uri,
            redirect_uris=[redirect_uri],
            post_logout_redirect_uris=[redirect_uri.replace("oauth_callback", "login")],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
            scope=self.scope,
            token_endpoint_auth_method="client_secret_post",
        )
        self.server.backend.save(client)
        self.server.backend.update(client, audience=[client])
        self.server.backend.save(client)
        self.client = client

    def _make_user(self, name: str, account: dict[str, Any]) -> None:
        # No display name, hence no preferred_username: the subject is the name.
        user = self.server.models.User(
            user_name=name,
            formatted_name=account["full_name"],
            family_name=account["full_name"].split()[-1],
            emails=[account["email"]],
            password=name,
        )
        self.server.backend.save(user)
        consent = self.server.models.Consent(
            consent_id=str(uuid.uuid4()),
            client=self.client,
            subject=user,
            scope=self.scope,
            issue_date=datetime.datetime.now(datetime.UTC),
        )
        self.server.backend.save(consent)
        self._users[name] = user

    def set_groups(self, name: str, groups: list[str]) -> None:
        backend, user = self.server.backend, self._users[name]
        for display_name in groups:
            if display_name not in self._groups:
                group = self.server.models.Group(display_name=display_name, members=[user])
                self._groups[display_name] = group
                backend.save(group)
        for display_name, group in self._groups.items():
            members = [member for member in group.members if member.user_name != name]
            backend.update(group, members=[*members, user] if display_name in groups else members)
            backend.save(group)
        backend.reload(user)

    async def answer(self, browser: httpx.AsyncClient, url: str, name: str) -> str:
        # canaille's memory backend finds a code by its value or its client: a code left over from a
        # sign-in that failed would be taken for this one.
        for code in self.server.backend.query(self.server.models.AuthorizationCode):
            self.server.backend.delete(code)
        self.server.login(self._users[name])
        try:
            done = await browser.get(url)
        finally:
            self.server.logout()
        assert done.is_redirect, done.text
        return done.headers["location"]
