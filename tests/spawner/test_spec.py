import pytest

from canfar_spawner.spec import expand

VARIABLES = {"A": "1", "B": "$(A)", "C": "{A}"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$(A)-$(A)", "1-1"),
        ("$(B)", "$(A)"),  # a value is not expanded again
        ("$(C)", "{A}"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(A)", "$(A)"),
        ("{0.__class__} %s ${A} $A", "{0.__class__} %s ${A} $A"),
    ],
)
def test_references_are_replaced_once(text, expected):
    assert expand(text, VARIABLES) == expected
