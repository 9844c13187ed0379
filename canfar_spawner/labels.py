"""What an image's OCI labels say of it: from labels to an entry of the catalogue, read strictly. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from canfar_spawner.catalogue import Profile
from canfar_spawner.kinds import KINDS, Kind

PREFIX = "net.canfar.session."
"""What the labels of the platform's own begin with."""
KIND_LABELS = (f"{PREFIX}kinds", "canfar.image.type", "ca.nrc.cadc.skaha.type")
"""Where an image's kinds are looked for: in ours, and in those that CANFAR's images have had before."""
TITLE, DESCRIPTION = "org.opencontainers.image.title", "org.opencontainers.image.description"

_ENVIRONMENT = f"{PREFIX}environment."
_FIELDS = {
    "kinds": f"{PREFIX}kinds",
    "path": f"{PREFIX}path",
    "ready_path": f"{PREFIX}ready-path",
    "secret": f"{PREFIX}secret",
    "environment": f"{_ENVIRONMENT}NAME",
    "title": TITLE,
    "description": DESCRIPTION,
}
"""The label behind each setting of an entry."""


class LabelError(ValueError):
    """Labels that cannot be used. `str()` is one sentence that names the label and what to mend."""


def entry(image: str, labels: Mapping[str, str], kinds: Mapping[str, Kind] = KINDS) -> Profile:
    """The catalogue's entry for `image`, a reference that the entry names as it is.

    Raises
    ------
    LabelError
        A label is missing, misspelt or malformed.
    """
    _refuse_unknown(labels)
    name = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
    title = _line(labels.get(TITLE, "")) or name
    found: dict[str, object] = {
        "profile": _slug(name),
        "title": title,
        "description": _line(labels.get(DESCRIPTION, "")) or title,
        "kinds": _kinds(labels),
        "images": (image,),
    }
    variables = {k.removeprefix(_ENVIRONMENT): v for k, v in labels.items() if k.startswith(_ENVIRONMENT)}
    if variables:
        found["environment"] = variables
    for setting in ("path", "ready_path"):
        if _FIELDS[setting] in labels:
            found[setting] = labels[_FIELDS[setting]].strip()
    if _FIELDS["secret"] in labels:
        found["secret"] = _secret(labels[_FIELDS["secret"]])
    try:
        return Profile.model_validate(found, context=kinds)
    except ValidationError as error:
        raise LabelError(_sentence(error)) from None


def _refuse_unknown(labels: Mapping[str, str]) -> None:
    known = set(_FIELDS.values())
    for label in labels:
        if label.startswith(PREFIX) and label not in known and not label.startswith(_ENVIRONMENT):
            raise LabelError(f"There is no label “{label}”; check its spelling.")


def _kinds(labels: Mapping[str, str]) -> list[str]:
    """The kinds that the first of the labels names which is there."""
    for label in KIND_LABELS:
        if named := labels.get(label, "").replace(",", " ").split():
            return named
    raise LabelError(
        f"The image does not say what kind of session it is; give it the label “{KIND_LABELS[0]}”, such as"
        " “contributed”."
    )


def _secret(text: str) -> dict[str, str]:
    """`Header: scheme`, as a request has it before the secret."""
    header, colon, scheme = text.partition(":")
    if not colon:
        raise LabelError(
            f"The label “{_FIELDS['secret']}” has to be a header, a colon, and what stands before the secret,"
            " such as “Authorization: Bearer”."
        )
    return {"header": header.strip(), "scheme": scheme.strip()}


def _line(text: str) -> str:
    return " ".join(text.split())


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-")


def _sentence(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False)[0]
    setting = str(first["loc"][0])
    told = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
    told = told[:1].lower() + told[1:]
    if setting in _FIELDS:
        return f"The label “{_FIELDS[setting]}” cannot be used: {told}."
    return f"The image's name cannot be used in a catalogue: {told}."
