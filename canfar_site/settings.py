"""The site's settings: what an administrator decides once for an installation."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from canfar_site.yamlfile import FileError, load

KindName = Literal[
    "notebook", "carta", "desktop", "vscode", "firefly", "contributed", "headless", "desktop-app"
]
GROUP_PATTERN = (
    r"ivo://[A-Za-z0-9][A-Za-z0-9._~-]{2,}/[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*\?[A-Za-z0-9._~,-]+"
)
"""A GMS group identifier. A name is of letters, digits, `-._~,` (GMS 1.0 section 2); an authority has three
characters or more (IVOA Identifiers 2.0)."""
LONGEST_GROUP = 255  # the hub's column, and not every database cuts quietly

# Patterns are pydantic's (Rust): `$` is the end of the text, never before a newline.
GroupId = Annotated[
    str,
    StringConstraints(pattern=f"^{GROUP_PATTERN}$", max_length=LONGEST_GROUP),
    Field(description="An IVOA group identifier, `ivo://<authority>/gms?<name>` (GMS 1.0)."),
]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")]


class Settings(BaseModel):
    """Base of all settings: frozen, and a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SignIn(Settings):
    """The OpenID Connect provider, and which of its groups open the platform."""

    issuer: Url = Field(description="The provider's issuer, as its discovery document spells it.")
    client_id: str = Field("canfar-hub", description="The client that the provider knows this hub by.")
    service: str = Field("OpenID Connect", description="The provider's name on the sign-in button.")
    username_claim: str = Field("preferred_username", description="The claim that becomes the user's name.")
    groups_claim: str = Field("groups", description="The claim that lists groups, as a dotted name.")
    authority: str = Field(description="Authority of groups that the provider gives as plain names.")
    platform_groups: frozenset[GroupId] = Field(
        min_length=1, description="Members of any of these may use the platform."
    )
    admin_groups: frozenset[GroupId] = Field(
        frozenset(), description="Members of any of these administer the hub, and may use the platform."
    )
    scopes: tuple[str, ...] = Field(
        ("openid", "profile", "email"), description="The scopes that are asked for at sign-in."
    )


class Ceiling(Settings):
    """The most that one session may ask for."""

    cores: float = Field(gt=0, description="Processor cores.")
    memory: float = Field(gt=0, description="Memory in gigabytes (10⁹ bytes).")
    gpus: int = Field(0, ge=0, description="GPUs.")


class GroupCeiling(Ceiling):
    """A ceiling for the members of one group."""

    group: GroupId


class Limits(Settings):
    """How much one user may have at a time."""

    sessions: int = Field(5, ge=1, description="Interactive sessions that one user may have at a time.")
    ceiling: Ceiling = Field(
        default=Ceiling(cores=8, memory=32),
        description="The most that one session of any user may ask for.",
    )
    group_ceilings: tuple[GroupCeiling, ...] = Field(
        (),
        description="Ceilings for the members of groups, where they are above `ceiling`. Of several, the"
        " highest of each resource holds.",
    )


class Storage(Settings):
    """Where homes and projects are."""

    top: Path = Field(Path("/arc"), description="The directory above `home/<user>` and `projects/<project>`.")

    @property
    def homes(self) -> Path:
        """The directory that holds one directory for each user."""
        return self.top / "home"

    @property
    def projects(self) -> Path:
        """The directory that holds one directory for each project."""
        return self.top / "projects"


class Site(Settings):
    """One installation. The configuration reference is made from these models."""

    name: str = Field("canfar-hub", description="The installation's name, for people.")
    contact: str = Field(description="Whom users ask for help: an address or a page, shown in refusals.")
    public_url: Url = Field("http://localhost:8000", description="The hub's public address, without a path.")
    subdomains: bool = Field(
        True,
        description="Each user's sessions on a host of their own, so that a session's page cannot act as the"
        " hub. Off, all pages share one origin, which is safe only where every image is trusted.",
    )
    sign_in: SignIn
    storage: Storage = Storage()
    catalogue: Path = Field(
        Path("catalogue"), description="Folder of catalogue files; relative to the site file."
    )
    kinds: tuple[KindName, ...] = Field(
        ("notebook", "contributed"), min_length=1, description="The kinds of session on offer, in order."
    )
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _public_url_is_an_origin(self) -> Self:
        if self.public_url.rstrip("/").count("/") != 2:
            raise ValueError("public_url must be an address without a path, such as https://hub.example.org")
        return self


def load_site(path: Path) -> Site:
    """Reads a site file; a relative catalogue folder is taken from where the file lies.

    Raises
    ------
    canfar_site.yamlfile.FileError
        The file is missing, malformed, or holds a wrong setting: one line that says where and what.
    """
    site = load(path, Site)
    return site.model_copy(update={"catalogue": path.resolve().parent / site.catalogue})


def load_site_or_exit(path: str) -> Site:
    """Reads a site file for a program that needs one: a bad one ends it with one line and status 1."""
    try:
        return load_site(Path(path))
    except FileError as error:
        raise SystemExit(f"The site file is not usable. {error}") from None
