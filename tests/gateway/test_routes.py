"""The route table by itself."""

from __future__ import annotations

import pytest

from canfar_gateway.routes import BadRoute, Routes, has_dot_segment, parse_route, split_key

TARGET = {"target": "http://127.0.0.1:9"}
SESSION = TARGET | {
    "user": "ada",
    "server_name": "x1",
    "kind": "notebook",
    "id": "x1",
    "prefix": "/session/notebook/x1",
}


def table(tmp_path, *paths, host_routing=False):
    routes = Routes(tmp_path / "routes.json", host_routing=host_routing)
    for path in paths:
        data = SESSION if path.endswith("/x1") else TARGET | {"user": "ada"} if "/user/" in path else TARGET
        routes.add(parse_route(split_key(path), data, host_routing=host_routing), 1.0)
    return routes


@pytest.mark.parametrize(
    ("path", "key", "tail"),
    [
        ("/user/ada/x1/lab", "/user/ada/x1", "/lab"),
        ("/user/ada/x1", "/user/ada/x1", ""),
        ("/user/ada/x1/", "/user/ada/x1", "/"),
        ("/user/ada/x1//a", "/user/ada/x1", "//a"),
        ("/user/ada/x12/lab", "/user/ada", "/x12/lab"),
        ("/user/ada%2Fx1/lab", "/", "/user/ada%2Fx1/lab"),
        ("/user/%61da/x1/%61", "/user/ada/x1", "/%61"),
        ("/User/ada/x1/", "/", "/User/ada/x1/"),
        ("//user/ada/x1/", "/", "//user/ada/x1/"),
        ("/user/a@b.org/y/z", "/user/a@b.org", "/y/z"),
        ("/user/a%40b.org/y/z", "/user/a@b.org", "/y/z"),
        ("/session/notebook/x1/lab", "/user/ada/x1", "/lab"),
        ("/session/notebook/x1", "/user/ada/x1", ""),
        ("/session/notebook/x1%2Flab", "/", "/session/notebook/x1%2Flab"),
        ("/session/carta/x1/lab", "/", "/session/carta/x1/lab"),
        ("/session/notebook/x11/", "/", "/session/notebook/x11/"),
        ("/session/notebook", "/", "/session/notebook"),
        ("/", "/", "/"),
    ],
)
def test_match(tmp_path, path, key, tail):
    routes = table(tmp_path, "/", "/user/ada", "/user/ada/x1", "/user/a%40b.org")
    found = routes.match("any.host", path)
    assert (found.route.path, found.tail) == (key, tail)


@pytest.mark.parametrize(
    ("host", "path", "key"),
    [
        ("ada.localhost", "/user/ada/x1/lab", "/ada.localhost/user/ada/x1"),
        ("ada.localhost", "/session/notebook/x1/", "/ada.localhost/user/ada/x1"),
        ("localhost", "/session/notebook/x1/", "/"),
        ("localhost", "/ada.localhost/user/ada/x1/", "/"),
        ("bob.localhost", "/user/ada/x1/lab", "/"),
        ("", "/user/ada/x1/lab", "/"),
    ],
)
def test_match_by_host(tmp_path, host, path, key):
    routes = table(tmp_path, "/", "/Ada.localhost/user/ada/x1", host_routing=True)
    assert routes.match(host, path).route.path == key
    assert routes.has_session_host("ada.localhost")
    assert not routes.has_session_host("localhost")


def test_no_match_without_default_route(tmp_path):
    assert table(tmp_path, "/user/ada").match("h", "/x") is None


def test_own_address_goes_to_who_was_first(tmp_path):
    routes = table(tmp_path, "/user/ada/x1")
    second = parse_route(split_key("/user/bob/x1"), SESSION | {"user": "bob"}, host_routing=False)
    assert not routes.add(second, 2.0)
    assert routes.match("h", "/session/notebook/x1/").route.user == "ada"
    assert not routes.holds_address(second)
    assert routes.remove(split_key("/user/ada/x1"))
    assert routes.match("h", "/session/notebook/x1/").route.user == "bob"
    assert not routes.remove(split_key("/user/ada/x1"))


