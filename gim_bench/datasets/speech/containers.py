"""Sound in a file: the bytes that the header counts, and the bytes that the file holds.

Decoders believe the header. If a header counts too little, the rest of the recording is lost. If a
header counts too much, the file was cut off.

Sources: IFF of Electronic Arts 1985 (RIFF, RIFX, AIFF), EBU Tech 3306 (RF64, BW64), Sony's Wave64,
Apple's Core Audio Format 1.0, Sun's audio(4), NIST SPHERE, and RFC 3533 (Ogg).
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

SLACK_BYTES = 8  # some writers count the header or a padding byte
OPEN_BYTES = 0x7F000000  # programs that write to pipes claim sizes from here on
TAGS = (b"TAG", b"ID3", b"APETAGEX")  # titles that players append to files of any kind
PIECE_BYTES = 2**20  # of one read


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Bytes of sound in a file."""

    claimed: int | None  # by the header; None: the header leaves the size open
    held: int
    is_cut: bool = False  # whatever the header claims

    @property
    def breaks_off(self) -> bool:
        is_short = self.claimed is not None and self.claimed > self.held + SLACK_BYTES
        return self.is_cut or is_short

    @property
    def goes_on(self) -> bool:
        return self.claimed is not None and self.held > self.claimed + SLACK_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """Layout of a container that is made of chunks: an id, a size, and as many bytes."""

    first: int  # place of the first chunk
    size: str  # format of the size, which follows the id
    sound: bytes  # id of the chunk that holds the sound
    before: int = 0  # bytes of that chunk before the sound
    counted: int = 0  # bytes of id and size that the size counts too
    align: int = 2

    @property
    def head(self) -> int:
        """Bytes of id and size."""
        return len(self.sound) + struct.calcsize(self.size)

    @property
    def open_from(self) -> int:
        return OPEN_BYTES if struct.calcsize(self.size) == 4 else 2**62


W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
LAYOUTS = {
    b"RIFF": Chunks(first=12, size="<I", sound=b"data"),
    b"RIFX": Chunks(first=12, size=">I", sound=b"data"),
    b"RF64": Chunks(first=12, size="<I", sound=b"data"),
    b"BW64": Chunks(first=12, size="<I", sound=b"data"),
    b"FORM": Chunks(first=12, size=">I", sound=b"SSND", before=8),
    b"riff": Chunks(first=40, size="<Q", sound=b"data" + W64_TAIL, counted=24, align=8),
    b"caff": Chunks(first=8, size=">Q", sound=b"data", before=4, align=1),
}


def extent_of(file: BinaryIO) -> Extent | None:
    """Bytes of sound in an open file; None for a container without sizes, or an unreadable header.

    Raises: OSError.
    """
    try:
        return _extent_of(file, size=file.seek(0, 2))
    except (struct.error, ValueError, IndexError):
        return None


def _extent_of(file: BinaryIO, *, size: int) -> Extent | None:
    magic = _at(file, 0, 4)
    if layout := LAYOUTS.get(magic):
        return _in_chunks(file, layout, size=size)
    if magic in (b".snd", b"dns."):
        order = ">" if magic == b".snd" else "<"
        start, claimed = struct.unpack(f"{order}II", _at(file, 4, 8))
        return _extent(file, claimed=_unless_open(claimed), start=start, size=size)
    if magic == b"NIST":
        return _nist(file, size=size)
    return _ogg(file, size=size) if magic == b"OggS" else None


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _unless_open(claimed: int) -> int | None:
    return None if claimed >= OPEN_BYTES else claimed


# -- chunks --------------------------------------------------------------------------------------


def _in_chunks(file: BinaryIO, layout: Chunks, *, size: int) -> Extent | None:
    place, long_size = layout.first, None
    while place + layout.head <= size:
        name, length = _chunk(file, place, layout=layout)
        start = place + layout.head
        if name == b"ds64":  # a size that 32 bits cannot say stands here
            (long_size,) = struct.unpack("<Q", _at(file, start + 8, 8))
        if name == layout.sound:
            claimed = None if length >= layout.open_from else length - layout.before
            if long_size is not None:
                claimed = long_size
            return _extent(
                file, claimed=claimed, start=start + layout.before, size=size, layout=layout
            )
        place = start + length + -length % layout.align
    return None


def _chunk(file: BinaryIO, place: int, *, layout: Chunks) -> tuple[bytes, int]:
    """The id of the chunk at `place`, and its bytes after id and size."""
    head = _at(file, place, layout.head)
    (length,) = struct.unpack_from(layout.size, head, len(layout.sound))
    return head[: len(layout.sound)], max(0, length - layout.counted)


def _extent(
    file: BinaryIO, *, claimed: int | None, start: int, size: int, layout: Chunks | None = None
) -> Extent:
    """The extent of sound that begins at `start`, without chunks and tags that follow."""
    held = max(0, size - start)
    if claimed is not None:
        claimed = max(0, claimed)
        ends = start + claimed
        padded = ends + (-claimed % layout.align if layout else 0)
        if any(_is_no_sound(file, place, size=size, layout=layout) for place in (padded, ends)):
            held = min(held, claimed)
    return Extent(claimed=claimed, held=held)


def _is_no_sound(file: BinaryIO, place: int, *, size: int, layout: Chunks | None) -> bool:
    """Whether only chunks, tags and zeros lie from `place` to the end of the file."""
    while place + SLACK_BYTES < size:
        if _at(file, place, 8).startswith(TAGS) or _is_padding(file, place):
            return True
        if layout is None or place + layout.head > size:
            return False
        name, length = _chunk(file, place, layout=layout)
        is_chunk = name[:4].isascii() and name[:4].decode("latin-1").isprintable()
        if not is_chunk or name == layout.sound or name[:4] in LAYOUTS:
            return False
        place += layout.head + length + -length % layout.align
        if place > size + SLACK_BYTES:
            return False
    return True


