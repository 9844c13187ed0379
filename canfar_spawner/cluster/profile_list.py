"""KubeSpawner's `profile_list` as entries of the catalogue, for a hub whose administrator has one already.

What it means here:

* A profile is a notebook session. Its `display_name` is the title and its `description` the description (the
  title again if it has none); both are text, in which HTML and braces stay as they are. Without `slug` it is
  named as KubeSpawner names it, from the `display_name`. A dictionary of profiles is in the order of its keys,
  which are not their names. The first profile with `default` comes first, and the others follow in their order.
* Overrides that are read: `image`, `cpu_limit`, `cpu_guarantee`, `mem_limit`, `mem_guarantee`, `node_selector`,
  `tolerations`, `extra_resource_limits`, `extra_resource_guarantees`. A choice's are laid over the profile's by
  KubeSpawner's rule: dictionaries are merged, all else is replaced. A suffix of memory is a power of 1024.
* A profile without an image has the default image; one without `cpu_limit` or `mem_limit` has the default
  choices of cores or memory, since every session has a limit. A guarantee that is left out, or null, is the
  site's part of the limit.
* Extra resources are limits and guarantees at once, so a resource that has both must have the same. The GPUs
  among them are the entry's GPUs.
* An option that varies the image alone offers the images of the entry, one that varies the processor limit, the
  memory limit or the number of GPUs alone offers that. It may set the guarantee too, if one number can say it:
  the limit each time, or the same each time. Each begins with the default choice.
* Options that vary anything else, or what another option varies too, are combined: one entry for each
  combination of their choices, first that of the defaults, with names such as `gpu-large` and titles such as
  “GPU – Large”.

Everything else is refused, because it would silently not hold: other keys anywhere, functions as values of
overrides, choices that people type in themselves (`unlisted_choice`).

A list that is a function may answer differently for each user and at any time, by group for example. So the
caller resolves and reads it for each request, for the picker and again for the plan, and keeps the outcome
for no other. Only then are mistakes in its answer found; those in a list or dictionary are found at the start,
if the caller reads it then. Reading changes nothing in what it was given, and the entries share nothing with
it.
"""

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NoReturn

from jupyterhub.utils import maybe_future
from pydantic import ValidationError
from slugify import slugify

from canfar_auth.refusal import shown
from canfar_spawner.catalogue import Nodes, Profile, Resources

MOST_COMBINATIONS = 50
"""The most entries that one profile may become."""
GPU = "nvidia.com/gpu"
"""The usual name of GPUs as a resource of nodes."""

_PROFILE = ("slug", "display_name", "description", "default", "profile_options", "kubespawner_override")
_OPTION = ("display_name", "choices", "unlisted_choice")
_CHOICE = ("display_name", "default", "kubespawner_override")
_UNLISTED = (
    "enabled",
    "display_name",
    "display_name_in_choices",
    "validation_regex",
    "validation_message",
    "kubespawner_override",
)

_MEMORY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)([KMGT])")
_BYTES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_QUANTITY = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?([KMGTPE]i|[mkMGTPE])?")

# A toleration's fields; with their values, where Kubernetes knows certain ones only.
_TOLERATION: Mapping[str, tuple[str, ...]] = {
    "key": (),
    "operator": ("Exists", "Equal", "Lt", "Gt"),
    "value": (),
    "effect": ("NoSchedule", "PreferNoSchedule", "NoExecute"),
    "tolerationSeconds": (),
}

# The overrides that are resources of the catalogue: limit and guarantee.
_RESOURCES = {
    "cores": ("cpu_limit", "cpu_guarantee"),
    "memory": ("mem_limit", "mem_guarantee"),
    "gpus": ("gpu_limit", "gpu_guarantee"),
}
# What an option may vary to be offered on its own.
_ALONE: Mapping[str, tuple[str, ...]] = {"image": ("image",), **_RESOURCES}

_Override = Mapping[str, Any]
"""Checked overrides by key: memory in bytes, GPUs taken out of the extra resources as numbers."""


class ProfileListError(ValueError):
    """A profile list that cannot be read. Its text is one sentence for the administrator."""


@dataclass(frozen=True)
class _Choice:
    key: str
    title: str
    override: _Override


@dataclass(frozen=True)
class _Option:
    choices: tuple[_Choice, ...]
    """The default first."""
    varies: frozenset[str]
    """The overrides that any of them sets."""


