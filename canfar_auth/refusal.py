"""Refusals at sign-in: an HTTP status and one sentence that says what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from http.client import responses

from tornado import web

_LONGEST_SHOWN = 64
UNDECIDED = 503
"""The status of a refusal that says nothing about the person."""


class SignInRefused(web.HTTPError):
    """A sign-in that ends here; the hub's error page shows ``sentence``, escaped."""

    def __init__(self, status: int, sentence: str) -> None:
        # With a reason of its own the page's heading is the status, not the sentence a second time.
        super().__init__(status, sentence, reason=responses[status])
        self.jupyterhub_message = sentence


class ProviderUnavailable(SignInRefused):
    """The provider could not be asked, or its answer was none. Says nothing about anybody's membership."""

    def __init__(self, contact: str) -> None:
        super().__init__(
            UNDECIDED,
            f"The identity provider does not answer, so nobody can sign in at the moment; "
            f"try again in a few minutes, and tell {whom(contact)} if it lasts.",
        )


def provider_misconfigured(contact: str) -> SignInRefused:
    """The provider's description of itself cannot be trusted."""
    return SignInRefused(
        502,
        f"The identity provider does not describe itself as this site expects, so nobody can sign in; "
        f"tell {whom(contact)}, whose log says more.",
    )


def not_a_member(username: str, groups: Iterable[str], contact: str) -> SignInRefused:
    """The account is in none of the groups that open the platform."""
    wanted = one_of(sorted(groups))
    if not wanted:
        return SignInRefused(
            403, f"Your account “{shown(username)}” may not use this site; ask {whom(contact)} for access."
        )
    return SignInRefused(
        403,
        f"Your account “{shown(username)}” is not a member of {wanted}; "
        f"ask {whom(contact)} to be added, then sign in again.",
    )


def undecided(reason: str, contact: str) -> SignInRefused:
    """It cannot be known now whether the account is in a group that opens the platform."""
    return SignInRefused(
        UNDECIDED,
        f"It is not known at the moment whether you may use this site. {reason} "
        f"Try again in a few minutes, and tell {whom(contact)} if it lasts.",
    )


def expired() -> SignInRefused:
    """The provider no longer takes the account's tokens."""
    return SignInRefused(401, "Your sign-in has expired; sign in again.")


def bad_token(reason: str) -> SignInRefused:
    """An access token that is not accepted; ``reason`` is a sentence."""
    return SignInRefused(401, f"The access token is not accepted. {reason} Get a new one and try again.")


def bad_username(username: object, contact: str) -> SignInRefused:
    """The provider's name for the account cannot be a name here."""
    return SignInRefused(
        403,
        f"Your account's name “{shown(username)}” cannot be used on this site; "
        f"ask {whom(contact)} for a name that can.",
    )


def taken_username(username: str, contact: str) -> SignInRefused:
    """The name belongs to another (issuer, subject)."""
    return SignInRefused(
        403,
        f"The name “{shown(username)}” already belongs to another account on this site; "
        f"ask {whom(contact)} to tell the two apart.",
    )


def refused_by_provider(contact: str) -> SignInRefused:
    """The provider answered, and the answer was no or made no sense."""
    return SignInRefused(
        403,
        f"The identity provider did not accept this sign-in; sign in again, and ask {whom(contact)} if it "
        "is refused again.",
    )


def cancelled() -> SignInRefused:
    """The person, or the provider for them, said no."""
    return SignInRefused(
        403, "The sign-in was cancelled at the identity provider; go back to the start page to sign in again."
    )


def stale() -> SignInRefused:
    """The answer belongs to no sign-in that this browser started."""
    return SignInRefused(
        400,
        "This sign-in has expired or was started in another browser; "
        "go back to the start page to sign in again.",
    )


def whom(contact: str) -> str:
    """Whom to ask, in the middle of a sentence."""
    return contact or "the administrators of this site"


def one_of(names: list[str]) -> str:
    """``a``, ``a or b``, ``a, b or c``."""
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def shown(name: object) -> str:
    """A name from outside as it may be shown: printable, and not longer than a line."""
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(name))
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
