"""A service that gives certificates as OpenCADC's `cred` does, good ones and, at a test's command, others."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from canfar_auth import x509
from canfar_auth.x509 import Issued
from tests.support.faults import FaultyServer, Received, Reply

NOW = datetime(2026, 6, 1, 9, tzinfo=UTC)
"""What tests' clocks show at first."""
MOST_DAYS = 30


@functools.cache
def authority() -> Issued:
    """One authority for all tests."""
    return x509.make_authority(
        x509.name("Test authority", organization="Example"), now=NOW - timedelta(days=365)
    )


def person(common_name: str, *, begin: datetime = NOW, days: float = 7, ca: bool = False) -> Issued:
    """A certificate of the authority for one name."""
    subject = x509.name(common_name, organization="Example")
    return x509.make_end_entity(authority(), subject, now=begin, lifetime=timedelta(days=days), ca=ca)


FLAWS: dict[str, Callable[[str], str]] = {
    "expired": lambda name: person(name, begin=NOW - timedelta(days=8)).pem(),
    "not yet valid": lambda name: person(name, begin=NOW + timedelta(days=1)).pem(),
    "somebody else's": lambda name: person("visitor").pem(),
    "mismatched key": lambda name: person(name).certificate_pem() + person(name).key_pem(),
    "an authority's": lambda name: person(name, ca=True).pem(),
    "out of order": lambda name: _turned(person(name)),
}
"""What must not be accepted, by what is wrong with it."""


class CredServer(FaultyServer):
    """Gives the holder of each known token a certificate for the days that they ask for."""

    def __init__(self, now: Callable[[], datetime] = lambda: NOW) -> None:
        super().__init__()
        self.users: dict[str, str] = {}
        """The common name that belongs to each token."""
        self.flaw = ""
        """One of `FLAWS`, or `key first`, or `proxy`."""
        self.life: timedelta | None = None
        """How long certificates last, if not the days that are asked for."""
        self.now = now
        self.given: list[str] = []
        """All that was given, in order."""

    @property
    def generate(self) -> str:
        """The address for `credentials.cred`."""
        return f"{self.url}/cred/generate"

    def answer(self, request: Received) -> Reply:
        if request.path != "/cred/generate":
            return Reply(404)
        name = self.users.get(request.token)
        if name is None:
            return Reply(403, f"permission denied: {request.token}")
        days = "".join(request.all("daysValid"))
        if not days.isdecimal() or not 1 <= int(days) <= MOST_DAYS:
            return Reply(400, f"daysValid must be 1 to {MOST_DAYS}")
        self.given.append(self._made(name, self.life or timedelta(days=int(days))))
        return Reply(
            body=self.given[-1],
            content_type="application/x-pem-file",
            headers={"Content-Disposition": "inline; filename=cadcproxy.pem"},
        )

    def _made(self, name: str, life: timedelta) -> str:
        if self.flaw in FLAWS:
            return FLAWS[self.flaw](name)
        made = person(name, begin=self.now(), days=life / timedelta(days=1))
        if self.flaw == "proxy":
            made = x509.make_proxy(made, now=self.now(), lifetime=timedelta(days=1))
        return made.pem(key_first=self.flaw == "key first")


class TrialCredServer(CredServer):
    """Knows whose a token of the trial's provider is, and repeats it where it refuses."""

    def answer(self, request: Received) -> Reply:
        _, claims, _ = request.token.split(".")
        subject = json.loads(base64.urlsafe_b64decode(claims + "=="))["sub"]
        self.users[request.token] = subject
        return super().answer(request)


def _turned(made: Issued) -> str:
    """The authority before the certificate."""
    return authority().certificate_pem() + made.key_pem() + made.certificate_pem()
