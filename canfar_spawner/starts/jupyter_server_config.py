"""JupyterLab's idea of who works in it: the visitor whom the gateway names, by default the session's owner."""

import os
from zlib import crc32

from jupyter_server.auth.identity import PasswordIdentityProvider, User

_COLOURS = ("#2e6fb7", "#b4572b", "#3b7d4f", "#8a4f9e", "#a3384c", "#267d85", "#7a6a1c", "#5a5fb0")


def visitor(named, owner, full_name):
    """The visitor of a name; the owner's full name is known here, other visitors' is not."""
    username = named or owner or "user"
    shown = full_name if username == owner and full_name else username
    words = [word for word in shown.replace("@", " ").replace(".", " ").split() if word[0].isalnum()]
    initials = "".join(word[0] for word in words[:2]).upper() or None
    return User(username, shown, shown, initials, None, _COLOURS[crc32(username.encode()) % len(_COLOURS)])


class GatewayIdentityProvider(PasswordIdentityProvider):
    """Names the visitor of each request that carries the session's secret, which the gateway alone adds."""

    async def get_user_token(self, handler):
        """The visitor, if the secret is there; upstream names them by chance and keeps that in a cookie."""
        if await super().get_user_token(handler) is None:
            return None
        named = handler.request.headers.get("X-Forwarded-User", "")
        return visitor(named, os.environ.get("USER", ""), os.environ.get("CANFAR_FULL_NAME", ""))


c = get_config()  # noqa: F821 - Jupyter gives it to the files of its configuration
c.ServerApp.identity_provider_class = GatewayIdentityProvider
