"""nanoidp's Flask application, cut down to what signing in needs, with our pages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, abort, jsonify, make_response, render_template, request
from jinja2 import ChoiceLoader, PackageLoader
from nanoidp.app import create_app as create_nanoidp
from werkzeug.exceptions import HTTPException, SecurityError

from canfar_hub.identity_provider.accounts import Accounts
from canfar_hub.identity_provider.settings import CLAIMS, Options, config_folder

# All that signing in needs. Everything else of nanoidp (its administration, SAML, the device grant, client
# registration) is as good as not there.
_OPEN = frozenset(
    {
        "oauth.oidc_config",
        "oauth.jwks",
        "oauth.authorize",
        "oauth.token",
        "oauth.userinfo",
        "oauth.introspect",
        "oauth.revoke",
        "oauth.end_session",
        "pages.static",
    }
)
_GRANTS = ("authorization_code", "refresh_token")

# No form-action: browsers apply it to the redirects that follow a form, and those lead to the hub and beyond.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}

_View = Callable[[], Response]


def create_app(options: Options, accounts: Accounts, data: Path) -> Flask:
    """The provider as a WSGI application; ``data`` was made by ``settings.prepare``.

    Raises ``nanoidp.config.ConfigurationRejected`` when nanoidp does not take what is in ``data``.
    """
    app: Flask = create_nanoidp(config_dir=str(config_folder(data)))
    # Its record of who mistyped a password is of no use to anybody on their own machine.
    logging.getLogger("nanoidp.services.audit").setLevel(logging.ERROR)
    app.config["TRUSTED_HOSTS"] = [options.ip, "localhost"]
    # Browsers share the cookies of all ports of a host.
    app.config["SESSION_COOKIE_NAME"] = "canfar-identity-provider"
    app.config["SESSION_COOKIE_HTTPONLY"] = True
    app.jinja_loader = ChoiceLoader(
        [PackageLoader("canfar_hub.identity_provider"), *filter(None, [app.jinja_loader])]
    )
    app.register_blueprint(_pages(options, accounts))
    app.before_request_funcs.setdefault(None, []).insert(0, _refuse_what_is_not_open)
    app.after_request(_harden)
    app.register_error_handler(HTTPException, _error_page)
    wrappers: dict[str, Callable[[Any], _View]] = {
        "oauth.authorize": _with_error_pages,
        "oauth.end_session": partial(_only_to_clients, options),
        "oauth.oidc_config": _with_what_is_open,
        "oauth.token": _with_our_grants,
        "oauth.userinfo": _with_our_claims,
    }
    for endpoint, wrap in wrappers.items():
        app.view_functions[endpoint] = wrap(app.view_functions[endpoint])
    return app


def _pages(options: Options, accounts: Accounts) -> Blueprint:
    pages = Blueprint("pages", __name__, static_folder="static", static_url_path="/assets")
    samples = [
        {
            "name": name,
            "full_name": account.full_name,
            "groups": [group.rpartition("?")[2] for group in accounts.groups_of(name)],
        }
        for name, account in accounts.accounts.items()
        if accounts.password_of(name) == name
    ]

    @pages.app_context_processor
    def context() -> dict[str, Any]:
        return {"samples": samples, "home": _origin(options.redirect_uris[0]) + "/"}

    return pages


def _refuse_what_is_not_open() -> None:
    if isinstance(request.routing_exception, SecurityError):
        raise request.routing_exception
    if request.endpoint not in _OPEN:
        abort(HTTPStatus.NOT_FOUND)


def _harden(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers[name] = value
    if request.endpoint != "pages.static":
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def _error_page(error: HTTPException) -> Response:
    status = HTTPStatus(error.code or 500)
    if isinstance(error, SecurityError):
        # The request names a host that is not ours, so no page can be built with addresses in it.
        return make_response("This provider is not known by that host name.\n", status)
    if status == HTTPStatus.NOT_FOUND:
        return _page(status, "No such page", "There is no such page here; start from the hub's own address.")
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return _page(
            status, "Not possible", "This request cannot be answered; go back to the hub and sign in again."
        )
    return _page(status, "Something broke", "The trial provider failed; its log on this machine says why.")


def _page(status: HTTPStatus, title: str, sentence: str) -> Response:
    return make_response(render_template("error.html", title=title, sentence=sentence), status)


# nanoidp's own views, each with what it lacks for us.


def _with_error_pages(view: _View) -> _View:
    """Authorization: a person looks at its local errors, so they become pages."""

    def authorize() -> Response:
        response = make_response(view())
        if response.status_code < HTTPStatus.BAD_REQUEST or not response.is_json:
            return response
        reason = (response.get_json(silent=True) or {}).get("error_description") or "no reason given"
        sentence = f"This sign-in cannot go on ({reason}); go back to the hub and start again."
        return _page(HTTPStatus(response.status_code), "Sign-in stopped", sentence)

    return authorize


def _with_our_claims(view: _View) -> _View:
    """User information: the standard ``name``, and none of nanoidp's own claims."""

    def userinfo() -> Response:
        response = make_response(view())
        if response.status_code != HTTPStatus.OK:
            return response
        claims = response.get_json()
        # The name belongs to the scope "profile" (OpenID Connect Core 1.0 section 5.4), as this claim does.
        if "preferred_username" in claims:
            claims["name"] = claims.get("attributes", {}).get("name", claims["preferred_username"])
        response.set_data(jsonify({key: claims[key] for key in CLAIMS if key in claims}).get_data())
        return response

    return userinfo


def _with_our_grants(view: _View) -> _View:
    """Tokens: only for the grants that discovery names; nanoidp has more."""

    def token() -> Response:
        if request.form.get("grant_type") not in _GRANTS:
            return make_response(jsonify(error="unsupported_grant_type"), HTTPStatus.BAD_REQUEST)
        return make_response(view())

    return token


def _with_what_is_open(view: _View) -> _View:
    """Discovery: only what this provider answers (OpenID Connect Discovery 1.0 section 3)."""

    def document() -> Response:
        response = make_response(view())
        said = response.get_json()
        said.pop("device_authorization_endpoint", None)
        said["grant_types_supported"] = list(_GRANTS)
        said["claims_supported"] = list(CLAIMS)
        said["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
        response.set_data(jsonify(said).get_data())
        return response

    return document


def _only_to_clients(options: Options, view: _View) -> _View:
    """Sign-out: nanoidp sends the browser wherever it is told; we, only to where our clients are."""
    origins = {_origin(uri) for uri in options.redirect_uris}

    def end_session() -> Response:
        # nanoidp reads the query or the form, by method; either has to be harmless.
        targets = [
            target
            for values in (request.args, request.form)
            for target in values.getlist("post_logout_redirect_uri")
            if target
        ]
        if any(_origin(target) not in origins for target in targets):
            sentence = "The address to return to is not registered here; go to the hub by its own address."
            return _page(HTTPStatus.BAD_REQUEST, "Not possible", sentence)
        return make_response(view())

    return end_session


def _origin(url: str) -> str:
    """Scheme and host of an address, which a browser reads as we do: no backslash, no control character."""
    if not url.isprintable() or "\\" in url or " " in url:
        return ""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower() if parts.scheme and parts.netloc else ""
