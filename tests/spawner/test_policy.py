from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from canfar_auth.identity import GroupSet, PosixGroup, PosixIds
from canfar_site.settings import Cluster, OwnKind, Removal, Volume
from canfar_spawner import policy
from canfar_spawner.catalogue import Profile
from canfar_spawner.kinds import kinds_of
from canfar_spawner.policy import Usage, choose_id, offer, offer_apps, plan
from canfar_spawner.request import parse_options
from canfar_spawner.spec import Desktop, Refused
from tests.support.identities import ADMINS, SURVEY, USERS, identity

IDLE = Usage(active=0)


def decide(options, who, site, catalogue, usage=IDLE):
    return plan(parse_options(options), who, site, catalogue, usage, "abcd1234")


def test_defaults_fill_what_a_request_leaves_open(site, catalogue):
    spec = decide({"profile": "open"}, identity(USERS), site, catalogue)
    assert (spec.kind, spec.image, spec.cores, spec.memory, spec.gpus) == (
        "notebook",
        "example.org/open:2",
        1,
        2,
        0,
    )
    assert spec.home == "/arc/home/astronomer"
    assert spec.prefix == "/session/notebook/abcd1234"
    assert spec.address == "/session/notebook/abcd1234/"
    assert spec.variables["skaha_sessionid"] == "abcd1234"


def test_a_program_that_knows_no_path_gets_no_prefix(site, catalogue):
    spec = decide({"profile": "team", "kind": "contributed"}, identity(USERS, SURVEY), site, catalogue)
    assert spec.prefix == ""
    assert spec.address == "/session/contributed/abcd1234/"


@pytest.mark.parametrize(
    ("options", "groups", "status", "said"),
    [
        ({"profile": "open"}, [], 403, "canfar-users"),
        ({"profile": "open"}, [SURVEY], 403, "canfar-users"),
        ({"profile": "team"}, [USERS], 403, "survey-x"),
        ({"profile": "nope"}, [USERS], 400, "not in the catalogue"),
        ({"profile": "open", "image": "evil.org/x:1"}, [USERS], 400, "not on offer"),
        ({"profile": "open", "image": "example.org/open:2\n"}, [USERS], 400, "not on offer"),
        ({"profile": "open", "image": "example.org/team:1"}, [USERS, SURVEY], 400, "not on offer"),
        ({"profile": "open", "kind": "contributed"}, [USERS], 400, "not on offer"),
        ({"profile": "open", "kind": "headless"}, [USERS], 400, "not on offer"),
        ({"profile": "batch"}, [USERS], 400, "not on offer"),
        ({"profile": "open", "cores": 3}, [USERS], 400, "1, 2, 4, 8"),
        ({"profile": "open", "cores": -1}, [USERS], 400, "choices"),
        ({"profile": "open", "cores": 4}, [USERS], 403, "At most 2 cores"),
        ({"profile": "open", "cores": 8}, [USERS, SURVEY], 403, "At most 4 cores"),
        ({"profile": "open", "gpus": 1}, [USERS], 403, "No GPUs"),
        ({"profile": "open", "gpus": 0.5}, [USERS], 400, "choices"),
    ],
)
def test_refusals(site, catalogue, options, groups, status, said):
    with pytest.raises(Refused) as refused:
        decide(options, identity(*groups), site, catalogue)
    assert refused.value.status == status
    assert said in refused.value.sentence
    assert refused.value.sentence.endswith(".")
    assert "\n" not in refused.value.sentence


def test_a_groups_ceiling_raises_each_resource_and_lowers_none(site, catalogue):
    member = identity(USERS, SURVEY)
    assert decide({"profile": "open", "cores": 4, "gpus": 1}, member, site, catalogue).gpus == 1
    assert decide({"profile": "open", "memory": 8}, member, site, catalogue).memory == 8


def test_administrators_may_use_the_platform(site, catalogue):
    assert decide({"profile": "open"}, identity(ADMINS), site, catalogue)


def test_the_limit_of_sessions(site, catalogue):
    assert decide({"profile": "open"}, identity(USERS), site, catalogue, Usage(active=1))
    with pytest.raises(Refused, match="2 of 2"):
        decide({"profile": "open"}, identity(USERS), site, catalogue, Usage(active=2))


@pytest.mark.parametrize("name", ["", "..", ".ssh", "a/b", "a\nb", "a\x00"])
def test_a_name_that_is_no_directory_gets_no_session(site, catalogue, name):
    with pytest.raises(Refused) as refused:
        decide({"profile": "open"}, identity(USERS, name=name), site, catalogue)
    assert refused.value.status == 409


