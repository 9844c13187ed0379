"""The site's settings: what an administrator decides once for an installation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from canfar_site.yamlfile import FileError, load

BUILT_IN_KINDS = (
    "notebook",
    "carta",
    "desktop",
    "vscode",
    "firefly",
    "contributed",
    "headless",
    "desktop-app",
)
"""The names of the kinds of session that need no definition in a site file."""
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
DnsName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
KindName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=32)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
UrlPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~/-]*$")]
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
    platform_groups: frozenset[GroupId] = Field(
        min_length=1, description="Members of any of these may use the platform."
    )
    admin_groups: frozenset[GroupId] = Field(
        frozenset(), description="Members of any of these administer the hub, and may use the platform."
    )
    scopes: tuple[str, ...] = Field(
        ("openid", "profile", "email"), description="The scopes that are asked for at sign-in."
    )
    audiences: frozenset[str] = Field(
        frozenset(),
        description="Audiences of access tokens that clients may use here directly; empty, none may. A token"
        " that was made for somebody else's service is refused.",
    )


class ClaimSource(Settings):
    """One claim that lists groups."""

    claim: str = Field(
        min_length=1,
        description="Dotted name of the claim, as in `realm_access.roles`. The value is an array, or a string"
        " separated by spaces or commas.",
    )
    key: str = Field("", description="In an array of objects, the member that holds the group's name.")
    absent: Literal["none", "unknown", "ask_userinfo"] = Field(
        "none",
        description="What it means that the claim is absent: `none`, the person is in no group; `unknown`, the"
        " provider did not say; `ask_userinfo`, the provider's user information says, and if that lacks the"
        " claim too, it is unknown.",
    )


class GroupRule(Settings):
    """How a provider's name for a group becomes an IVOA identifier."""

    match: str = Field(description="Regular expression for the whole of the provider's name.")
    group: str = Field(
        description="The identifier, in which `{name}` stands for the capture `(?P<name>…)` of `match`."
    )
    claim: str = Field("", description="Only for groups of this claim; empty, for those of every claim.")


class GroupService(Settings):
    """An IVOA Group Membership Service 1.0, asked with the user's own token."""

    search: Url | None = Field(None, description="Address of its `search`, where it is known.")
    resource: str | None = Field(
        None,
        description="Its identifier, such as `ivo://cadc.nrc.ca/gms`: what plain names in its answers belong"
        " to, and what is looked up in `registry`. Without one, plain names are of `groups.authority`.",
    )
    registry: Url | None = Field(
        None, description="Address of the registry's list, with one `identifier = capabilities address` a line."
    )

    @model_validator(mode="after")
    def _can_be_found(self) -> Self:
        if not (self.search or (self.resource and self.registry)):
            raise ValueError("gms needs search, or resource and registry")
        return self


class Groups(Settings):
    """Which IVOA groups somebody is in: from the provider's claims, and from a group service."""

    authority: str = Field(
        "",
        description="Authority of groups that the provider gives as plain names: with `example.org`, `survey-x`"
        " is `ivo://example.org/gms?survey-x`. Empty, plain names that no rule matches are no groups.",
    )
    sources: tuple[ClaimSource, ...] = Field(
        (ClaimSource(claim="groups"),), description="The claims that list groups; all are read."
    )
    rules: tuple[GroupRule, ...] = Field(
        (), description="Tried in order before the plain name; the first that matches holds."
    )
    gms: GroupService | None = Field(None, description="The group service, if there is one.")
    merge: Literal["union", "gms", "claims"] = Field(
        "union",
        description="Whose answer holds: `union`, both; `gms`, the group service's alone; `claims`, the"
        " provider's alone, and the group service is not asked.",
    )
    patience: float = Field(
        14400,
        ge=0,
        description="Seconds for which the last known groups still open new sessions while a source does not"
        " answer. Running sessions stay.",
    )
    refresh: float = Field(
        300,
        ge=2,
        description="Seconds until a removal is effective, at most: somebody's groups are read again that"
        " often, if they make requests or have running sessions.",
    )

    # A removal takes effect within `refresh`: an answer of the group service may be `round_seconds` old when it
    # is used, the hub asks again at `refresh_age`, for users without requests a round later, and the gateway
    # relies on what the hub said for `decision_seconds`.

    @property
    def decision_seconds(self) -> float:
        """How long the gateway relies on what the hub said of a caller."""
        return min(30, self.refresh / 10)

    @property
    def round_seconds(self) -> float:
        """The time between two rounds over the users with running sessions, and the age of kept answers."""
        return min(30, self.refresh / 10)

    @property
    def refresh_age(self) -> int:
        """The age in seconds at which the hub reads somebody's groups again."""
        return int(self.refresh - self.decision_seconds - 2 * self.round_seconds)


