from collections.abc import Iterator

import pytest

from tests.support.stack import Person, Stack


@pytest.fixture(scope="module")
def people(stack: Stack) -> dict[str, Person]:
    """Everybody who may sign in."""
    names = ("astronomer", "visitor", "admin", "first.last@example.org")
    return {name: stack.sign_in(name) for name in names}


@pytest.fixture
def astronomer(people: dict[str, Person]) -> Iterator[Person]:
    yield people["astronomer"]
    people["astronomer"].stop_all()


@pytest.fixture
def visitor(people: dict[str, Person]) -> Iterator[Person]:
    yield people["visitor"]
    people["visitor"].stop_all()
