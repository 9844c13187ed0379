"""The service that gives users their certificates (OpenCADC ``cred``, the IVOA's CDP#proxy-1.0)."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime

from canfar_auth.certificate import Certificate, CertificateRefused, name_pattern, read_certificate
from canfar_auth.outbound import Answer, Outbound, Unavailable
from canfar_site.settings import Credentials

__all__ = ["Certificate", "CertificateRefused", "CredClient", "read_certificate"]

log = logging.getLogger("canfar.credentials")

_ACCEPT = "application/x-pem-file, */*;q=0.1"
_REASONS = {
    400: "it does not give certificates for so many days (credentials.days)",
    401: "it does not take this sign-in; sign in again",
    403: "it does not give you one",
    404: "there is no such service at its address (credentials.cred)",
}


class CredClient:
    """Asks for a user's certificate with the user's own token, and judges what comes.

    Raises ``ValueError`` where the settings name no service, or a common name that is no regular expression.
    """

    def __init__(
        self,
        settings: Credentials,
        outbound: Outbound,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if settings.cred is None:
            raise ValueError("credentials.cred names no service that gives certificates.")
        try:
            re.compile(name_pattern(settings.common_name, "x", "x"))
        except re.error as error:
            raise ValueError(f"credentials.common_name is no regular expression: {error}.") from None
        self._url, self._common_name = settings.cred, settings.common_name
        self._days = max(1, math.ceil(settings.days))  # the service takes whole days
        self._outbound, self._now = outbound, now

    async def certificate(self, token: str, username: str, subject: str) -> Certificate:
        """A new certificate for the user whose access token this is.

        ``subject`` is the user's at the provider. Raises ``Unavailable`` and ``CertificateRefused``, with
        sentences for the user.
        """
        try:
            answer = await self._outbound.get(
                self._url, token=token, params=[("daysValid", str(self._days))], accept=_ACCEPT
            )
        except Unavailable as error:
            log.warning("The certificate service cannot be asked: %s", error)
            raise Unavailable("The certificate service does not answer as it should.") from None
        if answer.status != 200:
            raise Unavailable(_refusal(answer))
        pattern = name_pattern(self._common_name, username, subject)
        # Checking a key takes up to a tenth of a second, for which the event loop should not stand still.
        return await asyncio.to_thread(read_certificate, answer.text, now=self._now(), common_name=pattern)


def _refusal(answer: Answer) -> str:
    reason = _REASONS.get(answer.status, "it does not say more")
    return f"The certificate service answered HTTP {answer.status}: {reason}."
