import asyncio
import copy
import itertools
from types import SimpleNamespace

import pytest
from jupyterhub.traitlets import ByteSpecification
from kubespawner import KubeSpawner

from canfar_spawner.catalogue import Nodes, Profile, Resources
from canfar_spawner.cluster.profile_list import MOST_COMBINATIONS, ProfileListError, read_profile_list, resolve

DEFAULT_IMAGE = "example.org/notebook:1"
GIB = 2**30 / 1e9
GPU = "nvidia.com/gpu"
GPU_TAINT = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}


def read(*profiles: object, **more: object) -> tuple[Profile, ...]:
    return read_profile_list(list(profiles), DEFAULT_IMAGE, **more)


def profile(override: object = None, **keys: object) -> dict[str, object]:
    """A profile named “One”; `override` is its `kubespawner_override`."""
    given = {} if override is None else {"kubespawner_override": override}
    return {"display_name": "One", **given, **keys}


def option(**overrides: dict[str, object]) -> dict[str, object]:
    """An option whose choices have these overrides, and their keys with a capital as names."""
    choices = {
        key: {"display_name": key.capitalize(), "kubespawner_override": value}
        for key, value in overrides.items()
    }
    return {"display_name": "Option", "choices": choices}


def with_options(**options: object) -> dict[str, object]:
    return profile(profile_options=options)


# The shapes of profile lists that documentation of JupyterHub for Kubernetes shows.

ENVIRONMENTS = [
    {
        "display_name": "Minimal environment",
        "description": "To avoid too many bells and whistles: Python.",
        "default": True,
    },
    {
        "display_name": "Data science environment",
        "description": "With the bells and whistles: Python, R, and Julia.",
        "kubespawner_override": {"image": "example.org/datascience:2026-01"},
    },
]
SIZES = [
    {
        "display_name": "Python",
        "description": "A session in Python",
        "slug": "python",
        "profile_options": {
            "image": {
                "display_name": "Image",
                "unlisted_choice": {"enabled": False},
                "choices": {
                    "astro": {
                        "display_name": "Astro",
                        "kubespawner_override": {"image": "example.org/astro:3"},
                    },
                    "ml": {
                        "display_name": "Learning",
                        "default": True,
                        "kubespawner_override": {"image": "example.org/ml:2"},
                    },
                },
            },
            "requests": {
                "display_name": "Size",
                "choices": {
                    "mem_2": {
                        "display_name": "2 GB, 1 core",
                        "kubespawner_override": {
                            "mem_guarantee": "1G",
                            "mem_limit": "2G",
                            "cpu_guarantee": 0.25,
                            "cpu_limit": 1,
                            "node_selector": {"pool": "small"},
                        },
                    },
                    "mem_8": {
                        "display_name": "8 GB, 4 cores",
                        "default": True,
                        "kubespawner_override": {
                            "mem_guarantee": "8G",
                            "mem_limit": "8G",
                            "cpu_guarantee": 3,
                            "cpu_limit": 4,
                            "node_selector": {"pool": "large"},
                        },
                    },
                },
            },
        },
    },
    {
        "display_name": "GPU server",
        "description": "A server with access to a GPU",
        "slug": "gpu",
        "kubespawner_override": {
            "image": "example.org/cuda:12",
            "node_selector": {"accelerator": "t4"},
            "tolerations": [GPU_TAINT],
            "extra_resource_limits": {GPU: "1"},
        },
    },
]


def test_a_profile_without_overrides_has_the_defaults():
    first, second = read(*ENVIRONMENTS)
    assert first == Profile(
        profile="minimal-environment",
        title="Minimal environment",
        description="To avoid too many bells and whistles: Python.",
        kinds=("notebook",),
        images=(DEFAULT_IMAGE,),
    )
    assert (second.profile, second.images) == ("data-science-environment", ("example.org/datascience:2026-01",))


