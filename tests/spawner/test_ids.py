"""A session's numeric ids: only of groups that count now, and the same after a restart of the hub."""

import json
from dataclasses import replace

from canfar_auth.identity import PosixGroup, PosixIds
from canfar_spawner.local import LocalCanfarSpawner
from canfar_spawner.policy import Usage, plan
from canfar_spawner.request import parse_options
from canfar_spawner.spec import SessionSpec
from tests.support.identities import SURVEY, USERS, identity

GROUPS = (PosixGroup(USERS, "canfar-users", 900000), PosixGroup(SURVEY, "survey-x", 900001))
IDS = PosixIds(10000, 10000, GROUPS)


def planned(who, site, catalogue) -> SessionSpec:
    return plan(parse_options({"profile": "open"}), who, site, catalogue, Usage(0), "abcdefgh")


def test_a_group_that_somebody_left_opens_nothing(site, catalogue):
    member = replace(identity(USERS, SURVEY), posix=IDS)
    assert planned(member, site, catalogue).ids == IDS
    left = replace(identity(USERS), posix=IDS)  # ids are kept while their source does not answer
    assert planned(left, site, catalogue).ids == replace(IDS, groups=GROUPS[:1])
    assert planned(identity(USERS), site, catalogue).ids is None


def test_ids_last_over_a_restart_of_the_hub(site, catalogue):
    for posix in (IDS, None):
        before, after = LocalCanfarSpawner(), LocalCanfarSpawner()
        before.spec = planned(replace(identity(USERS, SURVEY), posix=posix), site, catalogue)
        after.load_state(json.loads(json.dumps(before.get_state())))
        assert after.spec == before.spec


def test_a_session_of_an_older_hub_has_no_ids(site, catalogue):
    before, after = LocalCanfarSpawner(), LocalCanfarSpawner()
    before.spec = planned(identity(USERS), site, catalogue)
    state = json.loads(json.dumps(before.get_state()))
    del state["spec"]["ids"]
    after.load_state(state)
    assert after.spec == before.spec