class Removal(Settings):
    """What becomes of running sessions when their owner is removed from a group."""

    platform: Literal["end", "stay"] = Field(
        "end",
        description="On removal from the platform's groups: `end` after the grace, or `stay`. Either way the"
        " owner can no longer reach them.",
    )
    group: Literal["end", "stay"] = Field(
        "stay", description="On removal from another group that a session was given: `end` or `stay`."
    )
    grace: float = Field(3600, ge=0, description="Seconds until such a session ends.")


class Posix(Settings):
    """Where numeric user and group ids come from."""

    source: Literal["allocator", "claims", "mapper"] = Field(
        "allocator",
        description="`allocator`, this site's own numbers; `claims`, the provider's; `mapper`, an OpenCADC"
        " posix-mapper service.",
    )
    mapper: Url | None = Field(None, description="Base address of the posix-mapper, above `uid` and `gid`.")
    uid_claim: str = Field("uid", description="For `claims`: dotted name of the claim with the user id.")
    gid_claim: str = Field("gid", description="For `claims`: the claim with the primary group's id.")
    gids_claim: str = Field(
        "gids",
        description="For `claims`: the claim that is an object of groups' names or identifiers and their ids.",
    )
    uids: tuple[int, int] = Field((10000, 899999), description="For `allocator`: first and last user id.")
    gids: tuple[int, int] = Field((900000, 1999999), description="For `allocator`: first and last group id.")

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.source == "mapper" and not self.mapper:
            raise ValueError("posix.mapper is needed for the source mapper")
        for low, high in (self.uids, self.gids):
            if not 1000 <= low <= high < 2**31:
                raise ValueError("a range of ids goes from 1000 on upwards, below 2147483648")
        if self.uids[0] <= self.gids[1] and self.gids[0] <= self.uids[1]:
            raise ValueError("uids and gids overlap, but a user's own group has the user's number")
        return self


class Credentials(Settings):
    """What sessions get to act for their user elsewhere."""

    cred: Url | None = Field(
        None, description="Address that gives a proxy certificate, such as `https://…/cred/generate`."
    )
    days: float = Field(7, gt=0, description="Days that a certificate is asked for.")
    common_name: str = Field(
        r"{username}(_[0-9a-z]+)?",
        description="Regular expression for the common name in a user's certificate, in which `{username}` and"
        " `{subject}` stand for the user's; a certificate with another is refused.",
    )
    required: bool = Field(
        False, description="Whether a session starts only with a certificate. If not, it says that it has none."
    )
    access_token: bool = Field(
        True, description="Whether sessions get the user's access token, kept fresh, in a file."
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
    desktop_apps: int = Field(
        10, ge=0, description="Applications that one desktop session may have at a time, beside `sessions`."
    )
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


class Project(Settings):
    """One directory of data below `projects`, in a cluster."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] = Field(
        description="The directory's name."
    )
    write: frozenset[GroupId] = Field(frozenset(), description="Members of any of these may read and write.")
    read: frozenset[GroupId] = Field(frozenset(), description="Members of any of these may read.")


class Volume(Settings):
    """The shared volume with homes and projects, in a cluster."""

    claim: DnsName = Field(description="The PersistentVolumeClaim, in the namespace of the sessions.")
    sub_path: Annotated[
        str, StringConstraints(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$")
    ] = Field("", description="The directory in it that holds `home` and `projects`; empty for its top.")
    projects: tuple[Project, ...] = Field(
        (), description="The projects there are. Sessions see those that a group of their user opens."
    )

    @model_validator(mode="after")
    def _each_project_once(self) -> Self:
        names = [project.name for project in self.projects]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"projects names “{repeated[0]}” twice")
        return self


class Homes(Settings):
    """Who makes a user's home before their first session in a cluster."""

    source: Literal["made", "provisioner", "service"] = Field(
        "made",
        description="`made`: the site makes homes before people sign in. `provisioner`: a Job of this"
        " installation makes them, in a namespace of its own. `service`: the site's storage service is asked to"
        " make each, and then it is looked at as with `made`. A home that is missing, or not the user's, is a"
        " refusal.",
    )
    service: (
        Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#]+/[^\s?#]*\{username\}[^\s?#]*$")] | None
    ) = Field(
        None,
        description="The address that is asked by PUT, with the user's access token, to make a home, such as"
        " `https://storage.example.org/homes/{username}`; 2xx and 409 mean that it is there.",
    )
    image: str = Field("canfar-hub/provisioner", description="The image of that Job.")
    namespace: DnsName = Field("canfar-homes", description="The namespace of that Job.")
    claim: DnsName = Field("canfar-homes", description="The claim there, of the same volume as the sessions'.")

    @model_validator(mode="after")
    def _a_service_has_an_address(self) -> Self:
        if (self.source == "service") != (self.service is not None):
            raise ValueError("homes.service is the address for `source: service`, and for no other source")
        return self


class SecretHeader(Settings):
    """How the program takes the session's secret from the gateway."""

    header: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$")] = Field(
        "Authorization", description="The request header."
    )
    scheme: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]*=?$")] = Field(
        "Bearer",
        description="The word before the secret in the header's value; may be empty. After one that ends with"
        " `=`, the secret follows at once, as a cookie's value does.",
    )


