"""Numeric ids: which are refused, what files are made of them, and what their sources may say."""

from __future__ import annotations

import grp
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import replace

import pytest

from canfar_auth.identity import PosixGroup, PosixIds
from canfar_auth.outbound import Outbound, Unavailable
from canfar_auth.posix import (
    BASE_GROUP,
    BASE_PASSWD,
    PosixRefused,
    checked,
    dropped_by_nfs,
    group_file,
    is_usable,
    passwd_file,
    short_names,
)
from canfar_auth.posix_sources import PosixSource, make_source
from canfar_site.settings import Posix
from tests.support.faults import Garbage, Redirect, Status, Truncated
from tests.support.identities import SURVEY, USERS, identity
from tests.support.posix_mapper import PosixMapper

SYSTEMS = [0, 1, 100, 999, 65534, 65535, 2**31, 2**32 - 1, 2**32, -1]
OTHERS_SURVEY = "ivo://example.net/gms?survey-x"
GROUPS = (PosixGroup(USERS, "canfar-users", 900000), PosixGroup(SURVEY, "survey-x", 900001))
IDS = PosixIds(10001, 10001, GROUPS)


def ivo(name: str) -> str:
    return f"ivo://example.org/gms?{name}"


# What may be used


@pytest.mark.parametrize("number", SYSTEMS)
def test_the_systems_numbers_are_nobodys(number: int, caplog: pytest.LogCaptureFixture) -> None:
    assert not is_usable(number)
    for uid, gid in ((number, 10001), (10001, number)):
        with pytest.raises(PosixRefused, match=f"is {number}"):
            checked("astronomer", uid, gid, {})
        with pytest.raises(PosixRefused):
            passwd_file(BASE_PASSWD, "astronomer", uid, gid, "A", "/arc/home/astronomer")
    ids = checked("astronomer", 10001, 10001, {USERS: 900000, SURVEY: number})
    assert [group.group for group in ids.groups] == [USERS]
    assert SURVEY in caplog.text


@pytest.mark.parametrize("number", [1000, 65533, 65536, 2**31 - 1])
def test_all_others_may_be_used(number: int) -> None:
    assert checked("astronomer", number, number, {}).uid == number


# Names of groups


def test_a_group_is_called_by_its_name_where_that_will_do() -> None:
    groups = [USERS, SURVEY, ivo("Survey.Y_2"), ivo("x" * 32)]
    assert list(short_names(groups, ()).values()) == ["canfar-users", "survey-x", "Survey.Y_2", "x" * 32]


BOTH = [SURVEY, OTHERS_SURVEY]
AWKWARD = {
    "too long": [ivo("a" * 33), ivo("a" * 32 + "b"), ivo("a" * 200)],
    "of digits": [ivo("1000"), ivo("0")],
    "with an odd beginning": [ivo("-x"), ivo("~x"), ivo(",")],
    "with odd characters": [ivo("a,b"), ivo("a~b"), ivo("a_b")],
    "of two authorities": BOTH,
    "of the system": [ivo("root"), ivo("sudo"), ivo("docker"), ivo("nogroup")],
    "of the user": [ivo("astronomer")],
    "of one that is marked": [*BOTH, *map(ivo, short_names(BOTH, ()).values())],
}


@pytest.mark.parametrize("case", AWKWARD)
def test_names_are_safe_and_different_and_depend_on_no_order(case: str) -> None:
    groups = AWKWARD[case]
    gids = {group: 900000 + count for count, group in enumerate(groups)}
    named = checked("astronomer", 10001, 10001, gids).groups
    names = [group.name for group in named]
    assert len({*names, "astronomer"}) == len(groups) + 1
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", name) for name in names)
    assert not set(names) & {"root", "sudo", "docker", "nogroup"}
    again = checked("astronomer", 10001, 10001, dict(reversed(gids.items()))).groups
    assert again == named


def test_both_of_two_authorities_groups_say_that_they_are_not_alone() -> None:
    names = short_names(BOTH, ())
    assert all(name.startswith("survey-x-") for name in names.values())


