"""What the stand-in for CARTA's program answers on one WebSocket: files, and the images that are open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import carta_messages as m
from tests.support.carta_images import Image

_WHOLE_IMAGE, _CURSOR = -1, 0
"""Regions that are always there."""


class Session:
    """One viewer. `top` is where folders' names begin, `start` the folder that it sees first."""

    def __init__(self, top: Path, start: Path) -> None:
        self._top, self._start = top, start
        self._open: dict[int, Image] = {}
        self._plane: dict[int, tuple[int, int]] = {}
        self._sync = 0
        self._answers = {
            m.REGISTER_VIEWER: self._register,
            m.FILE_LIST_REQUEST: self._list,
            m.FILE_INFO_REQUEST: self._info,
            m.OPEN_FILE: self._open_file,
            m.SET_IMAGE_CHANNELS: self._set_channels,
            m.ADD_REQUIRED_TILES: self._add_tiles,
            m.SET_CURSOR: self._set_cursor,
        }

    def answers(self, frame: bytes) -> Iterator[bytes]:
        """The frames that answer one frame; none for what is not spoken here."""
        kind, request, message = m.parse(frame)
        if kind in self._answers:
            yield from self._answers[kind](request, message)

    def _register(self, request: int, message: bytes) -> Iterator[bytes]:
        sent = m.decode(m.Register, message)
        answer = {"session_id": sent.get("session_id") or 1, "success": True}
        yield m.frame(m.REGISTER_VIEWER_ACK, request, m.RegisterAck, answer)

    def _folder(self, directory: str) -> Path:
        """The folder of that name. As with the real one, nothing keeps it below the top."""
        return self._start if directory == "$BASE" else self._top / directory.lstrip("/")

    def _list(self, request: int, message: bytes) -> Iterator[bytes]:
        folder = self._folder(m.decode(m.FileListRequest, message).get("directory", ""))
        answer: dict[str, Any]
        try:
            entries = sorted(folder.iterdir())
            name = os.path.relpath(folder, self._top)
            name = "" if name == "." else name
            answer = {
                "success": True,
                "directory": name,
                "parent": str(Path(name).parent) if name else "",
                "files": [Image(one).info() for one in entries if one.suffix == ".fits" and one.is_file()],
                "subdirectories": [{"name": one.name} for one in entries if one.is_dir()],
            }
        except (OSError, ValueError) as error:
            answer = {"success": False, "message": f"{folder.name} cannot be listed: {error}."}
        yield m.frame(m.FILE_LIST_RESPONSE, request, m.FileList, answer)

    def _image(self, message: bytes) -> tuple[dict[str, Any], Image]:
        sent = m.decode(m.OpenFile, message)
        image = Image(self._folder(sent.get("directory", "")) / sent.get("file", ""))
        image.extended()  # fails where there is no image
        return sent, image

    def _info(self, request: int, message: bytes) -> Iterator[bytes]:
        answer: dict[str, Any]
        try:
            _, image = self._image(message)
            answer = {
                "success": True,
                "info": image.info(),
                "extended": [{"key": image.hdu, "value": image.extended()}],
            }
        except (OSError, ValueError) as error:
            answer = {"success": False, "message": str(error)}
        yield m.frame(m.FILE_INFO_RESPONSE, request, m.FileInfo, answer)

    def _open_file(self, request: int, message: bytes) -> Iterator[bytes]:
        file_id = m.decode(m.OpenFile, message).get("file_id", 0)
        try:
            _, image = self._image(message)
        except (OSError, ValueError) as error:
            answer = {"success": False, "file_id": file_id, "message": str(error)}
            yield m.frame(m.OPEN_FILE_ACK, request, m.OpenFileAck, answer)
            return
        self._open[file_id], self._plane[file_id] = image, (0, 0)
        opened = {"file_id": file_id, "info": image.info(), "extended": image.extended()}
        yield m.frame(m.OPEN_FILE_ACK, request, m.OpenFileAck, {"success": True, **opened})
        yield self._histogram(file_id)

    def _histogram(self, file_id: int) -> bytes:
        stokes, channel = self._plane[file_id]
        answer = {
            **{"file_id": file_id, "region_id": _WHOLE_IMAGE, "channel": channel, "stokes": stokes},
            "histogram": self._open[file_id].histogram(stokes, channel),
            "progress": 1.0,
        }
        return m.frame(m.REGION_HISTOGRAM_DATA, 0, m.HistogramData, answer)

    def _set_channels(self, request: int, message: bytes) -> Iterator[bytes]:
        sent = m.decode(m.SetChannels, message)
        file_id = sent.get("file_id", 0)
        if file_id in self._open:
            self._plane[file_id] = (sent.get("stokes", 0), sent.get("channel", 0))
            yield self._histogram(file_id)
            yield from self._tiles(file_id, sent.get("tiles", {}).get("tiles", []))

    def _add_tiles(self, request: int, message: bytes) -> Iterator[bytes]:
        sent = m.decode(m.Tiles, message)
        if sent.get("file_id", 0) in self._open:
            yield from self._tiles(sent.get("file_id", 0), sent.get("tiles", []))

    def _tiles(self, file_id: int, codes: list[int]) -> Iterator[bytes]:
        """The tiles between two marks; not compressed, whatever was asked for."""
        self._sync += 1
        stokes, channel = self._plane[file_id]
        plane = {"file_id": file_id, "channel": channel, "stokes": stokes, "sync_id": self._sync}
        sync = plane | {"tile_count": len(codes)}
        yield m.frame(m.RASTER_TILE_SYNC, 0, m.TileSync, sync | {"end": False})
        for code in codes:
            tile = self._open[file_id].tile(code, stokes, channel)
            yield m.frame(m.RASTER_TILE_DATA, 0, m.TileData, plane | {"compression": 0, "tiles": [tile]})
        yield m.frame(m.RASTER_TILE_SYNC, 0, m.TileSync, sync | {"end": True})

    def _set_cursor(self, request: int, message: bytes) -> Iterator[bytes]:
        sent = m.decode(m.SetCursor, message)
        file_id, point = sent.get("file_id", 0), sent.get("point", {})
        if file_id not in self._open:
            return
        stokes, channel = self._plane[file_id]
        plane = self._open[file_id].pixels[stokes, channel]
        x, y = round(point.get("x", 0)), round(point.get("y", 0))
        if not (0 <= y < plane.shape[0] and 0 <= x < plane.shape[1]):
            return
        profiles = [
            {"end": len(values), "values": values.astype("<f4").tobytes(), "coordinate": name}
            for name, values in (("x", plane[y]), ("y", plane[:, x]))
        ]
        answer = {
            **{"file_id": file_id, "region_id": _CURSOR, "x": x, "y": y, "channel": channel, "stokes": stokes},
            "value": float(plane[y, x]),
            "profiles": profiles,
        }
        yield m.frame(m.SPATIAL_PROFILE_DATA, 0, m.SpatialData, answer)