@dataclass(frozen=True)
class _Entry:
    where: str
    slug: str
    title: str
    description: str
    default: bool
    override: _Override
    options: tuple[_Option, ...]


async def resolve(profile_list: object, spawner: object) -> object:
    """The list itself, or what it answers for this spawner if it is a function, which may be asynchronous.

    The answer is this user's at this moment: it is asked for again for each page and each plan, and not kept.
    """
    if not callable(profile_list):
        return profile_list
    return await maybe_future(profile_list(spawner))


def read_profile_list(
    profile_list: object, default_image: str, *, resources: Resources | None = None, gpu: str = GPU
) -> tuple[Profile, ...]:
    """The entries of the catalogue that a resolved profile list stands for, the default first.

    Parameters
    ----------
    profile_list
        A list, or a dictionary whose keys give the order; None is an empty list.
    default_image
        The image of profiles that name none.
    resources
        The choices of what a profile does not limit; if absent, those of an entry of the catalogue.
    gpu
        The name of GPUs among extra resources.

    Raises
    ------
    ProfileListError
        For the first thing that cannot be read, named with its profile, and what to do about it.
    """
    entries = [_entry(where, profile, gpu) for where, profile in _in_order(profile_list)]
    first = next((entry for entry in entries if entry.default), None)
    # `sorted` keeps the order of what compares equal
    ordered = sorted(entries, key=lambda entry: entry is not first)
    otherwise = resources or Resources()
    profiles = tuple(p for entry in ordered for p in _profiles(entry, default_image, otherwise))
    _refuse_repeated(profiles)
    return profiles


def _in_order(profile_list: object) -> list[tuple[str, object]]:
    """The profiles in KubeSpawner's order, each with how errors name it."""
    if profile_list is None:
        return []
    if isinstance(profile_list, Mapping):
        named = _mapping("profile_list", "the dictionary", profile_list)
        return [(_named(profile, f"“{shown(key)}”"), profile) for key, profile in sorted(named.items())]
    if not isinstance(profile_list, list | tuple):
        _refuse("profile_list", f"it is {_a(profile_list)}; give a list or a dictionary of profiles.")
    return [
        (_named(profile, f"number {index}"), profile) for index, profile in enumerate(profile_list, start=1)
    ]


def _named(profile: object, otherwise: str) -> str:
    names = [profile.get(key) for key in ("display_name", "slug")] if isinstance(profile, Mapping) else []
    found = (f"“{shown(name)}”" for name in names if isinstance(name, str) and name)
    return f"profile_list, profile {next(found, otherwise)}"


def _entry(where: str, value: object, gpu: str) -> _Entry:
    profile = _mapping(where, "the profile", value, _PROFILE)
    title = _title(where, profile)
    options = _mapping(where, "“profile_options”", profile.get("profile_options", {}))
    return _Entry(
        where=where,
        slug=_text(where, "slug", profile["slug"]) if "slug" in profile else slugify(title),
        title=title,
        description=_text(where, "description", profile.get("description", "")),
        default=_flag(where, "default", profile.get("default", False)),
        override=_override(where, profile.get("kubespawner_override", {}), gpu),
        options=tuple(_option(f"{where}, option “{shown(k)}”", v, gpu) for k, v in options.items()),
    )


def _option(where: str, value: object, gpu: str) -> _Option:
    option = _mapping(where, "the option", value, _OPTION)
    _text(where, "display_name", option.get("display_name", ""))  # the picker has labels of its own
    unlisted = _mapping(where, "“unlisted_choice”", option.get("unlisted_choice", {}), _UNLISTED)
    if _flag(where, "enabled", unlisted.get("enabled", False)):
        _refuse(where, "“unlisted_choice” is enabled; remove it, and list all that may be chosen in “choices”.")
    given = _mapping(where, "“choices”", option.get("choices", {}))
    if not given:
        _refuse(where, "it has no “choices”; give some, or remove it.")
    choices: list[_Choice] = []
    default: _Choice | None = None
    for key, body in given.items():
        at = f"{where}, choice “{shown(key)}”"
        choice = _mapping(at, "the choice", body, _CHOICE)
        read = _Choice(key, _title(at, choice), _override(at, choice.get("kubespawner_override", {}), gpu))
        choices.append(read)
        if _flag(at, "default", choice.get("default", False)):
            default = default or read  # KubeSpawner takes the first, too
    varies = frozenset(key for choice in choices for key in choice.override)
    if not varies:
        _refuse(where, "none of its “choices” has a “kubespawner_override”; give them some, or remove it.")
    return _Option(tuple(sorted(choices, key=lambda choice: choice is not (default or choices[0]))), varies)


