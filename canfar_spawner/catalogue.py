"""The catalogue: the images on offer, from a folder of YAML files that is read again when it changes."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from canfar_site.settings import GroupId, KindName, SecretHeader, Settings, UrlPath, VariableName
from canfar_site.yamlfile import FileError, load
from canfar_spawner.kinds import KINDS, Kind

log = logging.getLogger("canfar.catalogue")

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=400)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
ImageRef = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/@:+-]{0,254}$")]


class Resources(Settings):
    """The choices of resources; the first of each is the default."""

    cores: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (1, 2, 4), min_length=1, description="Processor cores."
    )
    memory: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (2, 4, 8), min_length=1, description="Memory in gigabytes (10⁹ bytes)."
    )
    gpus: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1, description="GPUs.")


class Nodes(Settings):
    """Which nodes of a cluster may run it."""

    selector: Mapping[str, str] = Field(default_factory=dict, description="Labels that the node must have.")
    tolerations: tuple[Mapping[str, Any], ...] = Field(
        (), description="Taints that it bears, in Kubernetes' form."
    )


class Program(Settings):
    """What embedded mode runs on the machine itself in place of the image."""

    command: tuple[str, ...] = Field(
        (),
        description="Program and arguments, where `$(NAME)` is a variable of the session. Empty for the"
        " kind's own command.",
    )
    needs: str = Field(description="The executable that must be on PATH.")
    install: str = Field(description="The command that installs it, shown where it is missing.")

    def command_for(self, kind: Kind) -> tuple[str, ...]:
        """What runs for a session of that kind."""
        if kind.on_desktop:
            return (*kind.command, *self.command)
        return self.command or kind.command


class Profile(Settings):
    """One entry of the catalogue."""

    profile: Slug = Field(description="The entry's name in requests; unique in the catalogue.")
    title: Text = Field(description="What people see. Text, never HTML.")
    description: Text = Field(description="One or two sentences for people. Text, never HTML.")
    kinds: tuple[KindName, ...] = Field(min_length=1, description="The kinds of session that it can be.")
    images: tuple[ImageRef, ...] = Field(
        min_length=1, description="The images, with tag or digest; the first is the default."
    )
    groups: frozenset[GroupId] = Field(
        frozenset(), description="Only members of one of these may use it; empty for every user."
    )
    category: Text = Field(
        "Astronomy", description="Under which heading a desktop's menu lists it, where it is an application."
    )
    command: tuple[str, ...] = Field(
        (),
        description="For a desktop application: program and arguments in its image, as in `program`. An image's"
        " own `/skaha/startup.sh` comes first; with neither, it is a terminal.",
    )
    resources: Resources = Resources()
    cpu_guarantee: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Cores kept free for it on a node; the site's part of its cores if absent."
    )
    memory_guarantee: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Memory kept free for it, in gigabytes; the site's part of its memory if absent."
    )
    extra_resources: Mapping[str, str] = Field(
        default_factory=dict, description="Further resources of nodes, by name, with their quantity."
    )
    nodes: Nodes = Nodes()
    path: Literal["keep", "strip"] | None = Field(
        None,
        description="Whether the program knows the path that it is served under (`keep`) or is given"
        " paths without it (`strip`); the kind's rule if absent.",
    )
    ready_path: UrlPath | None = Field(
        None, description="Path below its own root that answers once it can be used; the kind's if absent."
    )
    opens: Annotated[str, StringConstraints(pattern=r"^[!-~]*$", max_length=400)] | None = Field(
        None,
        description="The part of its address that opens a file, in which `$(CANFAR_OPEN)` is the file's path"
        " below the site's top folder, such as `?file=$(CANFAR_OPEN)`; the kind's if absent.",
    )
    secret: SecretHeader | None = Field(
        None, description="How the program takes the session's secret; the kind's way if absent."
    )
    environment: Mapping[VariableName, str] = Field(
        default_factory=dict, description="Variables for the program; `$(NAME)` as in commands."
    )
    program: Program | None = Field(
        None, description="How embedded mode runs it; without, it is on offer in a cluster only."
    )

    @field_validator("images", "kinds")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each may be given once only")
        return value

    @field_validator("kinds")
    @classmethod
    def _kinds_are_known(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = _known_kinds(info)
        for name in value:
            if name not in known:
                raise ValueError(f"there is no kind “{name}”; the kinds are {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _a_program_has_a_command(self, info: ValidationInfo) -> Self:
        for name in self.kinds:
            if self.program and not self.program.command_for(_known_kinds(info)[name]):
                raise ValueError(f"the kind “{name}” has no command of its own; give the program one")
        return self

    @model_validator(mode="after")
    def _only_applications_have_a_command(self, info: ValidationInfo) -> Self:
        known = _known_kinds(info)
        if self.command and not all(known[name].on_desktop for name in self.kinds if name in known):
            raise ValueError("“command” is for desktop applications; other images run their own")
        return self


def _known_kinds(info: ValidationInfo) -> Mapping[str, Kind]:
    """The kinds that the reader of a file gave; the built-in ones where it gave none."""
    return KINDS if info.context is None else info.context


class CatalogueFile(Settings):
    """One file of the catalogue."""

    profiles: tuple[Profile, ...] = Field(description="The entries.")


@dataclass(frozen=True)
class Catalogue:
    """What is on offer, in the order of the files' names, and what is wrong with files that were left out."""

    profiles: tuple[Profile, ...] = ()
    problems: tuple[str, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Sentence by profile, for those that cannot run where this hub starts sessions."""

    def find(self, profile: str) -> Profile | None:
        """The entry of that name."""
        return next((entry for entry in self.profiles if entry.profile == profile), None)

    def without(self, unavailable: Mapping[str, str]) -> "Catalogue":
        """This catalogue, with entries that cannot run here."""
        return replace(self, unavailable=dict(unavailable))


class CatalogueFolder:
    """A folder of catalogue files (`*.yaml`, `*.yml`), whose entries are of the given kinds."""

    def __init__(self, path: Path, kinds: Mapping[str, Kind] = KINDS) -> None:
        self._path = path
        self._kinds = kinds
        self._seen: object = None
        self._catalogue = Catalogue()

    def read(self) -> Catalogue:
        """The catalogue as the files are now. Files are parsed only when one has changed.

        A bad file is left out, named in `problems` with its line, and logged once; the others keep working.
        """
        files = sorted(p for p in self._path.glob("*") if p.suffix in {".yaml", ".yml"})
        seen = [(p, *_fingerprint(p)) for p in files]
        if seen != self._seen:
            self._catalogue = read_files(files, self._kinds)
            self._seen = seen
            for problem in self._catalogue.problems:
                log.error("A catalogue file was left out. %s", problem)
        return self._catalogue


def _fingerprint(path: Path) -> tuple[int, ...]:
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def read_files(files: list[Path], kinds: Mapping[str, Kind] = KINDS) -> Catalogue:
    """Reads catalogue files in the given order; of entries with the same name, the first file's holds."""
    entries: dict[str, Profile] = {}
    problems: list[str] = []
    for path in files:
        try:
            found = load(path, CatalogueFile, kinds).profiles
            _refuse_repeated(path, [p.profile for p in found], entries)
        except FileError as error:
            problems.append(str(error))
            continue
        entries |= {entry.profile: entry for entry in found}
    return Catalogue(tuple(entries.values()), tuple(problems))


def _refuse_repeated(path: Path, names: list[str], known: Mapping[str, Profile]) -> None:
    for index, name in enumerate(names):
        if name in known or name in names[:index]:
            raise FileError(path, f"the profile “{name}” is already in the catalogue; give it another name.")
