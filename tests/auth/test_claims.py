"""What providers write about groups, what hostile ones could write, and what becomes of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from canfar_auth.claims import ClaimsReader, Reading, find_claim, group_identifier, is_group_identifier
from canfar_auth.identity import Membership
from canfar_site.settings import LONGEST_GROUP, ClaimSource, GroupRule, Groups

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TOO_MANY = "The identity provider has too many groups of yours to list them."
NOT_SAID = "The identity provider did not say which groups you are in."
HUGE = pytest.param(10**5000, id="a number that Python refuses to write")
UNREADABLE = "The identity provider's list of your groups cannot be read."

Rules = tuple[GroupRule, ...]


def g(*names: str) -> set[str]:
    return {f"ivo://example.org/gms?{name}" for name in names}


def rule(match: str, group: str, claim: str = "") -> GroupRule:
    return GroupRule(match=match, group=f"ivo://example.org/gms?{group}", claim=claim)


def read(claims: Any, *sources: ClaimSource, rules: Rules = (), from_userinfo: bool = True) -> Reading:
    settings = Groups(
        authority="example.org", sources=sources or (ClaimSource(claim="groups"),), rules=tuple(rules)
    )
    return ClaimsReader(settings).read(claims, NOW, from_userinfo=from_userinfo)


@dataclass(frozen=True)
class Shape:
    """A documented shape of claims, and what a site with these settings makes of it."""

    name: str
    source: str
    claims: str
    sources: tuple[ClaimSource, ...]
    groups: frozenset[str]
    rules: Rules = ()
    dropped: int = 0
    reason: str = ""


def shape(name: str, source: str, claims: str, claim: str | ClaimSource, *groups: str, **more: Any) -> Shape:
    sources = (claim if isinstance(claim, ClaimSource) else ClaimSource(claim=claim),)
    return Shape(name, source, claims, sources, frozenset(g(*groups)), **more)


# Where two sources differ (an older document, another profile of the same provider), there is a row for each.
KEYCLOAK = "Keycloak, Server Administration Guide, OIDC token and SAML assertion mappings"
KEYCLOAK_GROUPS = (
    "Keycloak, class GroupMembershipMapper (useFullPath), "
    "https://www.keycloak.org/docs-api/26.2.0/javadocs/org/keycloak/protocol/oidc/mappers/GroupMembershipMapper.html"
)
INDIGO = "INDIGO IAM, Configuration reference, JWT profiles support"
WLCG = (
    "WLCG Common JWT Profiles, Scope-based Group Selection, profile.md of "
    "https://github.com/WLCG-AuthZ-WG/common-jwt-profile"
)
CILOGON = "CILogon, OpenID Connect (OIDC), https://www.cilogon.org/oidc"
CILOGON_LSST = "LSST, Web SSO (CILogon), https://confluence.lsstcorp.org/display/LAAIM/Web+SSO"
ENTRA = "Microsoft identity platform, ID token claims reference, Payload claims and Groups overage claim"
EGI = "EGI Check-in, Managing a Virtual Organisation, https://docs.egi.eu/users/aai/check-in/vos/"
G002 = "AARC-G002, https://aarc-community.org/guidelines/aarc-g002"
G069 = "AARC-G069, https://aarc-community.org/guidelines/aarc-g069"
GITLAB = (
    "GitLab as OpenID Connect identity provider, "
    "https://docs.gitlab.com/ee/integration/openid_connect_provider.html"
)
EGI_RULE = rule(r"urn:mace:egi\.eu:group:(?P<vo>[A-Za-z0-9._-]+):role=member#aai\.egi\.eu", "{vo}")
GUID = "0760b6cf-170e-4a14-91b3-4b78e0739963"

SHAPES = [
    shape(
        "keycloak, group names",
        KEYCLOAK_GROUPS,
        '{"groups": ["canfar-users", "survey-x"]}',
        "groups",
        "canfar-users",
        "survey-x",
    ),
    shape(
        "keycloak, group paths",
        KEYCLOAK_GROUPS,
        '{"groups": ["/canfar-users", "/projects/survey-x", "/projects/survey-x/admins"]}',
        "groups",
        "canfar-users",
        "survey-x",
        rules=(rule("/(?P<name>[^/]+)", "{name}"), rule("/projects/(?P<name>[^/]+)", "{name}")),
        dropped=1,
    ),
    shape(
        "keycloak, realm roles",
        KEYCLOAK,
        '{"realm_access": {"roles": ["offline_access", "canfar-users"]}}',
        "realm_access.roles",
        "offline_access",
        "canfar-users",
    ),
    shape(
        "keycloak, a client's roles",
        KEYCLOAK,
        '{"resource_access": {"canfar-hub": {"roles": ["survey-x"]}, "account": {"roles": ["view-profile"]}}}',
        "resource_access.canfar-hub.roles",
        "survey-x",
    ),
    shape(
        "keycloak, clients in which somebody has roles",
        KEYCLOAK,
        '{"resource_access": {"canfar-hub": {"roles": ["survey-x"]}, "account": {"roles": ["view-profile"]}}}',
        "resource_access",
        "canfar-hub",
        "account",
    ),
    shape(
        "keycloak, a mapper whose claim name escapes the dot",
        KEYCLOAK,
        '{"realm_access.roles": ["survey-x"], "realm_access": {"roles": ["canfar-users"]}}',
        "realm_access.roles",
        "survey-x",
    ),
    shape(
        "indigo iam, iam profile",
        INDIGO,
        '{"sub": "73f16d93-2441-4a50-88ff-85360d78c6b5", "groups": ["canfar-users", "projects/survey-x"]}',
        "groups",
        "canfar-users",
        "survey-x",
        rules=(rule("projects/(?P<name>[^/]+)", "{name}"),),
    ),
    shape(
        "indigo iam, wlcg profile",
        WLCG,
        '{"wlcg.ver": "1.0", "wlcg.groups": ["/wlcg", "/wlcg/xfers"]}',
        "wlcg.groups",
        "wlcg",
        "wlcg.xfers",
        rules=(
            rule("/(?P<vo>[^/.]+)", "{vo}"),
            rule("/(?P<vo>[^/.]+)/(?P<group>[^/.]+)", "{vo}.{group}", claim="wlcg.groups"),
        ),
    ),
    shape(
        "indigo iam, aarc profile",
        INDIGO,
        '{"entitlements": ["urn:geant:example.org:group:survey-x#iam.example.org"]}',
        "entitlements",
        "survey-x",
        rules=(rule(r"urn:geant:example\.org:group:(?P<name>[^:#]+)#iam\.example\.org", "{name}"),),
    ),
    shape(
        "indigo iam, kc profile",
        INDIGO,
        '{"roles": ["canfar-users", "survey-x"]}',
        "roles",
        "canfar-users",
        "survey-x",
    ),
    shape(
        "cilogon, objects with a name",
        CILOGON_LSST,
        '{"uidNumber": "25555", "isMemberOf": [{"name": "lsst_users", "id": 1363},'
        ' {"name": "lsst_int", "id": 16}]}',
        ClaimSource(claim="isMemberOf", key="name"),
        "lsst_users",
        "lsst_int",
    ),
    shape(
        "cilogon, names of a registry",
        "COmanage Registry, groups that are made by themselves",
        '{"isMemberOf": ["CO:members:all", "CO:COU:survey-x:members:active"]}',
        "isMemberOf",
        "survey-x",
        rules=(rule("CO:COU:(?P<unit>[^:]+):members:active", "{unit}"),),
        dropped=1,
    ),
    shape(
        "cilogon, of nothing that somebody lacks is there a claim",
        CILOGON,
        '{"sub": "http://cilogon.org/serverA/users/534", "email": "first.last@example.org"}',
        "isMemberOf",
    ),
    shape(
        "entra, group ids",
        ENTRA,
        f'{{"groups": ["{GUID}", "3b2b0c93-acd8-4208-8eba-7a48db1cd4c0"]}}',
        "groups",
        "canfar-users",
        "3b2b0c93-acd8-4208-8eba-7a48db1cd4c0",
        rules=(rule(GUID, "canfar-users"),),
    ),
    shape("entra, app roles", ENTRA, '{"roles": ["canfar-users"]}', "roles", "canfar-users"),
    shape(
        "entra, overage",
        ENTRA,
        '{"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint":'
        ' "https://graph.microsoft.com/v1.0/users/1/getMemberObjects"}}}',
        "groups",
        reason=TOO_MANY,
    ),
    shape("entra, overage of the implicit flow", ENTRA, '{"hasgroups": true}', "groups", reason=TOO_MANY),
    shape("entra, overage of groups says nothing of roles", ENTRA, '{"hasgroups": true}', "roles"),
    shape(
        "authentik, default profile scope",
        "authentik, OAuth2 provider, default scope mapping of `profile`",
        '{"preferred_username": "astronomer", "groups": ["authentik Admins", "survey-x"]}',
        "groups",
        "survey-x",
        dropped=1,
    ),
    shape(
        "egi check-in, eduperson_entitlement",
        EGI,
        '{"eduperson_entitlement": ["urn:mace:egi.eu:group:vo.example.org:role=member#aai.egi.eu",'
        ' "urn:mace:egi.eu:group:vo.example.org:role=supervisor#aai.egi.eu"]}',
        "eduperson_entitlement",
        "vo.example.org",
        rules=(EGI_RULE,),
        dropped=1,
    ),
    shape(
        "egi check-in, entitlements",
        G069,
        '{"entitlements": ["urn:mace:egi.eu:group:vo.example.org:role=member#aai.egi.eu"]}',
        "entitlements",
        "vo.example.org",
        rules=(EGI_RULE,),
    ),
    shape(
        "an entitlement with a subgroup and a role",
        G002,
        '{"eduperson_entitlement": ["urn:geant:example.org:group:survey-x:reduction:role=member#example.org"]}',
        "eduperson_entitlement",
        "survey-x.reduction",
        rules=(
            rule(
                r"urn:geant:example\.org:group:(?P<top>[^:.]+):(?P<sub>[^:.]+):role=member#example\.org",
                "{top}.{sub}",
            ),
        ),
    ),
    shape(
        "ls aai",
        "Life Science AAI, scope refeds_edu, "
        "https://confluence.terena.org/pages/diffpages.action?originalId=123770011&pageId=631439487",
        '{"eduperson_entitlement":'
        ' ["urn:geant:lifescienceid.org:group:lifescience-test:members#perun.lifescienceid.org",'
        ' "urn:geant:lifescienceid.org:assurance:rs-sirtfi"]}',
        "eduperson_entitlement",
        "lifescience-test",
        rules=(
            rule(
                r"urn:geant:lifescienceid\.org:group:(?P<name>[^:#]+):members#perun\.lifescienceid\.org",
                "{name}",
            ),
        ),
        dropped=1,
    ),
    shape(
        "orcid has no groups",
        "ORCID, orcid-web/ORCID_AUTH_WITH_OPENID_CONNECT.md of https://github.com/ORCID/ORCID-Source",
        '{"sub": "0000-0002-1825-0097", "given_name": "Josiah", "family_name": "Carberry"}',
        "groups",
    ),
    shape(
        "okta",
        "Okta, Customize tokens returned from Okta with a groups claim, "
        "https://developer.okta.com/docs/guides/customize-tokens-groups-claim/main/",
        '{"groups": ["Everyone", "survey-x"]}',
        "groups",
        "Everyone",
        "survey-x",
    ),
    shape(
        "auth0, namespaced claim",
        "Auth0, Create custom claims, https://auth0.com/docs/tokens/create-namespaced-custom-claims",
        '{"https://example.org/claims/groups": ["survey-x"]}',
        "https://example.org/claims/groups",
        "survey-x",
    ),
    shape(
        "cognito",
        "Amazon Cognito, Understanding user pool JSON web tokens, https://docs.aws.amazon.com/en_us/cognito/latest/"
        "developerguide/amazon-cognito-user-pools-using-tokens-with-identity-providers.html",
        '{"cognito:groups": ["survey-x"]}',
        "cognito:groups",
        "survey-x",
    ),
    shape(
        "gitlab, paths",
        GITLAB,
        '{"groups": ["observatory/survey-x", "observatory"], "groups_direct": ["observatory/survey-x"]}',
        "groups_direct",
        "survey-x",
        rules=(rule("observatory/(?P<name>[^/]+)", "{name}"),),
    ),
    shape(
        "gitlab, owners",
        GITLAB,
        '{"https://gitlab.org/claims/groups/owner": ["survey-x"]}',
        "https://gitlab.org/claims/groups/owner",
        "survey-x",
    ),
    shape(
        "zitadel, roles with the organisations that grant them",
        "ZITADEL, Retrieve User Roles, https://zitadel.com/docs/guides/integrate/retrieve-user-roles",
        '{"urn:zitadel:iam:org:project:roles": {"survey-x": {"2019828": "example.org"}, "admin": {}}}',
        "urn:zitadel:iam:org:project:roles",
        "survey-x",
    ),
    shape(
        "scim objects in an access token",
        "RFC 9068 section 2.2.3.1, RFC 7643 section 4.1.2",
        '{"groups": [{"value": "e9e30dba", "display": "survey-x"}]}',
        ClaimSource(claim="groups", key="display"),
        "survey-x",
    ),
    shape(
        "one group as a string",
        "AD FS, Customize claims to be emitted in id_token, "
        "https://docs.microsoft.com/en-us/windows-server/identity/ad-fs/development/custom-id-tokens-in-ad-fs",
        '{"role": "survey-x"}',
        "role",
        "survey-x",
    ),
]


@pytest.mark.parametrize("row", SHAPES, ids=lambda row: row.name)
def test_documented_shapes(row: Shape) -> None:
    reading = read(json.loads(row.claims), *row.sources, rules=row.rules)
    assert reading.groups.groups == row.groups
    assert reading.groups.reason == row.reason
    assert reading.groups.complete is not bool(row.reason)
    assert len(reading.dropped) == row.dropped
    assert (reading.groups.source, reading.groups.as_of) == ("claims", NOW)
    assert not reading.groups.doubted
    assert row.source


@pytest.mark.parametrize(
    ("value", "groups"),
    [
        ([], set()),
        ("", set()),
        ({}, set()),
        (["canfar-users", "canfar-users", *g("canfar-users")], g("canfar-users")),
        (" canfar-users, survey-x ,", g("canfar-users", "survey-x")),
        (["ivo://cadc.nrc.ca/gms?Project.A_1~b"], {"ivo://cadc.nrc.ca/gms?Project.A_1~b"}),
        ({"survey-x": True, "canfar-users": False, "others": None}, g("survey-x")),
    ],
)
def test_what_a_claim_lists_is_a_complete_answer_even_if_it_is_nothing(value: object, groups: set[str]) -> None:
    told = read({"groups": value}, ClaimSource(claim="groups", absent="unknown")).groups
    assert told.groups == groups
    assert (told.complete, told.reason) == (True, "")


def test_a_plain_name_is_no_group_without_an_authority() -> None:
    told = ClaimsReader(Groups()).read({"groups": ["survey-x", *g("survey-y")]}, NOW, from_userinfo=True)
    assert told.groups.groups == g("survey-y")
    assert len(told.dropped) == 1


def test_objects_and_names_may_be_mixed_where_a_key_is_set() -> None:
    source = ClaimSource(claim="groups", key="name")
    value = [{"name": "survey-x"}, "survey-y", {"id": 5}, {"name": ["survey-z"]}]
    reading = read({"groups": value}, source)
    assert reading.groups.groups == g("survey-x", "survey-y")
    assert len(reading.dropped) == 2
    assert read({"groups": {"name": "survey-x"}}, source).groups.groups == g("survey-x")


# Absence


@pytest.mark.parametrize("claims", [{}, {"groups": None}, {"other": ["survey-x"]}])
@pytest.mark.parametrize("from_userinfo", [True, False])
def test_what_absence_means_is_the_sites_choice(claims: dict[str, object], from_userinfo: bool) -> None:
    for absent, complete, ask in [
        ("none", True, False),
        ("unknown", False, False),
        ("ask_userinfo", False, not from_userinfo),
    ]:
        source = ClaimSource.model_validate({"claim": "groups", "absent": absent})
        reading = read(claims, source, from_userinfo=from_userinfo)
        assert not reading.groups.groups
        assert reading.groups.complete is complete
        assert reading.groups.reason == ("" if complete else NOT_SAID)
        assert reading.ask_userinfo is ask
        assert not reading.dropped


def test_one_source_that_is_unknown_makes_the_answer_incomplete_and_the_other_ones_groups_count() -> None:
    sources = ClaimSource(claim="groups"), ClaimSource(claim="entitlements", absent="unknown")
    told = read({"groups": ["survey-x"]}, *sources).groups
    assert told.groups == g("survey-x")
    assert (told.complete, told.reason) == (False, NOT_SAID)
    assert told.membership(g("survey-x")) is Membership.YES
    assert told.membership(g("survey-y")) is Membership.UNKNOWN
    assert read({"entitlements": ["survey-x"]}, *sources).groups.complete


def test_the_user_information_is_asked_for_claims_that_a_token_keeps_elsewhere_if_the_site_says_so() -> None:
    source = ClaimSource(claim="groups", absent="ask_userinfo")
    assert read({"hasgroups": True}, source, from_userinfo=False).ask_userinfo
    assert not read({"hasgroups": True}, source, from_userinfo=True).ask_userinfo
    assert not read({"groups": []}, source, from_userinfo=False).ask_userinfo


@pytest.mark.parametrize("claim", ["realm_access.roles", "groups", "https://example.org/claims/groups"])
def test_claims_that_are_kept_elsewhere_are_unknown_and_what_is_here_counts(claim: str) -> None:
    elsewhere = {
        "_claim_names": {claim: "src1"},
        "_claim_sources": {"src1": {"endpoint": "http://169.254.169.254/"}},
    }
    assert read(elsewhere, ClaimSource(claim=claim)).groups.reason == TOO_MANY
    told = read({**elsewhere, claim: ["survey-x"]}, ClaimSource(claim=claim)).groups
    assert told.groups == g("survey-x")
    assert (told.complete, told.reason) == (False, TOO_MANY)
    assert read(elsewhere, ClaimSource(claim="others")).groups.complete


def test_the_parent_of_a_dotted_claim_may_be_kept_elsewhere() -> None:
    told = read({"_claim_names": {"realm_access": "src1"}}, ClaimSource(claim="realm_access.roles")).groups
    assert told.reason == TOO_MANY


@pytest.mark.parametrize("names", [None, [], ["groups"], "groups", 5, {}, {"others": "src1"}])
def test_malformed_claim_names_say_nothing(names: object) -> None:
    assert read({"_claim_names": names}).groups.complete


# Finding a claim


@pytest.mark.parametrize(
    ("claims", "name", "value"),
    [
        ({"a": {"b": {"c": 1}}}, "a.b.c", 1),
        ({"a": {"b.c": 1}}, "a.b.c", 1),
        ({"a.b": {"c": 1}}, "a.b.c", 1),
        ({"a.b.c": 1, "a": {"b": {"c": 2}}}, "a.b.c", 1),
        ({"a.b": None, "a": {"b": 2}}, "a.b", 2),
        ({"a": {"c": 1}, "a.b": {"c": 2}}, "a.b.c", 2),
        ({"a": "b"}, "a.b", None),
        ({"a": ["b"]}, "a.b", None),
        ({"a": {"b": None}}, "a.b", None),
        ({"": {"a": 1}}, ".a", 1),
        ({}, "a..b", None),
    ],
)
def test_dotted_names(claims: dict[str, object], name: str, value: object) -> None:
    assert find_claim(claims, name) == value


# Rules


def test_the_first_rule_that_matches_holds_even_if_it_gives_no_group() -> None:
    rules = rule("a/(?P<name>.*)", "{name}"), rule("a/b c", "survey-x"), rule("a/.*", "survey-y")
    reading = read({"groups": ["a/b c", "a/survey-z"]}, rules=rules)
    assert reading.groups.groups == g("survey-z")
    assert reading.dropped == ("'a/b c' (no group)",)


def test_a_rule_matches_the_whole_name_and_its_own_claim_only() -> None:
    sources = ClaimSource(claim="groups"), ClaimSource(claim="roles")
    rules = rule("admin", "canfar-admins", claim="roles"), rule("surve", "canfar-admins")
    told = read({"groups": ["admin", "survey"], "roles": ["admin", "admin\n"]}, *sources, rules=rules).groups
    assert told.groups == g("admin", "survey", "canfar-admins")


@pytest.mark.parametrize(
    "name", ["", "survey-x/../y", "x?y", "x#y", "{name}", "{0.__class__}", "%s", "x y", "é", "x\n"]
)
def test_a_capture_cannot_leave_the_name_it_stands_for(name: str) -> None:
    reading = read({"groups": [f"project {name}"]}, rules=(rule("(?s)project (?P<name>.*)", "{name}"),))
    assert not reading.groups.groups
    assert len(reading.dropped) == 1


def test_a_capture_that_took_no_part_gives_no_group() -> None:
    rules = (rule("/(?P<top>[^/]+)(/(?P<sub>[^/]+))?", "{top}.{sub}"),)
    assert read({"groups": ["/survey-x", "/survey-x/a"]}, rules=rules).groups.groups == g("survey-x.a")


def test_braces_in_a_capture_stay_what_they_are() -> None:
    rules = (rule("(?P<a>.+)/(?P<b>.+)", "{a}.{b}"),)
    assert not read({"groups": ["{b}/x"]}, rules=rules).groups.groups


def test_letters_that_only_look_alike_do_not_match() -> None:
    rules = rule("(?i)keys", "canfar-admins"), rule(r"team-\d+", "survey-x"), rule(r"crew-\w+", "survey-y")
    names = [
        "\N{KELVIN SIGN}eys",
        "key\N{LATIN SMALL LETTER LONG S}",
        "team-\N{ARABIC-INDIC DIGIT ONE}",
        "crew-é",
    ]
    assert not read({"groups": names}, rules=rules).groups.groups


@pytest.mark.parametrize(
    ("match", "group", "says"),
    [
        ("(", "ivo://example.org/gms?x", "no regular expression"),
        ("a{9999999999999}", "ivo://example.org/gms?x", "no regular expression"),
        ("(?P<name>.+)", "ivo://example.org/gms?{nam}", "no capture"),
        ("(.+)", "ivo://example.org/gms?{0}", "no capture"),
        ("(.+)", "ivo://example.org/gms?{1}", "no capture"),
        ("(?P<name>.+)", "ivo://{name}/gms?x", "no group"),
        ("(?P<name>.+)", "ivo://example.org/{name}?x", "no group"),
        ("(?P<name>.+)", "{name}", "no group"),
        ("(?P<name>.+)", "ivo://example.org/gms?{name}?y", "no group"),
        ("(?P<name>.+)", "ivo://example.org/gms?{name.__class__}", "no group"),
        ("(?P<name>.+)", "ivo://example.org/gms?{}", "no group"),
        ("(?P<name>.+)", "ivo://example.org/gms?{{name}}", "no group"),
        ("(?P<name>.+)", "ivo://example.org/gms?a b {name}", "no group"),
        ("(?P<name>.+)", f"ivo://example.org/gms?{'x' * 300}{{name}}", "no group"),
        (".+", "ivo://example.org/gms", "no group"),
        (".+", "", "no group"),
    ],
)
def test_a_rule_that_can_never_give_a_group_is_the_sites_mistake(match: str, group: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        ClaimsReader(Groups(rules=(GroupRule(match=match, group=group),)))
    assert repr(match) in str(caught.value)


def test_a_rule_for_a_claim_that_is_not_read_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="'roles' is not among"):
        read({}, rules=(rule("x", "y", claim="roles"),))


def test_the_examples_of_the_documentation_are_good_settings() -> None:
    page = Path(__file__).parents[2] / "docs/explanation/groups.md"
    examples = re.findall("```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(examples) == 5
    for example in examples:
        settings = Groups.model_validate(yaml.safe_load(example)["groups"])
        assert ClaimsReader(settings).read({}, NOW, from_userinfo=True).groups.source == "claims"


# Hostile claims


@pytest.mark.parametrize(
    "entry",
    [
        5,
        HUGE,
        1.5,
        float("nan"),
        True,
        None,
        {"name": "canfar-users"},
        ["canfar-users"],
        "{x}",
        "{0.__class__}",
        "a b",
        "line\n",
        "\nline",
        "tab\t",
        "nul\x00",
        "<b>",
        "a/b",
        "/survey-x",
        "a?b",
        "a#b",
        "%41",
        "naïve",
        "\N{RIGHT-TO-LEFT OVERRIDE}x",
        "\ud800",
        "",
        "..\\",
        "ivo://example.org/gms?",
        "ivo://example.org/gms",
        "ivo://example.org?x",
        "ivo:///gms?x",
        "ivo://e/gms?x",
        "ivo://example.org/gms?a b",
        "ivo://example.org/gms?a?b",
        "ivo://example.org/gms?a#b",
        "ivo://example.org/gms?{a}",
        "ivo://example.org/gms?a\n",
        "ivo://exa mple.org/gms?a",
        "ivo://user@example.org/gms?a",
        "IVO://example.org/gms?a",
        "https://example.org/gms?a",
        " ivo://example.org/gms?a",
    ],
)
def test_what_is_no_group_is_dropped_and_shown_as_printable_text(entry: object) -> None:
    reading = read({"groups": ["canfar-users", entry]})
    assert reading.groups.groups == g("canfar-users")
    assert reading.groups.complete
    (shown,) = reading.dropped
    assert shown.isascii()
    assert shown.isprintable()
    assert shown.endswith(" (no group)")
    assert len(shown) <= 100


@pytest.mark.parametrize("value", [5, HUGE, 1.5, True, False, object()])
def test_a_claim_that_cannot_be_a_list_says_nothing_about_anybody(value: object) -> None:
    reading = read({"groups": value})
    assert not reading.groups.groups
    assert (reading.groups.complete, reading.groups.reason) == (False, UNREADABLE)
    assert len(reading.dropped) == 1


def test_deep_nesting_is_dropped() -> None:
    deep: Any = "survey-x"
    for _ in range(100_000):
        deep = [deep]
    assert read({"groups": [deep]}).dropped == ("a value of type list (no group)",)
    assert not read({"groups": deep}).groups.groups


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, f"ivo://example.org/gms?{'x' * 300}", "/" * 5000])
def test_a_name_that_is_too_long_is_refused_by_name(name: str) -> None:
    reading = read({"groups": [name, "survey-x"]}, rules=(rule("(?P<name>x+)", "{name}"),))
    assert reading.groups.groups == g("survey-x")
    (shown,) = reading.dropped
    assert shown.endswith(" (too long)")
    assert name[:40] in shown
    assert len(shown) <= 100


def test_a_name_that_is_too_long_is_read_by_no_rule() -> None:
    rules = (rule("x+", "survey-x"),)
    assert read({"groups": ["x" * 1024]}, rules=rules).groups.groups == g("survey-x")
    assert not read({"groups": ["x" * 1025]}, rules=rules).groups.groups


def test_the_longest_name_is_a_group() -> None:
    name = "x" * (LONGEST_GROUP - len("ivo://example.org/gms?"))
    assert read({"groups": [name]}).groups.groups == g(name)
    assert read({"groups": [name + "x"]}).dropped[0].endswith(" (too long)")


def test_names_that_differ_only_in_case_are_both_refused() -> None:
    reading = read(
        {"groups": ["Survey-X", "survey-x", "survey-y", "ivo://EXAMPLE.org/gms?survey-z", "survey-z"]}
    )
    assert reading.groups.groups == g("survey-y")
    assert len(reading.dropped) == 4
    assert all(shown.endswith(" (differs from another only in case)") for shown in reading.dropped)
    assert any("Survey-X" in shown for shown in reading.dropped)
    assert reading.groups.membership(g("survey-x")) is Membership.UNKNOWN
    assert "differ only in case" in reading.groups.reason
    assert any("survey-x" in shown for shown in reading.dropped)


def test_names_of_two_sources_that_differ_only_in_case_are_both_refused() -> None:
    sources = ClaimSource(claim="groups"), ClaimSource(claim="roles")
    assert not read({"groups": ["Survey-X"], "roles": ["survey-x"]}, *sources).groups.groups


def test_ten_thousand_groups() -> None:
    names = [f"/projects/survey-{number}" for number in range(10_000)]
    reading = read({"groups": [*names, *names, *range(10_000)]}, rules=(rule("/projects/(?P<n>[^/]+)", "{n}"),))
    assert len(reading.groups.groups) == 10_000
    assert len(reading.dropped) == 10_000
    assert (
        len(read({"groups": " ".join(f"survey-{number}" for number in range(10_000))}).groups.groups) == 10_000
    )


def test_so_many_groups_that_anything_but_linear_time_would_never_end() -> None:
    names = [f"/projects/survey-{number}" for number in range(200_000)]
    reading = read({"groups": names}, rules=(rule("/projects/(?P<name>[^/]+)", "{name}"),))
    assert len(reading.groups.groups) == len(names)


# Identifiers


@pytest.mark.parametrize("authority", ["", "x", "exa mple", "a\n.org", "a/b?c"])
def test_a_plain_name_needs_a_good_authority(authority: str) -> None:
    assert group_identifier("survey-x", authority) is None
    assert group_identifier("ivo://example.org/gms?survey-x", authority) == "ivo://example.org/gms?survey-x"


@pytest.mark.parametrize(
    "text", ["survey-x", "", "ivo://example.org/gms?x\n", f"ivo://example.org/gms?{'x' * 300}"]
)
def test_what_is_no_identifier(text: str) -> None:
    assert not is_group_identifier(text)