# The files


def test_the_files_hold_the_user_and_their_groups() -> None:
    passwd = passwd_file(
        BASE_PASSWD, "first.last@example.org", 10001, 10001, "Zoë Last", "/arc/home/first.last"
    )
    assert passwd.startswith("root:x:0:0:")
    assert passwd.endswith("\nfirst.last@example.org:x:10001:10001:Zoë Last:/arc/home/first.last:/bin/bash\n")
    lines = group_file(BASE_GROUP, "first.last@example.org", IDS).splitlines()
    assert lines[0] == "root:x:0:"
    assert lines[-3:] == [
        "first.last@example.org:x:10001:",
        "canfar-users:x:900000:first.last@example.org",
        "survey-x:x:900001:first.last@example.org",
    ]


@pytest.mark.parametrize("bad", ["a:b", "a\nroot2:x:0:0::/:/bin/sh", "a\0", "a\x1b[0m", "a\u2028b", "a\r"])
@pytest.mark.parametrize("field", ["username", "full_name", "home", "shell"])
def test_a_field_cannot_become_another_line_or_field(field: str, bad: str) -> None:
    fields = {"username": "astronomer", "full_name": "A", "home": "/arc/home/a", "shell": "/bin/bash"}
    with pytest.raises(PosixRefused):
        passwd_file(BASE_PASSWD, uid=10001, gid=10001, **{**fields, field: bad})
    if field == "username":
        with pytest.raises(PosixRefused):
            group_file(BASE_GROUP, bad, IDS)


@pytest.mark.parametrize("name", ["", "0", "10001", "+", "+@all", "-x", "a,b"])
def test_names_that_mean_something_else_in_the_files(name: str) -> None:
    with pytest.raises(PosixRefused):
        passwd_file(BASE_PASSWD, name, 10001, 10001, "A", "/arc/home/a")
    with pytest.raises(PosixRefused):
        group_file(BASE_GROUP, name, IDS)


@pytest.mark.parametrize("name", ["root", "daemon", "nobody"])
def test_nobody_becomes_the_system_by_their_name(name: str) -> None:
    with pytest.raises(PosixRefused, match="account of the system"):
        passwd_file(BASE_PASSWD, name, 10001, 10001, "A", "/arc/home/a")


def test_an_images_own_account_with_the_users_number_gives_way() -> None:
    base = BASE_PASSWD + "ubuntu:x:10001:10001::/home/ubuntu:/bin/sh\n"
    assert "ubuntu" not in passwd_file(base, "astronomer", 10001, 10001, "A", "/arc/home/astronomer")
    groups = group_file(BASE_GROUP + "ubuntu:x:10001:\nold:x:900001:\n", "astronomer", IDS)
    assert "ubuntu" not in groups
    assert "old" not in groups


@pytest.mark.parametrize("name", ["sudo", "admin", "docker"])
def test_no_group_has_the_name_of_one_that_opens_doors(name: str) -> None:
    ids = replace(IDS, groups=(PosixGroup(ivo(name), name, 900000),))
    lines = [line.split(":") for line in group_file(BASE_GROUP, name, ids).splitlines()]
    assert {line[2] for line in lines if line[0] == name} <= {"27"}
    assert {"10001", "900000"} <= {line[2] for line in lines}
    assert len({line[0] for line in lines}) == len(lines)


def test_the_primary_group_is_named_once() -> None:
    ids = PosixIds(10001, 900001, IDS.groups)
    lines = group_file(BASE_GROUP, "astronomer", ids).splitlines()
    assert [line for line in lines if ":900001:" in line] == ["survey-x:x:900001:astronomer"]


def test_debians_numbers_are_debians() -> None:
    for line in BASE_GROUP.splitlines():
        name, _, gid, _ = line.split(":")
        try:
            found = grp.getgrnam(name)
        except KeyError:
            continue
        assert found.gr_gid == int(gid), name