def _title(where: str, value: Mapping[str, object]) -> str:
    if "display_name" not in value:
        _refuse(where, "it has no “display_name”; give it one.")
    return _text(where, "display_name", value["display_name"])


def _override(where: str, value: object, gpu: str) -> _Override:
    found: dict[str, Any] = {}
    for key, given in _mapping(where, "“kubespawner_override”", value, _CHECKS).items():
        if callable(given):
            sentence = f"“{key}” is a function, which is not called here; give its value"
            _refuse(where, f"{sentence}, or make the whole profile_list a function.")
        found[key] = _CHECKS[key](where, key, given)
    for key, number in (("extra_resource_limits", "gpu_limit"), ("extra_resource_guarantees", "gpu_guarantee")):
        if gpu in found.get(key, {}):
            found[number] = _whole(where, gpu, found[key].pop(gpu))
            if not found[key]:
                del found[key]  # so that an option that sets nothing else can be offered on its own
    return found


def _profiles(entry: _Entry, default_image: str, resources: Resources) -> list[Profile]:
    """The entries of one profile: one for each combination of the options that are not offered on their own."""
    alone = {what: option for what in _ALONE if (option := _offering(what, entry))}
    combined = [option.choices for option in entry.options if option not in alone.values()]
    count = math.prod(len(choices) for choices in combined)
    if count > MOST_COMBINATIONS:
        advice = "remove choices, or let options vary the image, the limit of cores or that of memory alone"
        _refuse(
            entry.where,
            f"its options have {count} combinations, and {MOST_COMBINATIONS} are the most; {advice}.",
        )
    return [_profile(entry, chosen, alone, default_image, resources) for chosen in itertools.product(*combined)]


def _offering(what: str, entry: _Entry) -> _Option | None:
    """The option that varies this and nothing else, if it is the only one to do so and its choices allow it."""
    keys = frozenset(_ALONE[what])
    those = [option for option in entry.options if option.varies & keys]
    if len(those) != 1 or not those[0].varies <= keys:
        return None
    variants = [_over(entry.override, choice.override) for choice in those[0].choices]
    if what in ("cores", "memory") and not _one_guarantee(variants, *_RESOURCES[what]):
        return None
    return those[0]


def _one_guarantee(variants: Sequence[_Override], limit: str, guarantee: str) -> bool:
    """Whether one number, cut off at the limit that is chosen, is the guarantee of each variant."""
    pairs = [(variant.get(limit), variant.get(guarantee)) for variant in variants]
    given = [(most, least) for most, least in pairs if most is not None and least is not None]
    if len(given) == len(pairs):
        highest = max(least for _, least in given)
        return all(min(most, highest) == least for most, least in given)
    return all(most is not None and least is None for most, least in pairs)


def _profile(
    entry: _Entry,
    chosen: Sequence[_Choice],
    alone: Mapping[str, _Option],
    default_image: str,
    resources: Resources,
) -> Profile:
    override = reduce(_over, (choice.override for choice in chosen), entry.override)
    title = " – ".join([entry.title, ", ".join(c.title for c in chosen)]) if chosen else entry.title
    where = f"profile_list, profile “{shown(title)}”"

    def variants(what: str) -> list[_Override]:
        return [_over(override, c.override) for c in alone[what].choices] if what in alone else [override]

    cores, cpu = _limits(where, variants("cores"), *_RESOURCES["cores"], resources.cores)
    memory, kept = _limits(where, variants("memory"), *_RESOURCES["memory"], resources.memory, unit=10**9)
    gpus = [_same(where, "GPUs", *map(variant.get, _RESOURCES["gpus"])) for variant in variants("gpus")]
    try:
        return Profile(
            profile="-".join([entry.slug, *(slugify(choice.key) for choice in chosen)]),
            title=title,
            description=entry.description.strip() or title,
            kinds=("notebook",),
            images=_each_once(variant.get("image", default_image) for variant in variants("image")),
            resources=Resources(
                cores=cores,
                memory=memory,
                gpus=resources.gpus if gpus == [None] else _each_once(count or 0 for count in gpus),
            ),
            cpu_guarantee=cpu,
            memory_guarantee=kept,
            extra_resources=_extra_resources(where, override),
            nodes=Nodes(
                selector=override.get("node_selector", {}),
                tolerations=tuple(_in_key_order(override.get("tolerations", ()))),
            ),
        )
    except ValidationError as error:
        _refuse_value(where, error)


