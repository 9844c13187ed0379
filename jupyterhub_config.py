"""JupyterHub's configuration, the same in embedded mode and in a cluster. It wires classes and decides nothing.

From the environment, of which all must be set that is not optional:

CANFAR_SITE                 path of the site file, which holds all that a site decides
CANFAR_SPAWNER              `canfar-local` for processes of this machine, `canfar` for pods of a cluster
CANFAR_NAMESPACE            optional but for pods: their namespace
CANFAR_HUB_URL              where the hub itself listens, inside
CANFAR_HUB_CONNECT_URL      optional: where the gateway reaches the hub, if the hub listens at all addresses
CANFAR_DATABASE_URL         the hub's database, an address of SQLAlchemy's
CANFAR_SESSIONS_DIR         optional: directory for what running local sessions need
CANFAR_CREDENTIALS_DIR      optional: directory for the credentials of users with running local sessions
CANFAR_SESSION_ACCOUNTS     optional: `each`, local sessions run under their users' own ids, which needs root
                            and is then the default; `own`, all run as the hub's own account
CANFAR_CLIENT_SECRET        secret of the hub at the identity provider
CANFAR_SITE_KEY             key from which sessions' secrets are derived, random and kept
CANFAR_GATEWAY_API_URL      where the gateway takes routes
CANFAR_GATEWAY_TOKEN        the gateway's own token at the hub
CANFAR_ADMIN_TOKEN          optional: token of a service that makes an administrator's tokens
CANFAR_METRICS_TOKEN        optional: token of a service that reads the hub's metrics and nothing else
CANFAR_EXTRA_CONFIG         optional: folder of an administrator's own *.py, read last, ordered by name
CONFIGPROXY_AUTH_TOKEN      token of the gateway's REST API: 32 random bytes as hexadecimal digits
JUPYTERHUB_CRYPT_KEY        key for identities in the database: 32 random bytes as hexadecimal digits
JPY_COOKIE_SECRET           key for cookies: 32 random bytes as hexadecimal digits
"""

from os import environ
from pathlib import Path

import canfar_portal
from canfar_hub import admin_token, database, environment
from canfar_site.settings import load_site_or_exit
from canfar_spawner import app_handlers, collector, handlers
from canfar_spawner.credential_folders import FolderStore
from canfar_spawner.upkeep import Upkeep

environment.check_or_exit(__doc__, environ)
c = get_config()
site = load_site_or_exit(environ["CANFAR_SITE"])

# The way in. The gateway is a program of its own and outlives the hub, as sessions do.
c.JupyterHub.bind_url = site.public_url
c.JupyterHub.subdomain_host = site.public_url if site.subdomains else ""
c.JupyterHub.hub_bind_url = environ["CANFAR_HUB_URL"]
c.JupyterHub.hub_connect_url = environ.get("CANFAR_HUB_CONNECT_URL", "")
c.JupyterHub.proxy_class = "canfar"
c.GatewayProxy.should_start = False
c.GatewayProxy.api_url = environ["CANFAR_GATEWAY_API_URL"]
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.cleanup_servers = False

# Who you are.
c.JupyterHub.authenticator_class = "canfar"
c.CanfarOAuthenticator.issuer = site.sign_in.issuer
c.CanfarOAuthenticator.client_id = site.sign_in.client_id
c.CanfarOAuthenticator.client_secret = environ["CANFAR_CLIENT_SECRET"]
c.CanfarOAuthenticator.oauth_callback_url = f"{site.public_url}/hub/oauth_callback"
c.CanfarOAuthenticator.login_service = site.sign_in.service
c.CanfarOAuthenticator.username_claim = site.sign_in.username_claim
c.CanfarOAuthenticator.groups = site.groups.model_dump()
c.CanfarOAuthenticator.posix = site.posix.model_dump()
c.CanfarOAuthenticator.token_hosts = set(site.token_hosts)
c.CanfarOAuthenticator.audiences = set(site.sign_in.audiences)
c.CanfarOAuthenticator.auth_refresh_age = site.groups.refresh_age
c.CanfarOAuthenticator.platform_groups = set(site.sign_in.platform_groups)
c.CanfarOAuthenticator.admin_groups = set(site.sign_in.admin_groups)
c.CanfarOAuthenticator.scope = list(site.sign_in.scopes)
c.CanfarOAuthenticator.contact = site.contact
c.CanfarOAuthenticator.first_handlers = [*handlers.handlers(canfar_portal.STATIC), *app_handlers.handlers()]

