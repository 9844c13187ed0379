import pytest

from canfar_spawner.request import SessionRequest, options_from_form, parse_options
from canfar_spawner.spec import Refused


def test_a_full_request():
    options = {
        "profile": "p",
        "kind": "notebook",
        "image": "r/i:1",
        "name": "My work",
        "cores": 2,
        "memory": 4.5,
        "gpus": 0,
    }
    assert parse_options(options) == SessionRequest(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (None, "JSON object"),
        ([], "JSON object"),
        ("profile", "JSON object"),
        ({}, "names no profile"),
        ({"profile": ""}, "names no profile"),
        ({"profile": None}, "names no profile"),
        ({"image": "r/i:1"}, "names no profile"),
        ({"profile": "p", "command": "sh"}, "“command”"),
        ({"profile": "p", "image--unlisted-choice": "evil"}, "no option"),
        ({"profile": "p", 5: "x"}, "no option"),
        ({"profile": ["p"]}, "must be text"),
        ({"profile": "p", "image": {"a": 1}}, "must be text"),
        ({"profile": "p", "cores": "2"}, "must be a number"),
        ({"profile": "p", "cores": True}, "must be a number"),
        ({"profile": "p", "memory": float("nan")}, "must be a number"),
        ({"profile": "p", "gpus": float("inf")}, "must be a number"),
        ({"profile": "p", "gpus": [1]}, "must be a number"),
        ({"profile": "p", "name": "{user.name}"}, "name"),
        ({"profile": "p", "name": "a\n"}, "name"),
        ({"profile": "p", "name": " a"}, "name"),
        ({"profile": "p", "name": "-rf"}, "name"),
        ({"profile": "p", "name": "x" * 64}, "name"),
        ({"profile": "p", "a\nb" * 50: 1}, "no option"),
    ],
)
def test_refusals_are_400_with_one_sentence(options, said):
    with pytest.raises(Refused) as refused:
        parse_options(options)
    assert refused.value.status == 400
    assert said in refused.value.sentence
    assert "\n" not in refused.value.sentence
    assert len(refused.value.sentence) < 250


@pytest.mark.parametrize("name", ["My work", "M 13", "a.b_c-d", "x" * 63, "Élan", ""])
def test_names_for_people(name):
    assert parse_options({"profile": "p", "name": name}).name == name


def test_a_posted_form():
    form = {"profile": ["p"], "cores": ["2"], "memory": ["0.5"], "gpus": [""], "name": [""], "_xsrf": ["t"]}
    assert options_from_form(form) == {"profile": "p", "cores": 2, "memory": 0.5}


@pytest.mark.parametrize(
    "form",
    [{"cores": ["two"]}, {"profile": ["a", "b"]}, {"profile": []}],
)
def test_a_form_that_is_none(form):
    with pytest.raises(Refused):
        options_from_form(form)


@pytest.mark.parametrize("number", ["nan", "inf", "1e999"])
def test_numbers_that_are_none_reach_the_parser_and_end_there(number):
    options = options_from_form({"profile": ["p"], "cores": [number]})
    with pytest.raises(Refused):
        parse_options(options)


def test_an_uploaded_file_is_refused():
    with pytest.raises(Refused):
        parse_options(options_from_form({"profile": ["p"], "x_file": [{"filename": "a"}]}))