def test_an_option_of_sizes_becomes_entries_and_one_of_images_a_choice():
    large, small, gpu = read(*SIZES)
    assert large == Profile(
        profile="python-mem-8",
        title="Python – 8 GB, 4 cores",
        description="A session in Python",
        kinds=("notebook",),
        images=("example.org/ml:2", "example.org/astro:3"),
        resources=Resources(cores=(4,), memory=(8 * GIB,)),
        cpu_guarantee=3,
        memory_guarantee=8 * GIB,
        nodes=Nodes(selector={"pool": "large"}),
    )
    assert (small.profile, small.resources.cores, small.cpu_guarantee) == ("python-mem-2", (1,), 0.25)
    assert (small.resources.memory, small.memory_guarantee) == ((2 * GIB,), GIB)
    assert small.images == large.images
    assert gpu.resources.gpus == (1,)
    assert gpu.extra_resources == {}
    assert gpu.nodes == Nodes(selector={"accelerator": "t4"}, tolerations=(GPU_TAINT,))


@pytest.mark.parametrize(
    ("options", "images", "resources", "guarantees"),
    [
        ({"a": option(x={"cpu_limit": 2}, y={"cpu_limit": 8})}, 1, {"cores": (2, 8)}, (None, None)),
        (
            {"a": option(x={"cpu_limit": 1, "cpu_guarantee": 1}, y={"cpu_limit": 4, "cpu_guarantee": 4})},
            1,
            {"cores": (1, 4)},
            (4, None),  # the plan cuts it off at the limit that is chosen
        ),
        (
            {"a": option(x={"cpu_limit": 1, "cpu_guarantee": 0.5}, y={"cpu_limit": 4, "cpu_guarantee": 0.5})},
            1,
            {"cores": (1, 4)},
            (0.5, None),
        ),
        (
            {"a": option(x={"mem_limit": "1G"}, y={"mem_limit": "4G"})},
            1,
            {"memory": (GIB, 4 * GIB)},
            (None, None),
        ),
        (
            {
                "a": option(none={}, one={"extra_resource_limits": {GPU: "1"}}),
                "b": option(x={"image": "r/x"}, y={"image": "r/y"}, z={}),
                "c": option(x={"mem_limit": 10**9}, y={"mem_limit": 3e9}, z={"mem_limit": 10**9}),
                "d": option(x={"cpu_limit": 0.5}),
            },
            3,
            {"gpus": (0, 1), "memory": (1, 3), "cores": (0.5,)},
            (None, None),
        ),
    ],
)
def test_options_that_vary_one_thing_are_choices_of_one_entry(options, images, resources, guarantees):
    (entry,) = read(with_options(**options))
    assert (entry.profile, entry.title) == ("one", "One")
    assert len(entry.images) == images
    assert entry.resources == Resources(**resources)
    assert (entry.cpu_guarantee, entry.memory_guarantee) == guarantees


def test_a_choice_is_laid_over_its_profile():
    given = with_options(image=option(own={}, other={"image": "r/other"}), cores=option(x={"cpu_limit": 2}))
    given["kubespawner_override"] = {"image": "r/own", "cpu_limit": 1, "cpu_guarantee": 0.5}
    (entry,) = read(given)
    assert entry.images == ("r/own", "r/other")
    assert (entry.resources.cores, entry.cpu_guarantee) == ((2,), 0.5)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        # cores and memory together
        ({"a": option(s={"cpu_limit": 1, "mem_limit": "1G"}, l={"cpu_limit": 2})}, ["one-s", "one-l"]),
        # guarantees that no one number says
        (
            {"a": option(s={"cpu_limit": 2, "cpu_guarantee": 1}, l={"cpu_limit": 4, "cpu_guarantee": 2})},
            ["one-s", "one-l"],
        ),
        ({"a": option(s={"cpu_limit": 2, "cpu_guarantee": 1}, l={"cpu_limit": 4})}, ["one-s", "one-l"]),
        # two that vary the same, of which the later holds
        (
            {"a": option(x={"image": "r/x"}, y={"image": "r/y"}), "b": option(u={}, v={"image": "r/v"})},
            ["one-x-u", "one-x-v", "one-y-u", "one-y-v"],
        ),
        # one choice lacks a limit
        ({"a": option(x={"cpu_limit": 16}, y={})}, ["one-x", "one-y"]),
        ({"a": option(Nodes_2={"node_selector": {"a": "b"}})}, ["one-nodes-2"]),
    ],
)
def test_other_options_are_combined(options, names):
    assert [entry.profile for entry in read(with_options(**options))] == names