def _limits(
    where: str,
    variants: Sequence[_Override],
    limit: str,
    guarantee: str,
    otherwise: tuple[float, ...],
    unit: int = 1,
) -> tuple[tuple[float, ...], float | None]:
    """The choices of a limit, and the guarantee, which the plan cuts off at the chosen one; both in `unit`."""
    limits = _each_once(variant[limit] / unit for variant in variants if limit in variant) or otherwise
    guarantees = [variant[guarantee] / unit for variant in variants if variant.get(guarantee) is not None]
    highest = max(guarantees, default=None)
    if len(variants) == 1 and highest is not None and highest > min(limits):
        above = f"“{limit}”" if limit in variants[0] else "the default limit"
        _refuse(where, f"“{guarantee}” is above {above}; give a “{limit}” that is not below it.")
    return limits, highest


def _extra_resources(where: str, override: _Override) -> dict[str, str]:
    limits = override.get("extra_resource_limits", {})
    guarantees = override.get("extra_resource_guarantees", {})
    return {name: _same(where, name, limits.get(name), guarantees.get(name)) for name in limits | guarantees}


def _same(where: str, name: str, limit: Any, guarantee: Any) -> Any:
    """What limit and guarantee of an extra resource say, None if neither is given."""
    if limit is not None and guarantee is not None and limit != guarantee:
        sentence = f"the limit of “{shown(name)}” is {limit} and its guarantee {guarantee}"
        _refuse(where, f"{sentence}; give the same in “extra_resource_limits” and “extra_resource_guarantees”.")
    return guarantee if limit is None else limit