# What you may start, and how it starts. Every session is a named server.
c.JupyterHub.spawner_class = environ["CANFAR_SPAWNER"]
c.PlannedSpawner.site_file = environ["CANFAR_SITE"]
c.PlannedSpawner.site_key = environ["CANFAR_SITE_KEY"]
if site.cluster:
    # What these import, a hub without a cluster need not have.
    from canfar_spawner.cluster import session_secrets
    from canfar_spawner.cluster.spawner import CanfarSpawner

    if not environ.get("CANFAR_NAMESPACE"):
        raise SystemExit("CANFAR_NAMESPACE is not set. Set it to the namespace of the sessions' pods.")
    checks = [CanfarSpawner.check]
    c.KubeSpawner.namespace = environ["CANFAR_NAMESPACE"]
    store = session_secrets.store(environ["CANFAR_NAMESPACE"])
else:
    credentials = environ.get("CANFAR_CREDENTIALS_DIR", "credentials")
    store, checks = FolderStore(Path(credentials)), []
    c.LocalCanfarSpawner.credentials_dir = credentials
    c.LocalCanfarSpawner.runtime_dir = environ.get("CANFAR_SESSIONS_DIR", "sessions")
    if "CANFAR_SESSION_ACCOUNTS" in environ:
        c.LocalCanfarSpawner.accounts = environ["CANFAR_SESSION_ACCOUNTS"]
c.CanfarOAuthenticator.companions = [*checks, Upkeep(site, store).start]
c.JupyterHub.last_activity_interval = 60  # seconds
c.PlannedSpawner.poll_interval = 5  # seconds until the end of a program is noticed
c.JupyterHub.allow_named_servers = True

# The pages.
c.JupyterHub.template_paths = [str(canfar_portal.TEMPLATES)]
c.JupyterHub.template_vars = {"site_name": site.name, "site_contact": site.contact, "sharing": site.sharing}
c.JupyterHub.redirect_to_server = False
c.JupyterHub.default_url = handlers.landing_page

# What it takes of the machine.
collector.spare_the_loop()

# What the hub keeps.
c.JupyterHub.db_url = environ["CANFAR_DATABASE_URL"]
if not site.cluster:
    c.JupyterHub.db_kwargs = database.settings(environ["CANFAR_DATABASE_URL"])

# The gateway asks for a visitor's access to sessions, and nothing else of theirs. It reads shares and groups
# itself, since no token of a visitor carries what was shared with a group. At its start it asks for its routes.
gateway = {
    "name": "gateway",
    "api_token": environ["CANFAR_GATEWAY_TOKEN"],
    "oauth_client_id": "service-gateway",
    "oauth_redirect_uri": f"{site.public_url}/services/gateway/oauth_callback",
    "oauth_no_confirm": True,
    "oauth_client_allowed_scopes": ["access:servers"],
}
c.JupyterHub.services = [gateway]
c.JupyterHub.load_roles = [
    {"name": "gateway", "services": ["gateway"], "scopes": ["read:users:groups", "read:shares", "proxy"]},
    {
        "name": "user",
        "scopes": ["self", "access:services!service=gateway", *(["shares!user"] if site.sharing else [])],
    },
]
if "CANFAR_ADMIN_TOKEN" in environ:
    # A token holds no more than its owner may, whether the owner ever signed in or not.
    c.JupyterHub.services.append({"name": "administrator", "api_token": environ["CANFAR_ADMIN_TOKEN"]})
    c.JupyterHub.load_roles += [
        {"name": "administrator", "services": ["administrator"], "scopes": ["tokens"]},
        {"name": "api-administrator", "users": [admin_token.ACCOUNT], "scopes": list(admin_token.SCOPES)},
    ]
if environ.get("CANFAR_METRICS_TOKEN"):
    c.JupyterHub.services.append({"name": "metrics", "api_token": environ["CANFAR_METRICS_TOKEN"]})
    c.JupyterHub.load_roles.append({"name": "metrics", "services": ["metrics"], "scopes": ["read:metrics"]})

# What an administrator adds has the last word.
for file in environment.extra_files(environ.get("CANFAR_EXTRA_CONFIG", "")):
    load_subconfig(str(file))
