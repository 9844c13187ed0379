"""The shared directories of embedded mode: homes, a sample project with a real image, programs' settings."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from canfar_hub.problem import Problem

_SAMPLE = Path(__file__).resolve().parent.parent / "demo" / "arc"
# M 13 from the Digitized Sky Survey, 300 by 300 pixels with coordinates; astropy ships it for its tests.
_IMAGE = Path("io/fits/hdu/compressed/tests/data/m13.fits")


def sample_projects() -> list[str]:
    """The names of the projects that `make_arc` makes."""
    return sorted(path.name for path in (_SAMPLE / "projects").iterdir())


def make_arc(top: Path, gids: Mapping[str, int] | None = None) -> None:
    """Makes homes, projects and software below `top`, and adds the sample files that are not there.

    With `gids`, of each project's group by the project's name, all is root's, and a project opens to its group
    alone; root has to be the caller. Without, nothing is said about who may enter.

    Raises
    ------
    canfar_hub.problem.Problem
        A file cannot be written.
    """
    try:
        top.mkdir(parents=True, exist_ok=True)
        _make(top, Path("home"), gids)
        for source, place in _files():
            _make(top, place, gids, source)
    except OSError as error:
        raise Problem(f"The sample files cannot be written to {top} ({error.strerror}).") from None


def _make(top: Path, place: Path, gids: Mapping[str, int] | None, source: Path | None = None) -> None:
    """Makes the directories of `place` below `top`, and the file if there is a `source`.

    Members of a project can write in it, so from `top` on no name is looked up twice and no link followed.
    """
    with contextlib.ExitStack() as stack:
        above = _enter(stack, top)
        _give(above, Path(), gids)
        folder = place.parent if source else place
        for count, name in enumerate(folder.parts):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=above)
            above = _enter(stack, name, above)
            _give(above, Path(*folder.parts[: count + 1]), gids)
        if source:
            with contextlib.suppress(FileExistsError):
                new = os.open(place.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=above)
                with open(new, "wb") as file:
                    file.write(source.read_bytes())
                    _give(new, folder, gids, files=True)


def _enter(stack: contextlib.ExitStack, path: Path | str, above: int | None = None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | (0 if above is None else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, dir_fd=above)
    stack.callback(os.close, descriptor)
    return descriptor


def _give(descriptor: int, folder: Path, gids: Mapping[str, int] | None, files: bool = False) -> None:
    """Gives something in `folder` to whom it is for: everybody passes, homes are not listed."""
    if gids is None:
        return
    gid, mode = 0, 0o711 if folder == Path("home") else 0o755
    if folder.parts[:1] == ("projects",) and len(folder.parts) > 1:
        gid = gids.get(folder.parts[1], 0)
        mode = 0o2770 if gid else 0o700
    os.fchown(descriptor, 0, gid)
    os.fchmod(descriptor, mode & 0o666 if files else mode)


def _files() -> Iterator[tuple[Path, Path]]:
    """Each sample file and its place below the top directory."""
    for source in _SAMPLE.rglob("*"):
        if source.is_file():
            yield source, source.relative_to(_SAMPLE)
    found = importlib.util.find_spec("astropy")
    for place in (found and found.submodule_search_locations) or ():
        if (image := Path(place) / _IMAGE).is_file():
            yield image, Path("projects/survey-x/m13.fits")