def _over(below: _Override, above: _Override) -> dict[str, Any]:
    """One override over another: dictionaries are merged, all else is replaced. Neither is changed."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _over(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return result


def _refuse_repeated(profiles: Iterable[Profile]) -> None:
    titles: dict[str, str] = {}
    for profile in profiles:
        if profile.profile in titles:
            both = f"“{shown(titles[profile.profile])}” and “{shown(profile.title)}”"
            _refuse(
                "profile_list",
                f"the profiles {both} are both named “{profile.profile}”; give one of them another “slug”.",
            )
        titles[profile.profile] = profile.title


# What the catalogue does not take, in KubeSpawner's words: the key, and what to do.
_VALUES = {
    "profile": ("slug", "give a slug that is, with those of its choices, up to 63 of a-z, 0-9 and hyphens"),
    "title": ("display_name", "give 1 to 400 characters, those of its choices included"),
    "description": ("description", "give up to 400 characters"),
    "images": ("image", "give the name of an image, with tag or digest"),
}


def _refuse_value(where: str, error: ValidationError) -> NoReturn:
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"])
    key, advice = _VALUES.get(field.partition(".")[0], (field, f"change it: {problem['msg']}"))
    raise ProfileListError(f"{where}: “{key}” cannot be “{shown(problem['input'])}”; {advice}.") from None


def _refuse(where: str, sentence: str) -> NoReturn:
    raise ProfileListError(f"{where}: {sentence}")


def _mapping(where: str, what: str, value: object, allowed: Collection[str] | None = None) -> dict[str, object]:
    """A copy of a dictionary whose keys are text, and of those that are allowed."""
    if not isinstance(value, Mapping):
        _refuse(where, f"{what} is {_a(value)}; give a dictionary.")
    for key in value:
        if not isinstance(key, str):
            _refuse(where, f"{what} has the key {shown(key)}, which is no text; put it in quotes.")
        if allowed is not None and key not in allowed:
            sentence = f"{what} has the key “{shown(key)}”, which is not one of {', '.join(allowed)}"
            _refuse(where, f"{sentence}; remove it, or describe the session in a file of the catalogue.")
    return dict(value)


def _text(where: str, key: str, value: object) -> str:
    if not isinstance(value, str):
        _refuse(where, f"“{shown(key)}” is {_a(value)}; give text.")
    return value


def _flag(where: str, key: str, value: object) -> bool:
    if not isinstance(value, bool):
        _refuse(where, f"“{key}” is {_a(value)}; give true or false.")
    return value


def _cores(where: str, key: str, value: object) -> float:
    # The comparison is false for what is not a number, too.
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        _refuse(where, f"“{key}” is {_a(value)}; give a number of cores above 0, or leave it out.")
    return value


def _bytes(where: str, key: str, value: object) -> int:
    """Memory as JupyterHub reads it: bytes, or text with a suffix that is a power of 1024."""
    number = 0
    if isinstance(value, str) and (match := _MEMORY.fullmatch(value)):
        number = int(float(match[1]) * _BYTES[match[2]])
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**63:
        number = int(value)
    if number < 1:
        _refuse(
            where,
            f"“{key}” is {_a(value)}; give memory above 0 as bytes or with K, M, G or T (powers of 1024),"
            " such as “2G”, or leave it out.",
        )
    return number


def _or_none(check: Callable[[str, str, object], Any]) -> Callable[[str, str, object], Any]:
    def checked(where: str, key: str, value: object) -> Any:
        return None if value is None else check(where, key, value)

    return checked


def _labels(where: str, key: str, value: object) -> dict[str, str]:
    labels = _mapping(where, f"“{key}”", value)
    return {name: _text(where, f"{key}.{name}", label) for name, label in labels.items()}


def _quantities(where: str, key: str, value: object) -> dict[str, str]:
    found = {}
    for name, given in _mapping(where, f"“{key}”", value).items():
        if name in ("cpu", "memory"):
            ours = "cpu_limit” and “cpu_guarantee" if name == "cpu" else "mem_limit” and “mem_guarantee"
            _refuse(where, f"“{key}” has the key “{name}”; give it as “{ours}” instead.")
        quantity = str(given) if isinstance(given, int) and not isinstance(given, bool) else given
        if not isinstance(quantity, str) or not _QUANTITY.fullmatch(quantity):
            _refuse(where, f"“{key}.{shown(name)}” is {_a(given)}; give a quantity such as “1”.")
        found[name] = quantity
    return found


def _whole(where: str, name: str, quantity: str) -> int:
    if not quantity.isdecimal():
        _refuse(where, f"“{shown(name)}” is “{quantity}”; give a whole number of GPUs.")
    return int(quantity)


def _tolerations(where: str, key: str, value: object) -> tuple[dict[str, object], ...] | dict[str, object]:
    """A tuple, or a dictionary that is merged by its keys and then in their order."""
    if isinstance(value, list | tuple):
        return tuple(_toleration(where, f"{key}[{index}]", each) for index, each in enumerate(value))
    if not isinstance(value, Mapping):
        _refuse(where, f"“{key}” is {_a(value)}; give a list of tolerations.")
    named = _mapping(where, f"“{key}”", value)
    return {name: _toleration(where, f"{key}.{name}", each) for name, each in named.items()}


def _toleration(where: str, name: str, value: object) -> dict[str, object]:
    toleration = _mapping(where, f"“{shown(name)}”", value, _TOLERATION)
    for key, given in toleration.items():
        known = _TOLERATION[key]
        if key == "tolerationSeconds":
            if not isinstance(given, int) or isinstance(given, bool):
                _refuse(where, f"“{shown(name)}.{key}” is {_a(given)}; give a whole number of seconds.")
        elif _text(where, f"{name}.{key}", given) not in known and known:
            sentence = f"“{shown(name)}.{key}” is {_a(given)}; give one of {', '.join(known)}"
            _refuse(where, f"{sentence}, or leave it out.")
    return toleration


def _in_key_order(tolerations: Any) -> Iterable[dict[str, Any]]:
    if isinstance(tolerations, dict):
        return [tolerations[key] for key in sorted(tolerations)]
    return tuple(tolerations)


def _each_once(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _a(value: object) -> str:
    """What a value is, in the middle of a sentence."""
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return shown(str(value).lower())
    if isinstance(value, str):
        return f"the text “{shown(value)}”"
    if isinstance(value, Mapping):
        return "a dictionary"
    if isinstance(value, list | tuple | set | frozenset):
        return "a list"
    return "a function" if callable(value) else "neither text nor number"


_CHECKS: Mapping[str, Callable[[str, str, object], Any]] = {
    "image": _text,
    "cpu_limit": _cores,
    "cpu_guarantee": _or_none(_cores),
    "mem_limit": _bytes,
    "mem_guarantee": _or_none(_bytes),
    "node_selector": _labels,
    "tolerations": _tolerations,
    "extra_resource_limits": _quantities,
    "extra_resource_guarantees": _quantities,
}