def test_combinations_begin_with_the_defaults_and_are_named_after_their_choices():
    size = option(small={"cpu_limit": 1, "mem_limit": "1G"}, large={"cpu_limit": 4, "mem_limit": "4G"})
    size["choices"]["large"]["default"] = True
    pool = option(any={}, fast={"node_selector": {"pool": "fast"}})
    entries = read({"display_name": "Zero"}, {**with_options(size=size, pool=pool), "default": True})
    assert [(entry.profile, entry.title) for entry in entries] == [
        ("one-large-any", "One – Large, Any"),
        ("one-large-fast", "One – Large, Fast"),
        ("one-small-any", "One – Small, Any"),
        ("one-small-fast", "One – Small, Fast"),
        ("zero", "Zero"),
    ]


EVERYTHING = profile(
    {
        "image": "r/base",
        "cpu_limit": 2,
        "cpu_guarantee": 0.5,
        "mem_limit": "4G",
        "node_selector": {"zone": "a"},
        "tolerations": {"b": {"key": "b", "operator": "Exists"}, "a": {"key": "a", "operator": "Exists"}},
        "extra_resource_limits": {GPU: "1", "example.org/fpga": "1"},
        "extra_resource_guarantees": {GPU: "1", "example.org/fpga": "1"},
    },
    profile_options={
        "image": option(base={}, other={"image": "r/other"}),
        "cores": option(few={}, many={"cpu_limit": 8}),
        "gpus": option(
            one={}, two={"extra_resource_limits": {GPU: "2"}, "extra_resource_guarantees": {GPU: "2"}}
        ),
        "place": option(
            here={},
            there={"node_selector": {"rack": "7"}, "tolerations": {"a": {"effect": "NoExecute"}}},
            away={"tolerations": [GPU_TAINT], "mem_limit": "8G", "mem_guarantee": "3G"},
        ),
        "later": option(no={}, yes={"node_selector": {"zone": "b"}, "mem_guarantee": "1.5G"}),
    },
)


class Unconnected(KubeSpawner):
    """KubeSpawner without a cluster, which its own constructor looks for."""

    def __init__(self, **traits: object) -> None:
        for name, value in traits.items():
            setattr(self, name, value)


async def test_what_is_on_offer_is_what_kubespawner_would_make_of_the_same_profile():
    def plain(value: object) -> object:
        return tuple(sorted(value.items())) if isinstance(value, dict) else value

    theirs = set()
    options = EVERYTHING["profile_options"]
    for keys in itertools.product(*(each["choices"] for each in options.values())):
        chosen = dict(zip(options, keys, strict=True))
        spawner = Unconnected(profile_list=[EVERYTHING], user_options={"profile": "one", **chosen})
        await spawner.load_user_options()
        assert spawner.extra_resource_limits == spawner.extra_resource_guarantees
        theirs.add(
            (
                spawner.image,
                spawner.cpu_limit,
                spawner.cpu_guarantee,
                spawner.mem_limit,
                spawner.mem_guarantee,
                plain(spawner.extra_resource_limits),
                plain(spawner.node_selector),
                tuple(plain(each) for each in spawner._sorted_dict_values(spawner.tolerations)),
            )
        )

    ours = set()
    for entry in read(EVERYTHING):
        resources = entry.resources
        for image, cores, memory, gpus in itertools.product(
            entry.images, resources.cores, resources.memory, resources.gpus
        ):
            kept = entry.memory_guarantee
            ours.add(
                (
                    image,
                    cores,
                    min(cores, entry.cpu_guarantee),
                    round(memory * 1e9),
                    None if kept is None else round(min(memory, kept) * 1e9),
                    plain({**entry.extra_resources, GPU: str(gpus)}),
                    plain(entry.nodes.selector),
                    tuple(plain(dict(each)) for each in entry.nodes.tolerations),
                )
            )
    assert ours == theirs
    assert len(ours) == 2 * 2 * 2 * 3 * 2


