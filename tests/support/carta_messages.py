"""The few messages of CARTA's protocol that the stand-in speaks, and enough protobuf to write and read them.

Our own definitions, made from what a front end sends and reads. A frame is a head of eight bytes and a message.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VERSION = 30
_HEAD = struct.Struct("<HHI")  # kind of message, version of the protocol, number of the request
_VARINT, _BYTES = 0, 2
_FIXED = {"<d": 1, "<q": 1, "<f": 5, "<i": 5, "<I": 5}
_LENGTHS = {1: 8, 5: 4}

# Kinds of message
REGISTER_VIEWER, FILE_LIST_REQUEST, FILE_INFO_REQUEST, OPEN_FILE, SET_IMAGE_CHANNELS = 1, 2, 3, 4, 6
SET_CURSOR, ADD_REQUIRED_TILES = 7, 30
REGISTER_VIEWER_ACK, FILE_LIST_RESPONSE, FILE_INFO_RESPONSE, OPEN_FILE_ACK = 18, 19, 20, 21
REGION_HISTOGRAM_DATA, SPATIAL_PROFILE_DATA, RASTER_TILE_DATA, RASTER_TILE_SYNC = 23, 25, 32, 49


@dataclass(frozen=True)
class Field:
    """One field of a message. `type`: "varint", "text", "bytes", a format of `struct`, or another message."""

    number: int
    type: str | Mapping[str, Field]
    many: bool = False


Message = Mapping[str, Field]
INT, FLOAT, DOUBLE, LONG = "<i", "<f", "<d", "<q"


def _many(number: int, type: str | Message) -> Field:
    return Field(number, type, many=True)


def _numbered(type: str, *names: str) -> dict[str, Field]:
    return {name: Field(number, type) for number, name in enumerate(names, 1)}


Register = {"session_id": Field(1, "<I"), "api_key": Field(2, "text")}
RegisterAck = {"session_id": Field(1, "<I"), "success": Field(2, "varint"), "message": Field(3, "text")}
Header = {
    "name": Field(1, "text"),
    "value": Field(2, "text"),
    "entry_type": Field(3, "varint"),
    "numeric_value": Field(4, DOUBLE),
    "comment": Field(5, "text"),
}
Info = {
    "name": Field(1, "text"),
    "type": Field(2, "varint"),
    "size": Field(3, LONG),
    "hdus": _many(4, "text"),
    "date": Field(5, LONG),
}
Axes = _numbered(INT, "x", "y", "spectral", "stokes", "depth")
Extended = {
    **_numbered(INT, "dimensions", "width", "height", "depth", "stokes"),
    "header": _many(7, Header),
    "computed": _many(8, Header),
    "axes": Field(9, Axes),
}
FileListRequest = {"directory": Field(1, "text"), "filter": Field(2, "varint")}
FileList = {
    "success": Field(1, "varint"),
    "message": Field(2, "text"),
    "directory": Field(3, "text"),
    "parent": Field(4, "text"),
    "files": _many(5, Info),
    "subdirectories": _many(6, {"name": Field(1, "text"), "items": Field(2, INT), "date": Field(3, LONG)}),
}
FileRequest = {"directory": Field(1, "text"), "file": Field(2, "text"), "hdu": Field(3, "text")}
FileInfo = {
    "success": Field(1, "varint"),
    "message": Field(2, "text"),
    "info": Field(3, Info),
    "extended": _many(4, {"key": Field(1, "text"), "value": Field(2, Extended)}),
}
OpenFile = {**FileRequest, "file_id": Field(4, INT)}
OpenFileAck = {
    "success": Field(1, "varint"),
    "file_id": Field(2, INT),
    "message": Field(3, "text"),
    "info": Field(4, Info),
    "extended": Field(5, Extended),
}
Tiles = {"file_id": Field(1, INT), "tiles": _many(2, INT), "compression": Field(3, "varint")}
SetChannels = {**_numbered(INT, "file_id", "channel", "stokes"), "tiles": Field(4, Tiles)}
Tile = {**_numbered(INT, "layer", "x", "y", "width", "height"), "data": Field(6, "bytes"), "mip": Field(8, INT)}
TileData = {
    **_numbered(INT, "file_id", "channel", "stokes"),
    "compression": Field(4, "varint"),
    "sync_id": Field(6, INT),
    "tiles": _many(8, Tile),
}
TileSync = {
    **_numbered(INT, "file_id", "channel", "stokes", "sync_id", "animation_id", "tile_count"),
    "end": Field(7, "varint"),
}
Histogram = {
    "count": Field(1, INT),
    "width": Field(2, DOUBLE),
    "first_center": Field(3, DOUBLE),
    "bins": _many(4, INT),
    "mean": Field(5, DOUBLE),
    "deviation": Field(6, DOUBLE),
}
HistogramData = {
    **_numbered(INT, "file_id", "region_id", "channel", "stokes"),
    "histogram": Field(5, Histogram),
    "progress": Field(6, FLOAT),
}
SetCursor = {"file_id": Field(1, INT), "point": Field(2, _numbered(FLOAT, "x", "y"))}
SpatialProfile = {
    **_numbered(INT, "start", "end"),
    "values": Field(3, "bytes"),
    "coordinate": Field(4, "text"),
}
SpatialData = {
    **_numbered(INT, "file_id", "region_id", "x", "y", "channel", "stokes"),
    "value": Field(7, FLOAT),
    "profiles": _many(8, SpatialProfile),
}


def frame(kind: int, request: int, message: Message, values: Mapping[str, Any]) -> bytes:
    """One message as it is sent."""
    return _HEAD.pack(kind, VERSION, request) + encode(message, values)


def parse(data: bytes) -> tuple[int, int, bytes]:
    """Kind of message, number of the request, and the message, of what was received."""
    kind, _, request = _HEAD.unpack_from(data)
    return kind, request, data[_HEAD.size :]


def encode(message: Message, values: Mapping[str, Any]) -> bytes:
    """A message from values by name."""
    made = b""
    for name, value in values.items():
        field = message[name]
        for one in value if field.many else [value]:
            made += _encoded(field, one)
    return made


def _encoded(field: Field, value: Any) -> bytes:
    if field.type == "varint":
        return _varint(field.number << 3 | _VARINT) + _varint(int(value))
    if isinstance(field.type, str) and field.type in _FIXED:
        return _varint(field.number << 3 | _FIXED[field.type]) + struct.pack(field.type, value)
    data = encode(field.type, value) if not isinstance(field.type, str) else value
    data = data.encode() if isinstance(data, str) else data
    return _varint(field.number << 3 | _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def decode(message: Message, data: bytes) -> dict[str, Any]:
    """The values of a message by name, of those fields that we know; what was not sent is not there."""
    names = {field.number: name for name, field in message.items()}
    found: dict[str, Any] = {}
    place = 0
    while place < len(data):
        key, place = _read_varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            piece, place = _read_varint(data, place)
        else:
            length = _LENGTHS.get(wire)
            if length is None:
                length, place = _read_varint(data, place)
            piece, place = data[place : place + length], place + length
        if number in names:
            field = message[names[number]]
            values = _decoded(field, wire, piece)
            found[names[number]] = [*found.get(names[number], []), *values] if field.many else values[-1]
    return found


def _decoded(field: Field, wire: int, piece: Any) -> list[Any]:
    if not isinstance(field.type, str):
        return [decode(field.type, piece)]
    if field.type in _FIXED:  # several numbers may come in one piece
        return [value for (value,) in struct.iter_unpack(field.type, piece)]
    return [piece.decode() if field.type == "text" else piece]


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value, shift, place = value | (byte & 0x7F) << shift, shift + 7, place + 1
        if byte < 0x80:
            return value, place
