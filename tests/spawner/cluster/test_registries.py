"""Credentials for private images: which entry of a site's file an image needs, and files that are refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from canfar_site.yamlfile import FileError
from canfar_spawner.cluster.registries import config_for, host_of, read

AUTH = base64.b64encode(b"robot:pass:word").decode()


def written(folder: Path, content: object) -> Path:
    path = folder / "registries.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("image", "host"),
    [
        ("debian", "docker.io"),
        ("debian:12", "docker.io"),
        ("team/image:1", "docker.io"),
        ("docker.io/library/debian", "docker.io"),
        ("index.docker.io/team/image", "docker.io"),
        ("registry-1.docker.io/team/image", "docker.io"),
        ("images.example.org/team/image:1", "images.example.org"),
        ("Images.Example.org/team/image", "images.example.org"),
        ("images.example.org:5000/image@sha256:" + "0" * 64, "images.example.org:5000"),
        ("localhost/image", "localhost"),
        ("registry:5000/image", "registry:5000"),
    ],
)
def test_the_registry_of_an_image(image: str, host: str) -> None:
    assert host_of(image) == host


@pytest.mark.parametrize(
    ("key", "image", "sent"),
    [
        ("images.example.org", "images.example.org/a/b:1", "images.example.org"),
        ("https://images.example.org", "images.example.org/a/b:1", "images.example.org"),
        ("https://images.example.org/v2/", "images.example.org/a/b:1", "images.example.org"),
        ("images.example.org:5000", "images.example.org:5000/b", "images.example.org:5000"),
        ("https://index.docker.io/v1/", "team/b", "https://index.docker.io/v1/"),
        ("index.docker.io/v1/", "docker.io/team/b", "https://index.docker.io/v1/"),
        ("docker.io", "b:1", "https://index.docker.io/v1/"),
    ],
)
def test_an_image_gets_the_one_entry_of_its_registry(tmp_path: Path, key: str, image: str, sent: str) -> None:
    other = {"auth": base64.b64encode(b"other:secret").decode()}
    path = written(tmp_path, {"auths": {key: {"auth": AUTH, "email": "x"}, "other.example.org": other}})
    assert json.loads(config_for(image, read(path))) == {"auths": {sent: {"auth": AUTH}}}


def test_other_images_get_none(tmp_path: Path) -> None:
    found = read(written(tmp_path, {"auths": {"images.example.org": {"auth": AUTH}}, "credsStore": "x"}))
    for image in ("debian", "images.example.org:5000/b", "images.example.org.evil.example/b", "images/b"):
        assert config_for(image, found) == ""


def test_name_and_password_serve_as_well(tmp_path: Path) -> None:
    entry = {"username": "robot", "password": "pass:word"}
    assert read(written(tmp_path, {"auths": {"images.example.org": entry}})) == {"images.example.org": AUTH}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"auths": {"a.example.org": {"auth": "s3cret', "is not JSON"),
        ([], "has no `auths`"),
        ({"a.example.org": {"auth": AUTH}}, "has no `auths`"),
        ({"auths": {"a.example.org": {}}}, "a.example.org has no name and password"),
        ({"auths": {"a.example.org": "s3cret"}}, "a.example.org has no name and password"),
        ({"auths": {"a.example.org": {"auth": "s3cret"}}}, "a.example.org has no name and password"),
        ({"auths": {"a.example.org": {"auth": {"s3cret": 1}}}}, "a.example.org has no name and password"),
        ({"auths": {"a.example.org/team": {"auth": AUTH}}}, "is not the host of a registry"),
        (
            {"auths": {"docker.io": {"auth": AUTH}, "https://index.docker.io/v1/": {"auth": AUTH}}},
            "docker.io is there twice",
        ),
    ],
)
def test_a_file_of_another_form_is_refused_by_name(tmp_path: Path, content: Any, words: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(FileError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"registries.json: cannot be read"):
        read(tmp_path / "registries.json")