@pytest.mark.parametrize("given", ["512M", "2G", "1.5G", "1T", "100K", 10**9, 2.5e9, "0.1G"])
def test_memory_is_what_jupyterhub_makes_of_it(given):
    (entry,) = read(profile({"mem_limit": given, "mem_guarantee": given}))
    number = ByteSpecification().validate(None, given)
    assert entry.resources.memory == (number / 1e9,)
    assert entry.memory_guarantee == number / 1e9


@pytest.mark.parametrize(
    ("override", "resources", "extra"),
    [
        ({"extra_resource_limits": {GPU: "2"}}, (2,), {}),
        ({"extra_resource_limits": {GPU: 2}}, (2,), {}),
        ({"extra_resource_guarantees": {GPU: "1"}}, (1,), {}),
        ({"extra_resource_limits": {GPU: "0"}}, (0,), {}),
        (
            {
                "extra_resource_limits": {GPU: "1", "a.b/c": "3"},
                "extra_resource_guarantees": {"hugepages-2Mi": "1Gi"},
            },
            (1,),
            {"a.b/c": "3", "hugepages-2Mi": "1Gi"},
        ),
        ({"extra_resource_limits": {"amd.com/gpu": 1}}, (0,), {"amd.com/gpu": "1"}),
    ],
)
def test_extra_resources(override, resources, extra):
    (entry,) = read(profile(override))
    assert entry.resources.gpus == resources
    assert entry.extra_resources == extra


def test_the_caller_may_say_what_profiles_leave_open_and_how_gpus_are_named():
    default = Resources(cores=(3,), memory=(6,), gpus=(1, 0))
    open_, gpu = read(
        profile(),
        {
            "display_name": "Two",
            "kubespawner_override": {"extra_resource_limits": {"amd.com/gpu": "2"}, "cpu_limit": 1},
        },
        resources=default,
        gpu="amd.com/gpu",
    )
    assert open_.resources == default
    assert gpu.resources == Resources(cores=(1,), memory=(6,), gpus=(2,))


NAMES = ["Größe & GPU", "demo 1", "  A  b__c ", "R², π", "UPPER"]


def test_names_and_order_are_kubespawners():
    given = [{"display_name": name} for name in NAMES]
    theirs = KubeSpawner._get_initialized_profile_list(None, given)
    assert [entry.profile for entry in read(*given)] == [each["slug"] for each in theirs]


@pytest.mark.parametrize(
    ("profile_list", "names"),
    [
        (None, []),
        ([], []),
        ({}, []),
        (({"display_name": "A"}, {"display_name": "B"}), ["a", "b"]),
        (
            [{"display_name": "A"}, {"display_name": "B", "default": True}, {"display_name": "C"}],
            ["b", "a", "c"],
        ),
        (
            [{"display_name": x, "default": x in "BC"} for x in "ABC"],
            ["b", "a", "c"],
        ),
        ({"2": {"display_name": "A"}, "1": {"display_name": "B", "slug": "own"}}, ["own", "a"]),
        ({"1": {"display_name": "A"}, "2": {"display_name": "B", "default": True}}, ["b", "a"]),
    ],
)
def test_order_of_lists_and_dictionaries(profile_list, names):
    assert [entry.profile for entry in read_profile_list(profile_list, DEFAULT_IMAGE)] == names


@pytest.mark.parametrize(
    "text", ["<b>bold</b>", "{value} {0.__class__}", "{{ spawner }}", "%(x)s $(HOME)", "a\nb", "&amp;"]
)
def test_names_stay_text(text):
    sizes = option(x={"cpu_limit": 1, "mem_limit": "1G"})
    sizes["choices"]["x"]["display_name"] = text
    given = {"display_name": text, "slug": "s", "description": text, "profile_options": {"size": sizes}}
    (entry,) = read(given)
    assert (entry.title, entry.description) == (f"{text} – {text}", text)


@pytest.mark.parametrize("description", [{}, {"description": ""}, {"description": "  "}])
def test_without_a_description_the_title_is_repeated(description):
    (entry,) = read(profile(**description))
    assert entry.description == "One"


