"""The pages on the way to the provider and back, with sentences where upstream has codes."""

from __future__ import annotations

import hashlib
from typing import Any

from oauthenticator.oauth2 import (
    OAuthCallbackHandler,
    OAuthLoginHandler,
    OAuthLogoutHandler,
    _deserialize_state,
)
from tornado import web

from canfar_auth import refusal
from canfar_auth.refusal import SignInRefused


class CanfarLoginHandler(OAuthLoginHandler):
    """Finds the provider's endpoints first, which upstream has from configuration, and sends a nonce."""

    async def get(self) -> None:
        """Send the browser to the provider, or say in a sentence why not."""
        await self.authenticator.discover()
        super().get()

    def authorize_redirect(self, *args: Any, extra_params: dict[str, str], **kwargs: Any) -> None:
        """Upstream's redirect with a nonce (OpenID Connect Core 1.0 section 3.1.2.1); some providers insist."""
        extra_params = {"nonce": nonce_of(extra_params["state"]), **extra_params}
        super().authorize_redirect(*args, extra_params=extra_params, **kwargs)


class CanfarCallbackHandler(OAuthCallbackHandler):
    """Says in sentences what upstream says in codes, and repeats nothing that a link's author wrote."""

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log a refusal without the address, which carries the code."""
        if isinstance(value, SignInRefused):
            self.log.warning("Sign-in refused: %s", value.jupyterhub_message)
        else:
            super().log_exception(typ, value, tb)

    def check_error(self) -> None:
        """Refuse an error response (RFC 6749 section 4.1.2.1); ``error_description`` is anybody's text."""
        error = self.get_argument("error", "")
        if error == "access_denied":
            raise refusal.cancelled()
        if error:
            self.log.warning("The identity provider ended a sign-in with error %s.", ascii(error)[:80])
            raise refusal.refused_by_provider(self.authenticator.contact)

    def check_arguments(self) -> None:
        """Upstream's checks of error, code and state, with one sentence for a state that is not ours."""
        try:
            super().check_arguments()
        except SignInRefused:
            raise
        except web.HTTPError:
            raise refusal.stale() from None


class CanfarLogoutHandler(OAuthLogoutHandler):
    """Signs out of the provider too, where it can; upstream only knows a fixed address for that."""

    _id_token = ""

    async def handle_logout(self) -> None:
        """Remember the ID token while the user is still known."""
        await super().handle_logout()
        state = await self.authenticator.auth_state_of(self.current_user) if self.current_user else {}
        self._id_token = str(state.get("id_token") or "")

    async def render_logout_page(self) -> None:
        """Send the browser to the provider's end of session, or show the hub's own page."""
        authenticator = self.authenticator
        if not authenticator.logout_redirect_url:
            try:
                await authenticator.discover()
            except SignInRefused:
                self.log.warning("A user signed out of the hub only: the identity provider cannot be asked.")
            else:
                url = authenticator.end_session_url(self, self._id_token)
                if url:
                    self.redirect(url)
                    return
        await super().render_logout_page()


def nonce_of(state: str) -> str:
    """The nonce of the sign-in that ``state`` belongs to; the cookie and the address hold the same state."""
    state_id = str(_deserialize_state(state).get("state_id"))
    return hashlib.sha256(f"nonce {state_id}".encode()).hexdigest()
