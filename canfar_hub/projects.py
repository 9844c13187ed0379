"""The sample project of embedded mode: a real image of the sky, and a notebook that plots it."""

import importlib.util
import shutil
from pathlib import Path

from canfar_hub.problem import Problem

_SAMPLE = Path(__file__).resolve().parent.parent / "demo" / "survey-x"
# M 13 from the Digitized Sky Survey, 300 by 300 pixels with coordinates; astropy ships it for its tests.
_IMAGE = Path("io/fits/hdu/compressed/tests/data/m13.fits")


def make_arc(top: Path) -> None:
    """Makes homes and projects below `top`, and fills the project `survey-x` with what it lacks.

    Raises
    ------
    canfar_hub.problem.Problem
        A file cannot be written.
    """
    project = top / "projects" / "survey-x"
    try:
        (top / "home").mkdir(parents=True, exist_ok=True)
        project.mkdir(parents=True, exist_ok=True)
        for source in (*_SAMPLE.iterdir(), *_image()):
            if not (project / source.name).exists():
                shutil.copyfile(source, project / source.name)
    except OSError as error:
        raise Problem(f"The project {project} cannot be made ({error.strerror}).") from None


def _image() -> list[Path]:
    """The sample image inside the installed astropy; nothing where astropy is not installed."""
    found = importlib.util.find_spec("astropy")
    places = found.submodule_search_locations if found else None
    return [Path(place) / _IMAGE for place in places or () if (Path(place) / _IMAGE).is_file()]