@pytest.mark.parametrize("name", ["first.last", "a@b.org"])
def test_names_with_dots_and_at_signs_have_homes(site, catalogue, name):
    assert decide({"profile": "open"}, identity(USERS, name=name), site, catalogue).home == f"/arc/home/{name}"


def test_what_the_picker_offers_is_what_the_plan_accepts(site, catalogue):
    """Every choice of every offered profile, as the picker shows it to three users, put to the plan."""
    catalogue = replace(catalogue, unavailable={"batch": "No."})
    for who in (identity(USERS), identity(USERS, SURVEY), identity(SURVEY)):
        shown = offer(who, site, catalogue, IDLE)
        for entry in shown.profiles:
            for kind in entry.kinds:
                for image in entry.images:
                    _compare(shown, entry, {"kind": kind, "image": image}, who, site, catalogue)
            for what in ("cores", "memory", "gpus"):
                for choice in getattr(entry, what):
                    _compare(shown, entry, {what: choice.value}, who, site, catalogue, choice.refusal)


def _compare(shown, entry, options, who, site, catalogue, refusal=""):
    says_no = bool(shown.refusal or entry.refusal or refusal)
    refusal = pytest.raises(Refused) if says_no else nullcontext()
    with refusal:
        decide({"profile": entry.profile, **options}, who, site, catalogue)


def test_the_offer_gives_reasons(site, catalogue):
    shown = offer(identity(USERS), site, catalogue, Usage(active=1))
    kinds = {kind.kind: kind.refusal for kind in shown.kinds}
    assert list(kinds) == ["notebook", "contributed", "carta"]
    assert not kinds["notebook"]
    assert "survey-x" in kinds["contributed"]
    assert "catalogue" in kinds["carta"]
    assert (shown.active, shown.limit, shown.refusal) == (1, 2, "")
    assert "stop one" in offer(identity(USERS), site, catalogue, Usage(active=2)).refusal


def test_ids_are_unique_and_have_the_form_that_images_expect():
    assert choose_id("ada", "abcd1234", set()) == "abcd1234"
    derived = choose_id("ada", "my-notebook", set())
    assert policy._ID.fullmatch(derived)
    assert choose_id("ada", "my-notebook", set()) == derived
    assert choose_id("bob", "my-notebook", set()) != derived
    assert choose_id("bob", "abcd1234", {"abcd1234"}) != "abcd1234"
    assert choose_id("ada", "my-notebook", {derived}) != derived


# Yes, no, and nobody knows


def doubtful(*groups, known=(), reason="The group service does not answer."):
    """Somebody in `known` for sure, and in `groups` when that was told last, an hour ago."""
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    told = GroupSet(
        groups=frozenset({*groups, *known}),
        source="claims+gms",
        as_of=hour_ago,
        complete=False,
        doubted=frozenset(groups),
        reason=reason,
    )
    return replace(identity(), groups=told)


def test_what_was_known_opens_new_sessions_for_a_while(site, catalogue):
    spec = decide({"profile": "team", "kind": "contributed"}, doubtful(USERS, SURVEY), site, catalogue)
    assert spec.groups == (SURVEY,)


@pytest.mark.parametrize(
    ("who", "profile"),
    [
        (doubtful(), "open"),
        (doubtful(SURVEY), "open"),
        (doubtful(known=[USERS]), "team"),
    ],
)
def test_what_nobody_knows_is_told_as_such_and_opens_nothing(site, catalogue, who, profile):
    with pytest.raises(Refused) as refused:
        decide({"profile": profile}, who, site, catalogue)
    assert refused.value.status == 503
    assert "The group service does not answer." in refused.value.sentence


def test_what_has_been_in_doubt_for_too_long_counts_no_more(site, catalogue):
    who = doubtful(SURVEY, known=[USERS])
    patient = who.groups.trusted(datetime.now(UTC), timedelta(hours=2))
    assert decide({"profile": "team"}, replace(who, groups=patient), site, catalogue)
    impatient = replace(who, groups=who.groups.trusted(datetime.now(UTC), timedelta(minutes=30)))
    assert decide({"profile": "open"}, impatient, site, catalogue)
    with pytest.raises(Refused) as refused:
        decide({"profile": "team"}, impatient, site, catalogue)
    assert refused.value.status == 503