def _is_padding(file: BinaryIO, place: int) -> bool:
    file.seek(place)
    while piece := file.read(PIECE_BYTES):
        if piece.strip(b"\0"):
            return False
    return True


# -- other containers ----------------------------------------------------------------------------


def _nist(file: BinaryIO, *, size: int) -> Extent | None:
    header = int(_at(file, 8, 8))
    text = _at(file, 0, header)
    found = [
        re.search(rb"^%s -i (\d+)" % key, text, re.MULTILINE)
        for key in (b"sample_count", b"channel_count", b"sample_n_bytes")
    ]
    if not all(found):
        return None
    count, channels, width = (int(match[1]) for match in found if match)
    return _extent(file, claimed=count * channels * width, start=header, size=size)


def _ogg(file: BinaryIO, *, size: int) -> Extent:
    """Pages up to the last. A stream whose last page is not marked as the last was cut off."""
    place, ends, streams = 0, 0, set[bytes]()
    while place + 27 <= size and (head := _at(file, place, 27)).startswith(b"OggS"):
        length = 27 + head[26] + sum(_at(file, place + 27, head[26]))
        if place + length > size:
            break
        if ends and not streams:  # another stream begins after the last page of the first
            return Extent(claimed=ends, held=size)
        streams.add(head[14:18])
        place += length
        if head[5] & 4:
            streams.discard(head[14:18])
            ends = place
    return Extent(claimed=None, held=place, is_cut=not ends or bool(streams))


# -- compressed streams --------------------------------------------------------------------------


FLAC_START = b"fLaC\0\0\0\x22"  # then 34 bytes about the stream
FLAC_MOST_BLOCKS = 0x110000  # numbers of blocks are coded as UTF-8 codes characters


def flac_frames(content: bytes) -> int:
    """Samples of all FLAC streams in a file, those in blocks that the header does not count too.

    Blocks are looked for where all are of one size, as all common encoders write them.
    """
    place = content.find(FLAC_START)
    if place < 0:
        return 0
    again = content.find(FLAC_START, place + 1)
    if again >= 0:
        return flac_frames(content[:again]) + flac_frames(content[again:])
    block, largest = struct.unpack_from(">HH", content, place + 8)
    known = int.from_bytes(content[place + 21 : place + 26]) & (2**36 - 1)
    like = content.find(b"\xff\xf8", place + 42)
    if like < 0 or block != largest or block == 0:
        return known
    number = -(-known // block)  # of the first block after those that the header counts
    while (found := _flac_block(content, number, like=like)) is not None:
        like, number = found, number + 1
        known = number * block
    return known


def _flac_block(content: bytes, number: int, *, like: int) -> int | None:
    """Place of the block of that number after the block at `like`; None without such a block."""
    if number >= FLAC_MOST_BLOCKS:
        return None
    rate, bits = content[like + 2] & 0x0F, content[like + 3] & 0x0F
    coded = chr(number).encode("utf-8", "surrogatepass")
    for match in re.finditer(rb"\xff\xf8(..)" + re.escape(coded), content[like + 1 :], re.DOTALL):
        place = like + 1 + match.start()
        sizes = {6: 1, 7: 2}.get(match[1][0] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
        end = place + 4 + len(coded) + sizes
        alike = (match[1][0] & 0x0F, match[1][1] & 0x0F) == (rate, bits)
        if alike and end < len(content) and _crc8(content[place:end]) == content[end]:
            return place
    return None


def _crc8(content: bytes) -> int:
    """Checksum of a FLAC block's header: polynomial x⁸ + x² + x + 1."""
    crc = 0
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc


MP3_KILOBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2
}
MP3_RATES_HZ = (44_100, 48_000, 32_000)
MP3_SLACK_FRAMES = 4  # the encoder's delay, and what a frame borrows from the frames before it


MP3_HEADERS = (b"Xing", b"Info", b"VBRI")  # in the first frame, where encoders count the frames


def mp3_frames(content: bytes) -> int:
    """Samples of all MPEG frames of layer III, those of a tag or of an encoder's delay included."""
    return sum(1_152 if frame[1] >> 3 & 3 == 3 else 576 for frame in _in_frames(content))


def mp3_is_counted(content: bytes) -> bool:
    """Whether the first frame is a header that counts the others."""
    first = next(_in_frames(content), b"")
    return any(name in first for name in MP3_HEADERS)


def _in_frames(content: bytes) -> Iterator[bytes]:
    """Every MPEG frame of layer III."""
    place = 0
    while content[place : place + 3] == b"ID3":
        size = 0
        for byte in content[place + 6 : place + 10]:
            size = size << 7 | byte & 0x7F
        place += 10 + size
    while place + 4 <= len(content):
        if (length := _mp3_length(content[place : place + 4])) is None:
            place = content.find(b"\xff", place + 1)
            if place < 0:
                break
            continue
        yield content[place : place + length]
        place += length


def _mp3_length(head: bytes) -> int | None:
    """Bytes of the frame with that header; None if no frame of layer III has it."""
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rate, kilobits = head[2] >> 2 & 3, head[2] >> 4
    is_frame = head[0] == 0xFF and head[1] >> 5 == 7 and version != 1 and layer == 1
    if not is_frame or rate == 3 or kilobits in (0, 15):
        return None
    rate_hz = MP3_RATES_HZ[rate] // {3: 1, 2: 2, 0: 4}[version]
    bits = 1_000 * MP3_KILOBITS[3 if version == 3 else 2][kilobits]
    return (144 if version == 3 else 72) * bits // rate_hz + (head[2] >> 1 & 1)