def test_same_route_again_replaces(tmp_path):
    routes = table(tmp_path, "/user/ada/x1")
    again = parse_route(
        split_key("/user/ada/x1"), SESSION | {"target": "http://127.0.0.1:10"}, host_routing=False
    )
    assert routes.add(again, 2.0)
    assert routes.match("h", "/session/notebook/x1/").route.target == "http://127.0.0.1:10"


def test_file_keeps_everything(tmp_path):
    routes = table(
        tmp_path, "/", "/ada.localhost/user/ada/x1", "/b.localhost/user/a%40b.org", host_routing=True
    )
    routes.save()
    assert (tmp_path / "routes.json").stat().st_mode & 0o777 == 0o600
    again = Routes(tmp_path / "routes.json", host_routing=True)
    again.load(5.0)
    assert {r.path: (dict(r.data), again.last_activity(r)) for r in again} == {
        r.path: (dict(r.data), 1.0) for r in routes
    }
    assert [path.name for path in tmp_path.iterdir()] == ["routes.json"]


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"target": 1},
        {"target": "127.0.0.1:9"},
        {"target": "ftp://h"},
        {"target": "http://"},
        {"target": "http://h:port"},
        {"target": "http://user@h"},
        SESSION | {"kind": ""},
        SESSION | {"id": ".."},
        SESSION | {"id": "a/b"},
        SESSION | {"user": None},
        SESSION | {"prefix": "session"},
        SESSION | {"prefix": "/session/"},
        SESSION | {"prefix": "/a?b"},
        SESSION | {"prefix": "/a\r\nb"},
        SESSION | {"headers": []},
        SESSION | {"headers": {"X": 1}},
        SESSION | {"headers": {"X": "a\r\nb"}},
        SESSION | {"headers": {"X Y": "a"}},
        SESSION | {"headers": {"Host": "a"}},
        SESSION | {"headers": {"Transfer-Encoding": "chunked"}},
        SESSION | {"cookies": "no"},
        SESSION | {"compress": 1},
    ],
)
def test_bad_route(data):
    with pytest.raises(BadRoute) as caught:
        parse_route(("user", "ada", "x1"), data, host_routing=False)
    assert str(caught.value).endswith(".")


def test_secrets_are_not_in_the_representation():
    route = parse_route(("user", "ada", "x1"), SESSION | {"headers": {"X": "s3cret"}}, host_routing=False)
    assert "s3cret" not in repr(route)


def test_encoded_slash_in_a_key():
    with pytest.raises(BadRoute):
        split_key("/user/a%2Fb")


@pytest.mark.parametrize(
    "path", ["/..", "/.", "/a/../b", "/%2e%2E/", "/.%2e", "/a%2f..%2fb", "/..;x/", "/a%5c..%5cb", "/..\\b"]
)
def test_dot_segments(path):
    assert has_dot_segment(path)


@pytest.mark.parametrize(
    "path", ["", "/", "/a..b/", "/...", "/.hidden", "/a/..b", "/a.", "/%252e%252e/", "//a//", "/;.."]
)
def test_no_dot_segments(path):
    assert not has_dot_segment(path)


@pytest.mark.parametrize("landing", ["/x", "//evil.example.org", "a b", "x\n", "é", "<script>", 7])
def test_a_landing_is_the_end_of_an_address(landing):
    with pytest.raises(BadRoute):
        parse_route(("user", "ada", "x1"), SESSION | {"landing": landing}, host_routing=False)
    assert parse_route(("user", "ada", "x1"), SESSION | {"landing": "lab/tree/a%20b?x=1#y"}, host_routing=False)


def test_a_session_may_have_no_page():
    key = split_key("/user/ada/x1")
    assert parse_route(key, SESSION, host_routing=False).interactive
    assert not parse_route(key, SESSION | {"interactive": False}, host_routing=False).interactive
    with pytest.raises(BadRoute, match="true or false"):
        parse_route(key, SESSION | {"interactive": "no"}, host_routing=False)
