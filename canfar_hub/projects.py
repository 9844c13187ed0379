"""The shared directories of embedded mode: homes, a sample project with a real image, programs' settings."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from canfar_hub.problem import Problem

_SAMPLE = Path(__file__).resolve().parent.parent / "demo" / "arc"
# M 13 from the Digitized Sky Survey, 300 by 300 pixels with coordinates; astropy ships it for its tests.
_IMAGE = Path("io/fits/hdu/compressed/tests/data/m13.fits")


def make_arc(top: Path) -> None:
    """Makes homes, projects and software below `top`, and adds the sample files that are not there.

    Raises
    ------
    canfar_hub.problem.Problem
        A file cannot be written.
    """
    try:
        (top / "home").mkdir(parents=True, exist_ok=True)
        for source, place in _files():
            target = top / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(source, target)
    except OSError as error:
        raise Problem(f"The sample files cannot be written to {top} ({error.strerror}).") from None


def _files() -> Iterator[tuple[Path, Path]]:
    """Each sample file and its place below the top directory."""
    for source in _SAMPLE.rglob("*"):
        if source.is_file():
            yield source, source.relative_to(_SAMPLE)
    found = importlib.util.find_spec("astropy")
    for place in (found and found.submodule_search_locations) or ():
        if (image := Path(place) / _IMAGE).is_file():
            yield image, Path("projects/survey-x/m13.fits")
