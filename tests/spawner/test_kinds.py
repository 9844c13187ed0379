from canfar_site.settings import BUILT_IN_KINDS
from canfar_spawner.kinds import KINDS


def test_the_kinds_that_settings_name_are_the_kinds_there_are():
    assert tuple(KINDS) == BUILT_IN_KINDS


def test_the_launch_contract_of_canfars_images():
    ports = {name: kind.port for name, kind in KINDS.items()}
    assert ports | {} == {
        "notebook": 8888,
        "carta": 6901,
        "desktop": 6901,
        "vscode": 5000,
        "firefly": 8080,
        "contributed": 5000,
        "headless": 0,
        "desktop-app": 6000,
    }
    stripped = {name for name, kind in KINDS.items() if kind.path == "strip"}
    assert stripped == {"desktop", "vscode", "contributed"}


def test_firefly_is_told_its_path_and_opened_below_it():
    kind = KINDS["firefly"]
    assert kind.environment["baseURL"] == "$(CANFAR_PREFIX)/"
    assert kind.environment["DEBUG"] == "FALSE"
    assert kind.landing == "firefly/"
    assert kind.command == ()
