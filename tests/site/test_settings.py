import subprocess
import sys
from pathlib import Path

import pytest

from canfar_site.settings import load_site
from canfar_site.yamlfile import FileError

GOOD = """\
contact: help@example.org
public_url: https://hub.example.org
sign_in:
  issuer: https://login.example.org/realms/astro
  client_id: hub
  platform_groups:
    - ivo://example.org/gms?canfar-users
catalogue: images
"""


def site_file(folder: Path, text: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def test_a_small_site_file_is_enough(tmp_path):
    site = load_site(site_file(tmp_path, GOOD))
    assert site.catalogue == tmp_path / "images"
    assert site.subdomains
    assert site.storage.homes == Path("/arc/home")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "contct: me\n", "line 9: contct: there is no such setting"),
        (GOOD + "contact: me\n", "line 9: “contact” is given twice"),
        (GOOD.replace("ivo://example.org/gms?canfar-users", "canfar-users"), "line 7: sign_in.platform_groups"),
        (GOOD.replace("  platform_groups:\n    - ivo://example.org/gms?canfar-users\n", ""), "line 3"),
        (GOOD.replace("https://hub.example.org", "hub.example.org"), "line 2: public_url"),
        (GOOD.replace("https://hub.example.org", "https://hub.example.org/x/"), "without a path"),
        (GOOD + "limits: {sessions: many}\n", "line 9: limits.sessions"),
        (GOOD + "limits:\n  ceiling: {cores: 0, memory: 1}\n", "line 10: limits.ceiling.cores"),
        (GOOD + "kinds: [notebook, jupyter]\n", "line 9: kinds: “jupyter” is no kind"),
        (GOOD + "a: [1\n", "line 10"),
        (GOOD + "own_kinds: [{name: carta, title: x, port: 1}]\n", "another kind of the name “carta”"),
        (GOOD + "own_kinds:\n  - {name: ok, title: x, port: 0}\n", "line 10: own_kinds.0.port"),
        ("contact: \x00\n", "this is not YAML"),
        ("", "Field required"),
    ],
)
def test_a_bad_site_file_is_one_line_with_the_place(tmp_path, text, said):
    with pytest.raises(FileError) as error:
        load_site(site_file(tmp_path, text))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileError, match=r"nowhere\.yaml: cannot be read"):
        load_site(tmp_path / "nowhere.yaml")


def test_the_check_command_says_what_is_wrong_without_a_traceback(tmp_path):
    path = site_file(tmp_path, GOOD + "contct: me\n")
    done = subprocess.run(
        [sys.executable, "-m", "canfar_hub", "check", str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "line 9" in done.stderr
    (tmp_path / "images").mkdir()
    path = site_file(tmp_path, GOOD)
    done = subprocess.run([sys.executable, "-m", "canfar_hub", "check", str(path)], timeout=60)
    assert done.returncode == 0