def test_the_picker_says_until_when_groups_in_doubt_count(site, catalogue):
    (notice,) = offer(doubtful(USERS), site, catalogue, IDLE).notices
    assert "The group service does not answer." in notice
    assert "count until" in notice
    assert offer(identity(USERS), site, catalogue, IDLE).notices == ()


@pytest.mark.parametrize(
    ("who", "ends"),
    [
        (identity(USERS, SURVEY), set()),
        (identity(ADMINS, SURVEY), set()),
        (identity(SURVEY), {"platform"}),
        (identity(USERS), {"group"}),
        (identity(), {"platform", "group"}),
        (doubtful(USERS, SURVEY), set()),
        (doubtful(SURVEY), set()),
        (doubtful(), set()),
    ],
)
@pytest.mark.parametrize("platform", ["end", "stay"])
@pytest.mark.parametrize("group", ["end", "stay"])
def test_only_a_definite_removal_ends_a_session_and_only_where_the_site_says_so(
    site, who, ends, platform, group
):
    choice = Removal(platform=platform, group=group)
    reason = policy.removal([SURVEY], who.groups, site.model_copy(update={"removal": choice}))
    expected = ("platform" in ends and platform == "end") or ("group" in ends and group == "end")
    assert bool(reason) == expected


def test_the_picker_names_the_groups_that_a_file_server_does_not_see(site, catalogue):
    many = tuple(PosixGroup(f"ivo://example.org/gms?g{n}", f"g{n}", 900000 + n) for n in range(17))
    who = replace(identity(USERS), posix=PosixIds(10000, 10000, many))
    (notice,) = offer(who, site, catalogue, IDLE).notices
    assert "NFS" in notice
    assert "g16" in notice
    assert "g15," not in notice


@pytest.mark.parametrize(
    ("asked", "landing"),
    [
        ("", ""),
        ("projects/survey-x/look.ipynb", "lab/tree/projects/survey-x/look.ipynb"),
        ("/arc/projects/look.ipynb", "lab/tree/projects/look.ipynb"),
        ("/elsewhere/look.ipynb", "lab/tree/elsewhere/look.ipynb"),
        ("a b/ü%?#&.ipynb", "lab/tree/a%20b/%C3%BC%25%3F%23%26.ipynb"),
        ("$(CANFAR_SECRET)/{x}", "lab/tree/%24%28CANFAR_SECRET%29/%7Bx%7D"),
        ("x\\..\\y", "lab/tree/x%5C..%5Cy"),
    ],
)
def test_what_a_link_opens_is_escaped_into_the_address(site, catalogue, asked, landing):
    assert decide({"profile": "open", "open": asked}, identity(USERS), site, catalogue).landing == landing


def test_the_picker_knows_what_can_open_a_file(site, catalogue):
    shown = offer(identity(USERS, SURVEY), site, catalogue, IDLE)
    assert {one.profile: one.opens for one in shown.profiles} == {"open": ("notebook",), "team": ("notebook",)}
    options = {"profile": "team", "kind": "contributed", "open": "x.fits"}
    with pytest.raises(Refused, match="cannot open a file") as refused:
        decide(options, identity(USERS, SURVEY), site, catalogue)
    assert refused.value.status == 400


def test_a_kind_that_a_site_defines_is_one_like_the_others(site, catalogue):
    own = OwnKind(
        name="viewer",
        title="Viewer",
        port=9000,
        path="keep",
        ready_path="up",
        command=("viewer", "$(CANFAR_PORT)"),
        secret={"header": "X-Word", "scheme": ""},
        cookies=False,
    )
    bigger = site.model_copy(update={"own_kinds": (own,), "kinds": (*site.kinds, "viewer")})
    entry = {
        "profile": "cubes",
        "title": "Cubes",
        "description": "Shows.",
        "kinds": ["viewer"],
        "images": ["a/b:1"],
    }
    known = kinds_of(bigger)
    both = replace(catalogue, profiles=(*catalogue.profiles, Profile.model_validate(entry, context=known)))
    shown = offer(identity(USERS), bigger, both, IDLE)
    assert ("viewer", "Viewer", "") in {(one.kind, one.title, one.refusal) for one in shown.kinds}
    spec = decide({"profile": "cubes"}, identity(USERS), bigger, both)
    assert (spec.kind, spec.port, spec.prefix, spec.ready_path) == (
        "viewer",
        9000,
        "/session/viewer/abcd1234",
        "up",
    )
    assert (spec.command, spec.cookies) == (("viewer", "$(CANFAR_PORT)"), False)
    assert spec.secret.headers("word") == {"X-Word": "word"}