class OwnKind(Settings):
    """A kind of session that a site adds. What is meant is the same as with the built-in kinds."""

    name: KindName = Field(description="Its name in addresses, requests and catalogue files.")
    title: str = Field(min_length=1, max_length=60, description="What people see.")
    description: str = Field("", max_length=400, description="One sentence for people.")
    port: int = Field(ge=1, le=65535, description="The port that the program listens on in a container.")
    path: Literal["keep", "strip"] = Field(
        "strip", description="Whether the program knows the path that it is served under."
    )
    ready_path: UrlPath = Field("", description="Path below the prefix that answers once it can be used.")
    command: tuple[str, ...] = Field((), description="What to run; empty for the image's own.")
    environment: Mapping[VariableName, str] = Field(
        default_factory=dict, description="Variables for the program; `$(NAME)` as in commands."
    )
    secret: SecretHeader | None = Field(
        None, description="How the program takes the session's secret; absent where it checks none."
    )
    cookies: bool = Field(True, description="Whether the program is sent the cookies that it has set.")
    compress: bool = Field(
        False,
        description="Whether the gateway compresses and keeps the program's static files, for a program"
        " that does not do so itself.",
    )


class Cluster(Settings):
    """Sessions as pods. All else about pods is set by KubeSpawner's own traits."""

    volume: Volume
    homes: Homes = Homes()
    scratch: float = Field(20, gt=0, description="Size of `/scratch` in gigabytes (10⁹ bytes).")
    shared_memory: float = Field(
        1, gt=0, description="Size of `/dev/shm` in gigabytes. It counts towards the session's memory."
    )
    disk: float = Field(
        50,
        gt=0,
        description="Gigabytes that a session may write to the disk of its node: scratch, log and image.",
    )
    guaranteed: float = Field(
        1,
        gt=0,
        le=1,
        description="The part of a session's cores and memory that is kept free for it on its node. Below 1,"
        " sessions share what others do not use, and may be ended when memory runs short.",
    )
    image_accounts: bool = Field(
        False,
        description="Whether the accounts and groups of an image's own `/etc/passwd` and `/etc/group` are known"
        " in its sessions, too. Each start then runs `/bin/sh` of the image first.",
    )
    gpu: str = Field("nvidia.com/gpu", description="The name of GPUs as a resource of nodes.")
    hub_url: Url | None = Field(
        None,
        description="The address without a path under which pods reach the hub's API, where that is not"
        " `public_url`. Desktops start applications through it.",
    )
    desktop_policies: bool = Field(
        False,
        description="Whether each desktop gets a NetworkPolicy of its own, by which it and its applications"
        " reach each other. It is for a namespace whose own policies close sessions to each other and open them"
        " to the gateway and the hub: to a pod that any policy selects, only what policies open is open. The"
        " hub needs the right to create `networkpolicies`.",
    )
    strict_groups: bool = Field(
        False,
        description="Whether pods say `supplementalGroupsPolicy: Strict`, so that an image's own `/etc/group`"
        " gives its sessions no further groups. It is off, since nodes must serve it (Kubernetes 1.33 and"
        " containerd 2.0 or newer do): others start no session that asks for it.",
    )
    prepull_namespace: DnsName | None = Field(
        None,
        description="The namespace of the pods that pull the catalogue's images ahead (label"
        " `app.kubernetes.io/component=prepull`, one container for each image). The picker then says which"
        " images the nodes have already.",
    )
    registries: Path | None = Field(
        None,
        description="A file with the names and passwords for private images, of the form of Docker's"
        " `config.json` (`auths`), relative to the site file. The hub alone reads it. A session whose image's"
        " registry is in it gets a pull Secret of its own with that one entry.",
    )


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
    groups: Groups = Groups()
    removal: Removal = Removal()
    posix: Posix = Posix()
    credentials: Credentials = Credentials()
    trusted_hosts: frozenset[str] = Field(
        frozenset(),
        description="Hosts, beside those that this file names in addresses, that may be sent a user's token:"
        " `host`, `host:port`, or `*.example.org`, of which private addresses are refused.",
    )
    storage: Storage = Storage()
    cluster: Cluster | None = Field(
        None, description="Where sessions are pods; absent where they are processes of the hub's machine."
    )
    catalogue: Path = Field(
        Path("catalogue"), description="Folder of catalogue files; relative to the site file."
    )
    own_kinds: tuple[OwnKind, ...] = Field(
        (), description="Kinds of session beside the built-in ones, to be named in `kinds`."
    )
    kinds: tuple[KindName, ...] = Field(
        ("notebook", "contributed"), min_length=1, description="The kinds of session on offer, in order."
    )
    limits: Limits = Limits()
    sharing: bool = Field(
        True,
        description="Whether people may invite others into their running sessions. Who accepts works in the"
        " session as its owner does, with the owner's files and credentials.",
    )

    @field_validator("own_kinds")
    @classmethod
    def _kinds_are_defined_once(cls, value: tuple[OwnKind, ...]) -> tuple[OwnKind, ...]:
        names = [kind.name for kind in value]
        repeated = sorted(name for name in names if name in BUILT_IN_KINDS or names.count(name) > 1)
        if repeated:
            raise ValueError(f"there is another kind of the name “{repeated[0]}”; choose one of your own")
        return value

    @field_validator("kinds")
    @classmethod
    def _kinds_are_known(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = (*BUILT_IN_KINDS, *(kind.name for kind in info.data.get("own_kinds", ())))
        unknown = [name for name in value if name not in known]
        if unknown:
            raise ValueError(f"“{unknown[0]}” is no kind of session; the kinds are {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _public_url_is_an_origin(self) -> Self:
        if self.public_url.rstrip("/").count("/") != 2:
            raise ValueError("public_url must be an address without a path, such as https://hub.example.org")
        return self

    @property
    def token_hosts(self) -> frozenset[str]:
        """Every `host` or `host:port` that may be sent a user's token."""
        gms = self.groups.gms
        named = (
            self.sign_in.issuer,
            self.posix.mapper,
            self.credentials.cred,
            self.cluster.homes.service if self.cluster else None,
            *((gms.search, gms.registry) if gms else ()),
        )
        return self.trusted_hosts | {urlsplit(url).netloc for url in named if url}


def load_site(path: Path) -> Site:
    """Reads a site file; relative paths in it are taken from where the file lies.

    Raises
    ------
    canfar_site.yamlfile.FileError
        The file is missing, malformed, or holds a wrong setting: one line that says where and what.
    """
    site = load(path, Site)
    folder = path.resolve().parent
    found: dict[str, Any] = {"catalogue": folder / site.catalogue}
    if site.cluster and site.cluster.registries:
        registries = {"registries": folder / site.cluster.registries}
        found["cluster"] = site.cluster.model_copy(update=registries)
    return site.model_copy(update=found)


def load_site_or_exit(path: str) -> Site:
    """Reads a site file for a program that needs one: a bad one ends it with one line and status 1."""
    try:
        return load_site(Path(path))
    except FileError as error:
        raise SystemExit(f"The site file is not usable. {error}") from None