# NFS


def test_an_nfs_server_sees_the_sixteen_lowest_numbers() -> None:
    groups = tuple(PosixGroup(ivo(f"g{n}"), f"g{n}", 900020 - n) for n in range(18))
    assert dropped_by_nfs(replace(IDS, groups=groups[:16])) == ()
    assert [g.name for g in dropped_by_nfs(replace(IDS, groups=groups))] == ["g1", "g0"]


# Claims


async def by_claims(
    claims: dict[str, object],
    groups: tuple[str, ...] = (USERS, SURVEY),
    last: PosixIds | None = None,
) -> PosixIds:
    settings = Posix(source="claims", uid_claim="posix.uid", gid_claim="posix.gid", gids_claim="gids")
    source = make_source(settings, Outbound([]), "")
    return await source.ids(identity(), groups, "", claims, last)


OWN = {"posix": {"uid": 10001, "gid": "10001"}}


async def test_claims_give_numbers_by_identifier_or_name() -> None:
    for gids in ({USERS: 900000, SURVEY: "900001"}, {"canfar-users": 900000, "survey-x": 900001}):
        assert set((await by_claims({**OWN, "gids": gids})).groups) == set(IDS.groups)


async def test_a_name_that_two_groups_have_gives_neither_a_number() -> None:
    claims = {**OWN, "gids": {"survey-x": 900001, USERS: 900000}}
    ids = await by_claims(claims, (USERS, SURVEY, OTHERS_SURVEY))
    assert [group.group for group in ids.groups] == [USERS]


@pytest.mark.parametrize(
    "value", [True, False, 10001.0, "1e4", "+10001", " 10001", "10_001", "१०००१", None, [10001]]
)
async def test_what_is_no_number_is_none(value: object) -> None:
    for own in ({"uid": value, "gid": 10001}, {"uid": 10001, "gid": value}):
        with pytest.raises(PosixRefused):
            await by_claims({"posix": own})
    assert (await by_claims({**OWN, "gids": {USERS: value}})).groups == ()


@pytest.mark.parametrize("value", SYSTEMS)
async def test_a_provider_cannot_make_somebody_the_system(value: int) -> None:
    with pytest.raises(PosixRefused):
        await by_claims({"posix": {"uid": value, "gid": 10001}}, last=IDS)
    assert (await by_claims({**OWN, "gids": {USERS: value}})).groups == ()


async def test_numbers_without_their_groups_are_nobodys() -> None:
    assert (await by_claims({**OWN, "gids": [900000, 900001]})).groups == ()


async def test_numbers_of_groups_that_somebody_is_not_in_are_not_theirs() -> None:
    claims = {**OWN, "gids": {USERS: 900000, SURVEY: 900001}}
    assert [group.group for group in (await by_claims(claims, (USERS,))).groups] == [USERS]


async def test_without_claims_the_last_numbers_hold_for_the_groups_of_now() -> None:
    ids = await by_claims({}, (SURVEY,), IDS)
    assert (ids.uid, [group.group for group in ids.groups]) == (10001, [SURVEY])
    with pytest.raises(PosixRefused):
        await by_claims({})


# A posix-mapper

SOME = (USERS, SURVEY)


@pytest.fixture
def mapper() -> Iterator[PosixMapper]:
    with PosixMapper() as service:
        yield service


Source = Callable[[], PosixSource]


@pytest.fixture
async def from_mapper(mapper: PosixMapper) -> AsyncIterator[Source]:
    """Makes sources that know nothing yet."""
    outbound = Outbound([mapper.host], seconds=2, attempts=1, threshold=1000)
    yield lambda: make_source(Posix(source="mapper", mapper=mapper.base), outbound, "")
    await outbound.close()


async def ask(
    source: PosixSource, groups: Collection[str] = SOME, token: str = "a-token", last: PosixIds | None = None
) -> PosixIds:
    return await source.ids(identity(), groups, token, {}, last)