DESKTOP = Desktop(id="desk1234", server="desk", start="s1", display=":7")
ON_DESKTOP = Usage(active=2, desktops={DESKTOP: 1})


def _desktops(site, catalogue):
    """The site and the catalogue with desktops and an application for all, and one for the survey."""
    limits = site.limits.model_copy(update={"desktop_apps": 2})
    site = site.model_copy(update={"kinds": ("desktop", "desktop-app"), "limits": limits})
    common = {"title": "T", "description": "D", "images": ["example.org/x:1"]}
    entries = [
        {"profile": "desk", "kinds": ["desktop"], **common},
        {"profile": "ds9", "kinds": ["desktop-app"], "command": ["ds9", "-view"], **common},
        {"profile": "secret", "kinds": ["desktop-app"], "groups": [SURVEY], **common},
    ]
    return site, replace(catalogue, profiles=tuple(Profile.model_validate(entry) for entry in entries))


def test_an_application_is_planned_for_the_desktop_it_names(site, catalogue):
    site, catalogue = _desktops(site, catalogue)
    spec = decide({"profile": "ds9", "desktop": "desk1234"}, identity(USERS), site, catalogue, ON_DESKTOP)
    assert (spec.kind, spec.desktop, spec.interactive) == ("desktop-app", DESKTOP, False)
    assert spec.command == ("/bin/sh", "$(CANFAR_SYSTEM)/desktop-app.sh", "ds9", "-view")
    assert spec.variables["DISPLAY"] == ":7"
    lock = "std-lockurl:file:///arc/home/astronomer/.cache/canfar/samp/desk1234/hub"
    assert spec.variables["SAMP_HUB"] == lock
    assert "CANFAR_APPS_URL" not in spec.variables


def test_a_desktop_knows_where_its_applications_are_asked_for(site, catalogue):
    site, catalogue = _desktops(site, catalogue)
    spec = decide({"profile": "desk"}, identity(USERS), site, catalogue)
    path = "/hub/api/desktops/abcd1234/apps"
    assert spec.variables["CANFAR_APPS_URL"] == f"https://hub.example.org{path}"
    assert "/samp/abcd1234/hub" in spec.variables["SAMP_HUB"]
    assert "DISPLAY" not in spec.variables
    inside = Cluster(volume=Volume(claim="data"), hub_url="http://hub.canfar.svc")
    spec = decide({"profile": "desk"}, identity(USERS), site.model_copy(update={"cluster": inside}), catalogue)
    assert spec.variables["CANFAR_APPS_URL"] == f"http://hub.canfar.svc{path}"


@pytest.mark.parametrize(
    ("options", "on", "status", "said"),
    [
        ({"profile": "ds9"}, 0, 400, "from the menu"),
        ({"profile": "ds9", "kind": "desktop-app"}, 0, 400, "from the menu"),
        ({"profile": "ds9", "desktop": "other123"}, 0, 409, "no running desktop"),
        ({"profile": "ds9", "desktop": ""}, 0, 409, "no running desktop"),
        ({"profile": "ds9", "desktop": "desk1234"}, 2, 403, "2 of 2 applications"),
        ({"profile": "secret", "desktop": "desk1234"}, 0, 403, "survey-x"),
        ({"profile": "desk", "desktop": "desk1234"}, 0, 400, "not on offer"),
        ({"profile": "ds9", "kind": "desktop", "desktop": "desk1234"}, 0, 400, "not on offer"),
    ],
)
def test_refusals_of_applications(site, catalogue, options, on, status, said):
    site, catalogue = _desktops(site, catalogue)
    with pytest.raises(Refused) as refused:
        decide(options, identity(USERS), site, catalogue, Usage(active=0, desktops={DESKTOP: on}))
    assert refused.value.status == status
    assert said in refused.value.sentence


def test_the_menu_and_the_picker_offer_different_things(site, catalogue):
    site, catalogue = _desktops(site, catalogue)
    assert [entry.profile for entry in offer(identity(USERS), site, catalogue, IDLE).profiles] == ["desk"]
    assert [entry.profile for entry in offer_apps(identity(USERS), site, catalogue)] == ["ds9"]
    assert [e.profile for e in offer_apps(identity(USERS, SURVEY), site, catalogue)] == ["ds9", "secret"]
    assert offer_apps(identity(SURVEY), site, catalogue) == ()
