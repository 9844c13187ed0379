"""A hub for the tests: anybody may sign in, and every session is the echo program."""

import os
import sys

from jupyterhub.spawner import LocalProcessSpawner
from jupyterhub.utils import random_port

from canfar_gateway.hub import GatewayProxy

c = get_config()
folder, port, public = os.environ["TEST_FOLDER"], os.environ["TEST_HUB_PORT"], os.environ["TEST_PUBLIC_URL"]


class EchoSpawner(LocalProcessSpawner):
    """Runs the echo program as the user of the tests, whoever owns the session."""

    cmd = [sys.executable, os.environ["TEST_ECHO"]]  # noqa: RUF012

    def make_preexec_fn(self, name):
        return None

    def user_env(self, env):
        return env

    def get_args(self):
        return [str(self.port), folder]

    async def start(self):
        self.port = random_port()
        return await super().start()


class SessionSpawner(EchoSpawner):
    """Also says where the session lives, unless its name begins with `plain`."""

    def route_data(self):
        if self.name.startswith("plain"):
            return {}
        prefix = "" if self.name.startswith("strip") else f"/session/notebook/{self.name}"
        return {
            "kind": "notebook",
            "id": self.name,
            "prefix": prefix,
            "headers": {"X-Secret": f"of-{self.name}"},
        }


c.JupyterHub.proxy_class = GatewayProxy
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = os.environ["TEST_GATEWAY_API"]
c.JupyterHub.bind_url = public
if os.environ.get("TEST_HOST_ROUTING"):
    c.JupyterHub.subdomain_host = public
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{port}"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.db_url = f"sqlite:///{folder}/hub.sqlite"
c.JupyterHub.cookie_secret_file = f"{folder}/cookie_secret"
c.JupyterHub.spawner_class = SessionSpawner
c.JupyterHub.allow_named_servers = True
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "x"
c.Authenticator.allow_all = True
c.JupyterHub.services = [
    {
        "name": "gateway",
        "api_token": os.environ["CANFAR_GATEWAY_TOKEN"],
        "oauth_client_id": "service-gateway",
        "oauth_redirect_uri": f"{public}/services/gateway/oauth_callback",
        "oauth_no_confirm": True,
        "oauth_client_allowed_scopes": ["access:servers"],
    },
    {"name": "tester", "api_token": os.environ["TEST_TOKEN"]},
]
c.JupyterHub.load_roles = [
    {"name": "gateway", "services": ["gateway"], "scopes": ["read:users:groups", "read:shares", "proxy"]},
    {"name": "user", "scopes": ["self", "access:services!service=gateway"]},
    {"name": "tester", "services": ["tester"], "scopes": ["admin:users", "admin:servers", "shares", "proxy"]},
]
