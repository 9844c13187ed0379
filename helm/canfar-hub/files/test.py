"""Whether the hub answers through the gateway, and the identity provider to the hub's image."""

import json
import os
import sys
import time
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

gateway, public, issuer = os.environ["GATEWAY"], os.environ["PUBLIC_URL"], os.environ["ISSUER"]
HOST = urlsplit(public).netloc
# Right after an installation, the cluster's network and the gateway's routes come a little later than the hub.
PATIENCE = time.monotonic() + 60


def ask(what, url, **headers):
    """What is answered; ends the program with a sentence where nothing is within a minute."""
    while True:
        try:
            with urlopen(Request(url, headers=headers), timeout=20) as answer:
                return answer.read().decode()
        except OSError as error:
            if time.monotonic() > PATIENCE:
                sys.exit(f"{what} at {url}: {error}.")
        time.sleep(1)


ask("The gateway does not answer", f"{gateway}/_chp_healthz")
version = json.loads(ask("The hub does not answer through the gateway", f"{gateway}/hub/api/", Host=HOST))
page = ask("The page for signing in does not come", f"{gateway}/hub/login", Host=HOST, Accept="text/html")
if "oauth_login" not in page:
    sys.exit("The page for signing in offers no identity provider.")
discovery = ask(
    "The identity provider does not answer", f"{issuer.rstrip('/')}/.well-known/openid-configuration"
)
said = json.loads(discovery)["issuer"]
if said != issuer:
    sys.exit(
        f"site.sign_in.issuer is {issuer}, but the identity provider calls itself {said}; write it as it does."
    )
print(f"JupyterHub {version['version']} answers at {public}, and the identity provider at {issuer}.")