async def test_a_mapper_is_asked_with_the_users_token_once(mapper: PosixMapper, from_mapper: Source) -> None:
    source = from_mapper()
    ids = await ask(source)
    assert (ids.uid, ids.gid) == (10000, 10000)
    assert {group.group: group.gid for group in ids.groups} == mapper.groups
    assert [(request.path, request.query) for request in mapper.requests] == [
        ("/posix-mapper/uid", [("user", "astronomer")]),
        ("/posix-mapper/gid", [("group", USERS), ("group", SURVEY)]),
    ]
    assert mapper.tokens == ["a-token"] * 2
    assert await ask(source) == ids
    assert len(mapper.requests) == 2


async def test_many_groups_are_asked_in_parts(mapper: PosixMapper, from_mapper: Source) -> None:
    groups = [ivo(f"g{n}") for n in range(45)]
    ids = await ask(from_mapper(), groups)
    assert {group.group for group in ids.groups} == set(groups)
    assert [len(request.all("group")) for request in mapper.requests[1:]] == [20, 20, 5]


async def test_what_is_known_holds_while_the_mapper_is_down(
    mapper: PosixMapper, from_mapper: Source, caplog: pytest.LogCaptureFixture
) -> None:
    known = await ask(from_mapper())
    after_a_restart = from_mapper()
    for fault in (Status(503), Status(401), Garbage(), Truncated(), Redirect(mapper.url)):
        mapper.fault = fault
        assert await ask(after_a_restart, [*SOME, ivo("new")], last=known) == known
        assert ivo("new") in caplog.text
        with pytest.raises(Unavailable):
            await ask(after_a_restart)
    mapper.fault = None
    assert len((await ask(after_a_restart, [*SOME, ivo("new")], last=known)).groups) == 3
    assert "a-token" not in caplog.text


async def test_what_came_before_the_mapper_broke_off_is_used(mapper: PosixMapper, from_mapper: Source) -> None:
    source = from_mapper()
    await ask(source, [USERS])
    mapper.fault = Status(503)
    assert [group.group for group in (await ask(source)).groups] == [USERS]


async def test_answers_about_others_are_nobodys(mapper: PosixMapper, from_mapper: Source) -> None:
    mapper.added = "root\t0\t0\nvisitor\t10077\t10077\n"
    source = from_mapper()
    assert await ask(source) == PosixIds(10000, 10000)  # three columns are no answer about groups
    mapper.added = f"{SURVEY}\t90077\n"
    assert [group.group for group in (await ask(source, [USERS])).groups] == [USERS]
    mapper.added = ""
    ids = await ask(source)
    assert ids.uid == 10000
    assert 90077 not in [group.gid for group in ids.groups]


@pytest.mark.parametrize(
    "line", ["astronomer\t10001\t10001\n", "astronomer\t10000\n", "astronomer:x:10000:10000:::\n", "<html>\n"]
)
async def test_an_answer_that_makes_no_sense_is_none(
    mapper: PosixMapper, from_mapper: Source, line: str
) -> None:
    mapper.added = line
    with pytest.raises(Unavailable):
        await ask(from_mapper())


@pytest.mark.parametrize("number", SYSTEMS)
async def test_a_mapper_cannot_make_somebody_the_system(
    mapper: PosixMapper, from_mapper: Source, number: int
) -> None:
    source = from_mapper()
    mapper.users["astronomer"] = number
    with pytest.raises((PosixRefused, Unavailable)):
        await ask(source)
    mapper.users["astronomer"], mapper.groups[SURVEY] = 10000, number
    if number >= 0:
        assert [group.group for group in (await ask(source)).groups] == [USERS]
    mapper.groups[SURVEY] = 90000
    assert len((await ask(source)).groups) == 2


async def test_a_token_that_is_not_taken_is_no_answer(mapper: PosixMapper, from_mapper: Source) -> None:
    with pytest.raises(Unavailable, match="401") as raised:
        await ask(from_mapper(), token="another-token")
    assert "another-token" not in repr(raised.value)