def test_nothing_that_was_given_is_changed_or_shared():
    given = [EVERYTHING, *SIZES, *ENVIRONMENTS]
    before = copy.deepcopy(given)
    entries = read(*given)
    assert given == before
    copied = copy.deepcopy(given)
    entries = read(*copied)
    copied[2]["kubespawner_override"]["tolerations"][0]["key"] = "other"
    copied[2]["kubespawner_override"]["node_selector"]["more"] = "x"
    assert entries == read(*given)
    assert entries == read(*given)


def a_function(spawner: object) -> str:
    return "example.org/x:1"


ODD_OPTION = option(x={"cpu_limit": 1})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        # keys
        (profile(allowed_groups=["a"]), ["“One”", "“allowed_groups”", "remove it"]),
        (with_options(size={**ODD_OPTION, "dynamic": {}}), ["“One”", "option “size”", "“dynamic”"]),
        (
            with_options(size={"choices": {"s": {"display_name": "S", "description": "x"}}}),
            ["option “size”, choice “s”", "“description”"],
        ),
        *(
            (profile({key: value}), ["“One”", "“kubespawner_override”", f"“{key}”", "file of the catalogue"])
            for key, value in {
                "image_spec": "x",
                "environment": {},
                "cmd": "sh",
                "default_url": "/lab",
                "lifecycle_hooks": {},
                "volumes": [],
                "extra_pod_config": {},
                "uid": 0,
            }.items()
        ),
        (with_options(size=option(s={"privileged": True})), ["option “size”, choice “s”", "“privileged”"]),
        (profile({5: "x"}), ["“One”", "key 5", "quotes"]),
        (with_options(size={"choices": {4: {}}}), ["option “size”", "key 4", "quotes"]),
        (with_options(size={**ODD_OPTION, "unlisted_choice": {"enabled": False, "regex": ""}}), ["“regex”"]),
        # functions, and what people type in
        (profile({"image": a_function}), ["“One”", "“image” is a function", "whole profile_list"]),
        (with_options(size=option(s={"cpu_limit": a_function})), ["choice “s”", "“cpu_limit” is a function"]),
        (profile(profile_options=a_function), ["“One”", "“profile_options” is a function"]),
        (
            with_options(size={**ODD_OPTION, "unlisted_choice": {"enabled": True}}),
            ["option “size”", "“unlisted_choice” is enabled", "“choices”"],
        ),
        (with_options(size={"unlisted_choice": {"enabled": "no"}}), ["“enabled” is the text “no”"]),
        # types
        ("text", ["number 1", "the text “text”", "dictionary"]),
        (profile(profile_options=[]), ["“profile_options” is a list", "dictionary"]),
        (profile(profile_options=None), ["“profile_options” is null"]),
        (profile([]), ["“kubespawner_override” is a list"]),
        (profile(default="yes"), ["“default” is the text “yes”", "true or false"]),
        (profile(default=1), ["“default” is 1"]),
        (profile(description=["a"]), ["“description” is a list", "give text"]),
        ({"display_name": ["a"]}, ["number 1", "“display_name” is a list"]),
        ({"slug": "gpu"}, ["“gpu”", "no “display_name”"]),
        (profile(slug=5), ["“slug” is 5", "give text"]),
        (profile({"image": ["r/x"]}), ["“image” is a list", "give text"]),
        (profile({"image": None}), ["“image” is null"]),
        (with_options(size={**ODD_OPTION, "display_name": 1}), ["option “size”", "“display_name” is 1"]),
        (with_options(size={"choices": []}), ["“choices” is a list"]),
        (with_options(size={"choices": {}}), ["option “size”", "no “choices”"]),
        (with_options(size={"display_name": "Size"}), ["option “size”", "no “choices”"]),
        (with_options(size={"choices": {"s": {}}}), ["choice “s”", "no “display_name”"]),
        (with_options(hook=option(a={}, b={})), ["option “hook”", "none of its “choices”"]),
        # cores
        *(
            (profile({key: value}), [f"“{key}” is", "number of cores above 0"])
            for key in ("cpu_limit", "cpu_guarantee")
            for value in ("2", 0, -1, True, float("nan"), float("inf"), [1])
        ),
        (profile({"cpu_limit": None}), ["“cpu_limit” is null", "leave it out"]),
        (profile({"cpu_limit": 1, "cpu_guarantee": 2}), ["“cpu_guarantee” is above “cpu_limit”"]),
        (profile({"cpu_guarantee": 1.5}), ["“cpu_guarantee” is above the default limit", "give a “cpu_limit”"]),
        (
            with_options(a=option(x={"cpu_limit": 1, "cpu_guarantee": 2}, y={"cpu_limit": 4})),
            ["“One – X”", "“cpu_guarantee” is above “cpu_limit”"],
        ),
        # memory
        *(
            (profile({key: value}), [f"“{key}” is", "powers of 1024"])
            for key in ("mem_limit", "mem_guarantee")
            for value in (
                "2Gi",
                "2g",
                "G",
                "",
                "2 G",
                "nanG",
                "1e3G",
                "-1G",
                "2",
                "0G",
                0,
                -5,
                True,
                2**63,
                "٢G",
            )
        ),
        (profile({"mem_limit": None}), ["“mem_limit” is null", "leave it out"]),
        (profile({"mem_limit": "1G", "mem_guarantee": "2G"}), ["“mem_guarantee” is above “mem_limit”"]),
        (profile({"mem_guarantee": "3G"}), ["“mem_guarantee” is above the default limit"]),
        # nodes
        (profile({"node_selector": "ssd"}), ["“node_selector” is the text “ssd”", "dictionary"]),
        (profile({"node_selector": {"gpu": True}}), ["“node_selector.gpu” is true", "give text"]),
        (profile({"node_selector": {"gpu": None}}), ["“node_selector.gpu” is null"]),
        (profile({"tolerations": "all"}), ["“tolerations” is the text “all”", "list of tolerations"]),
        (profile({"tolerations": ["all"]}), ["“tolerations[0]” is the text “all”"]),
        (profile({"tolerations": [{"toleration_seconds": 5}]}), ["“tolerations[0]”", "“toleration_seconds”"]),
        (profile({"tolerations": [{"effect": "NoScedule"}]}), ["“tolerations[0].effect”", "NoSchedule"]),
        (profile({"tolerations": {"a": {"operator": "exists"}}}), ["“tolerations.a.operator”", "Exists"]),
        (profile({"tolerations": [{"value": 1}]}), ["“tolerations[0].value” is 1"]),
        (
            profile({"tolerations": [{"tolerationSeconds": "5"}]}),
            ["“tolerations[0].tolerationSeconds”", "seconds"],
        ),
        # extra resources
        (profile({"extra_resource_limits": [GPU]}), ["“extra_resource_limits” is a list"]),
        (profile({"extra_resource_limits": {GPU: "one"}}), [GPU, "the text “one”", "quantity"]),
        (profile({"extra_resource_limits": {GPU: True}}), [GPU, "is true"]),
        (profile({"extra_resource_limits": {GPU: -1}}), [GPU, "is -1"]),
        (profile({"extra_resource_limits": {GPU: "0.5"}}), [GPU, "“0.5”", "whole number"]),
        (profile({"extra_resource_limits": {"cpu": "4"}}), ["“cpu”", "“cpu_limit”"]),
        (profile({"extra_resource_guarantees": {"memory": "4Gi"}}), ["“memory”", "“mem_guarantee”"]),
        (
            profile({"extra_resource_limits": {GPU: "2"}, "extra_resource_guarantees": {GPU: "1"}}),
            ["“One”", "limit of “GPUs” is 2 and its guarantee 1", "the same"],
        ),
        (
            profile({"extra_resource_limits": {"a/b": "2"}, "extra_resource_guarantees": {"a/b": "1"}}),
            ["“a/b”", "the same"],
        ),
        # what the catalogue takes
        (profile({"image": "no image"}), ["“One”", "“image” cannot be “no image”", "tag or digest"]),
        (profile({"image": "r/{value}"}), ["“image” cannot be “r/{value}”"]),
        (profile(slug="cpu_8"), ["“slug” cannot be “cpu_8”", "hyphens"]),
        (profile(slug=""), ["“slug” cannot be “”"]),
        ({"display_name": "…"}, ["“slug” cannot be “”", "give a slug"]),
        ({"display_name": "  ", "slug": "a"}, ["“display_name”", "1 to 400 characters"]),
        ({"display_name": "x" * 70}, ["“slug” cannot be", "up to 63"]),
        (profile(description="x" * 401), ["“description” cannot be", "400 characters"]),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(given, said):
    with pytest.raises(ProfileListError) as refused:
        read(given)
    sentence = str(refused.value)
    assert [part for part in said if part not in sentence] == []
    assert sentence.startswith("profile_list, profile ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len(sentence) < 420


@pytest.mark.parametrize("given", ["text", 5, a_function, {1: {"display_name": "A"}}, {"a": "text"}, {"a"}])
def test_what_is_no_list_is_refused(given):
    with pytest.raises(ProfileListError, match=r"^profile_list.*\.$"):
        read_profile_list(given, DEFAULT_IMAGE)


def test_the_error_is_a_value_error_that_names_a_profile_without_a_name_by_its_place():
    with pytest.raises(ValueError, match=r"profile number 2: it has no “display_name”"):
        read(profile(), {})
    with pytest.raises(ValueError, match=r"profile “key”: it has no “display_name”"):
        read_profile_list({"key": {}}, DEFAULT_IMAGE)


@pytest.mark.parametrize(
    "given",
    [
        [{"display_name": "A b"}, {"display_name": "a B"}],
        [{"display_name": "A", "slug": "x"}, {"display_name": "X"}],
        [
            {"display_name": "One small"},
            with_options(size=option(small={"cpu_limit": 1, "mem_limit": "1G"}, large={"cpu_limit": 2})),
        ],
        [
            with_options(
                size=option(a_b={"node_selector": {"x": "1"}}, **{"a-b": {"node_selector": {"x": "2"}}})
            )
        ],
    ],
)
def test_names_that_are_the_same_are_refused(given):
    with pytest.raises(ProfileListError, match=r"are both named “[a-z-]+”; give one of them another “slug”"):
        read(*given)


def test_the_number_of_combinations_is_bound():
    def sized(count: int) -> dict[str, object]:
        return option(**{f"c{n}": {"node_selector": {"n": str(n)}} for n in range(count)})

    images = option(**{f"i{n}": {"image": f"r/i:{n}"} for n in range(60)})
    entries = read(with_options(a=sized(5), b=sized(10), image=images))
    assert len(entries) == MOST_COMBINATIONS
    assert len(entries[0].images) == 60
    with pytest.raises(ProfileListError, match=r"“One”: its options have 51 combinations, and 50 are the most"):
        read(with_options(a=sized(51)))
    huge = {f"o{n}": sized(50) for n in range(20)}  # would never end if they were made first
    with pytest.raises(ProfileListError, match=r"combinations"):
        read(with_options(**huge))


async def test_a_function_is_asked_for_each_request():
    groups = ["staff"]
    asked = []

    def plain(spawner):
        asked.append(spawner)
        return ENVIRONMENTS if "staff" in groups else ENVIRONMENTS[:1]

    async def slow(spawner):
        await asyncio.sleep(0)
        return plain(spawner)

    def future(spawner):
        return asyncio.ensure_future(slow(spawner))

    spawner = SimpleNamespace(name="s")
    for function in (plain, slow, future):
        groups[:] = ["staff"]
        assert len(read_profile_list(await resolve(function, spawner), DEFAULT_IMAGE)) == 2
        groups.clear()
        assert len(read_profile_list(await resolve(function, spawner), DEFAULT_IMAGE)) == 1
    assert asked == [spawner] * 6


@pytest.mark.parametrize("given", [None, [], ENVIRONMENTS, {"a": ENVIRONMENTS[0]}])
async def test_what_is_no_function_is_its_own_answer(given):
    assert await resolve(given, SimpleNamespace()) is given
