"""What the stand-in for CARTA's program says of a FITS file: header, tiles, histogram and values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

TILE = 256  # pixels along a side
_STRING, _FLOAT, _INTEGER = 0, 1, 2


@dataclass(frozen=True)
class Image:
    """One image of a FITS file: the first that there is."""

    path: Path

    @cached_property
    def _opened(self) -> tuple[int, fits.Header, np.ndarray]:
        with fits.open(self.path) as hdus:
            for number, hdu in enumerate(hdus):
                if hdu.is_image and hdu.header["NAXIS"] >= 2:
                    return number, hdu.header, np.asarray(hdu.data, dtype=np.float32)
        raise ValueError("there is no image in the file")

    @property
    def pixels(self) -> np.ndarray:
        """The planes of the image, as (stokes, channel, y, x)."""
        data = self._opened[2]
        return data.reshape((1,) * (4 - data.ndim) + data.shape)

    @property
    def hdu(self) -> str:
        """The name of the image in the file."""
        return str(self._opened[0])

    def info(self) -> dict[str, Any]:
        """The file, as lists of files show it."""
        stat = self.path.stat()
        hdus = {"hdus": [self.hdu]} if self.path.is_file() else {}
        size = {"name": self.path.name, "type": 3, "size": stat.st_size, "date": int(stat.st_mtime)}
        return size | hdus

    def extended(self) -> dict[str, Any]:
        """The image's size and header."""
        stokes, depth, height, width = self.pixels.shape
        return {
            "dimensions": self._opened[2].ndim,
            "width": width,
            "height": height,
            "depth": depth,
            "stokes": stokes,
            "header": [_entry(card) for card in self._opened[1].cards if card.keyword],
            "computed": [{"name": "Name", "value": self.path.name}],
            "axes": {"x": 1, "y": 2, "spectral": 3 if depth > 1 else 0, "stokes": 4 if stokes > 1 else 0},
        }

    def histogram(self, stokes: int, channel: int) -> dict[str, Any]:
        """How the values of one plane are distributed."""
        plane = self.pixels[stokes, channel]
        values = plane[np.isfinite(plane)]
        count = max(2, int(math.sqrt(plane.shape[0] * plane.shape[1])))
        bins, edges = np.histogram(values, bins=count)
        width = float(edges[1] - edges[0])
        return {
            "count": count,
            "width": width,
            "first_center": float(edges[0]) + width / 2,
            "bins": [int(one) for one in bins],
            "mean": float(values.mean()),
            "deviation": float(values.std()),
        }

    def tile(self, code: int, stokes: int, channel: int) -> dict[str, Any]:
        """One tile; its code holds layer, row and column. A layer has half of the next one's pixels a side."""
        layer, y, x = code >> 24, code >> 12 & 0xFFF, code & 0xFFF
        plane = self.pixels[stokes, channel]
        tiles = max(math.ceil(side / TILE) for side in plane.shape)
        step = 2 ** (math.ceil(math.log2(tiles)) - layer)
        size = TILE * step
        part = _averaged(plane[y * size : (y + 1) * size, x * size : (x + 1) * size], step)
        height, width = part.shape
        data = np.ascontiguousarray(part, dtype="<f4").tobytes()
        return {"layer": layer, "x": x, "y": y, "width": width, "height": height, "data": data, "mip": step}


def _entry(card: fits.Card) -> dict[str, Any]:
    value = card.value
    shown = "T" if value is True else "F" if value is False else str(value)
    entry = {"name": card.keyword, "value": shown, "comment": card.comment}
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        return entry | {"entry_type": _STRING}
    kind = _INTEGER if isinstance(value, int) else _FLOAT
    return entry | {"entry_type": kind, "numeric_value": float(value)}


def _averaged(plane: np.ndarray, step: int) -> np.ndarray:
    """Means of squares of `step` pixels; at the edges of what is left of them."""
    if step == 1:
        return plane
    rows, columns = (-(-side // step) * step for side in plane.shape)
    padded = np.full((rows, columns), np.nan, dtype=np.float32)
    padded[: plane.shape[0], : plane.shape[1]] = plane
    blocks = padded.reshape(rows // step, step, columns // step, step)
    return np.nanmean(blocks, axis=(1, 3))
