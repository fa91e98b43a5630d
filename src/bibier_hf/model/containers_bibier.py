"""What the header of an audio file says of its length, and what of it can be believed.

Writers that cannot seek back (pipes, crashed recorders) leave placeholders in a header, and an MP3 file need not tell
its length at all; libsndfile then estimates one and stops there. [`inspect_container`] finds the samples by the
structure of the file. Where the header is wrong it gives a corrected view of the file to read in its place, and it
calls a file cut only where the header proves it.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

_SLACK = 256
"""Bytes by which a size may exceed the file: writers count their own header in, which is not a loss of sound."""

_PLACEHOLDER_FROM = 0x7F00_0000
"""32-bit sizes from here on are what writers put that do not know the length (0x7FFFF000, 0x80000000, 0xFFFFFFFF)."""

_PLACEHOLDER_STEP = 1 << 24
"""Round sizes are placeholders, too; a real one is a multiple of 16 MiB by chance only."""

_JUNK = 64 * 1024
"""Bytes before the first MP3 frame that are searched for it."""

_MOST_CHUNKS = 10_000

_Order = Literal["little", "big"]

_WAVE_FORMATS_OF_MPEG = (0x50, 0x55)
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_W64_FORM = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"


@dataclass(frozen=True)
class Container:
    """What was found out about a file.

    Args:
        view: what to decode in place of the file; None: the file itself.
        cut: how the header proves that the end of the file is missing, as the end of a sentence; "" where it does not.
        frames: samples (per channel) that must be there, told by the header of a FLAC file; None: unknown.
        at_least: samples that an MPEG file holds by its frames; a decoder that gives clearly fewer has stopped early.
        duration_s: of an MPEG file, by its frames.
        may_stop_short: the file may end within a frame, which the decoder takes for damage.
        links: (start, length) of the streams of a chained Ogg file.
    """

    view: "Pieces | None" = None
    cut: str = ""
    frames: int | None = None
    at_least: int = 0
    duration_s: float | None = None
    may_stop_short: bool = False
    links: tuple[tuple[int, int], ...] = ()


def inspect_container(file: BinaryIO, size: int, search: bool = False) -> Container:
    """Look at the header of a seekable file of `size` bytes.

    Args:
        search: look for MPEG frames behind bytes that are none, in a file that no decoder knows.
    """
    window = _Window(file, size)
    head = window.at(0, 24)
    for magic, parse in _CHUNKED:
        if head.startswith(magic):
            found = parse(window)
            return Container() if found is None else _of_chunks(window, found)
    start = _behind_tags(window, 0)
    if window.at(start, 4) == b"fLaC":
        total = int.from_bytes(window.at(start + 18, 8), "big") & (2**36 - 1)
        if total and not start:
            return Container(frames=total, may_stop_short=True)
        end = size - 128 if window.at(size - 128, 3) == b"TAG" else size
        return Container(Pieces([(file, start, end - start)]), frames=total or None, may_stop_short=True)
    if head.startswith(b"OggS"):
        links = _ogg_links(window)
        return Container(links=links if len(links) > 1 else ())
    first = _first_mpeg_frame(window, start, size, search)
    return Container() if first is None else _of_mpeg(window, first, size, embedded=search)


class Pieces(io.RawIOBase):
    """A read-only file made of bytes and of stretches `(file, start, length)` of another file."""

    def __init__(self, pieces: "Sequence[bytes | tuple[BinaryIO | Pieces, int, int]]"):
        super().__init__()
        self._pieces: list[tuple[int, int, bytes | tuple[BinaryIO | Pieces, int, int]]] = []
        self._size = self._position = 0
        for piece in pieces:
            length = len(piece) if isinstance(piece, bytes) else piece[2]
            if length:
                self._pieces.append((self._size, self._size + length, piece))
                self._size += length

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return self._size - self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer, /) -> int:
        wanted, done = len(buffer), 0
        for begin, end, piece in self._pieces:
            if done == wanted or not begin <= self._position < end:
                continue
            count = min(wanted - done, end - self._position)
            inside = self._position - begin
            if isinstance(piece, bytes):
                part = piece[inside : inside + count]
            else:
                piece[0].seek(piece[1] + inside)
                part = piece[0].read(count) or b""
            buffer[done : done + len(part)] = part
            done += len(part)
            self._position += len(part)
            if len(part) < count:
                break
        return done


class _Window:
    """Random access to a file in large reads."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size
        self._start, self._held = 0, b""

    def at(self, position: int, count: int) -> bytes:
        """`count` bytes, fewer at the end of the file"""
        offset = position - self._start
        if offset < 0 or offset + count > len(self._held):
            self.file.seek(position)
            self._start, self._held, offset = position, self.file.read(max(count, _JUNK)), 0
        return self._held[offset : offset + count]

    def number(self, position: int, width: int, order: _Order) -> int:
        return int.from_bytes(self.at(position, width), order)


@dataclass(frozen=True)
class _Data:
    """The chunk that holds the samples.

    Args:
        body: where they begin.
        promised: their bytes by the header.
        form_end: where the whole file should end by its header; None: nothing says so.
        patch: (bytes that are there) -> (offset, bytes) to write over the header.
        wide: sizes have 64 bits.
        mpeg: the samples are MPEG frames.
        enlarge: (bytes) -> another header, where the sizes do not fit into this one's.
    """

    body: int
    promised: int
    form_end: int | None
    patch: Callable[[int], Sequence[tuple[int, bytes]]]
    wide: bool = False
    mpeg: bool = False
    order: _Order = "little"
    enlarge: Callable[[int], bytes] | None = field(default=None, repr=False)


def _of_chunks(window: _Window, data: _Data) -> Container:
    there = max(0, window.size - data.body)
    if data.promised > there:
        missing, cut = data.promised - there, ""
        whole_by_form = data.form_end is not None and (
            data.form_end <= window.size + _SLACK or _is_placeholder(data.form_end - 8, data.wide)
        )
        if missing > _SLACK and not whole_by_form and not _is_placeholder(data.promised, data.wide):
            cut = f"{missing} bytes of sound that its header promises are not there"
        true = there
    else:
        cut, true = "", data.promised
        behind = data.body + data.promised
        if behind < window.size and not _is_end(window, behind, data):
            true = there
    if data.mpeg:
        first = _first_mpeg_frame(window, data.body, data.body + true, search=True)
        if first is not None:
            found = _of_mpeg(window, first, data.body + true, embedded=True)
            return Container(found.view, cut or found.cut, None, found.at_least, found.duration_s)
    if true == data.promised:
        return Container(cut=cut)
    if data.enlarge is not None and true > 0xFFFF_0000:
        return Container(Pieces([data.enlarge(true), (window.file, data.body, true)]), cut)
    return Container(_overlaid(window.file, data.body + true, data.patch(true)), cut)


def _is_placeholder(size: int, wide: bool) -> bool:
    limit = 2**48 if wide else _PLACEHOLDER_FROM
    return size <= 0 or size >= limit or size % _PLACEHOLDER_STEP == 0


def _is_end(window: _Window, position: int, data: _Data) -> bool:
    """Is what comes after the samples something else than samples: another chunk, a tag, padding?"""
    for start in (position, position + 1):  # most writers pad chunks to an even number of bytes
        head = window.at(start, 8)
        if len(head) < 8 or head[:3] in (b"TAG", b"ID3") or head == b"APETAGEX":
            return True
        fits = data.wide or start + 8 + int.from_bytes(head[4:], data.order) <= window.size + _SLACK
        if fits and all(32 <= byte < 127 for byte in head[:4]):
            return True
    # A recording may well begin with silence, so zeros are padding only where samples came before them.
    ends = window.at(position, _JUNK) + window.at(max(position, window.size - _JUNK), _JUNK)
    return data.promised > 0 and not any(ends)


def _overlaid(file: BinaryIO, size: int, patches: Sequence[tuple[int, bytes]]) -> Pieces:
    pieces, position = [], 0
    for offset, content in sorted(patches):
        pieces += [(file, position, offset - position), content]
        position = offset + len(content)
    return Pieces([*pieces, (file, position, size - position)])


def _chunks(window: _Window, start: int, order: _Order, wide: bool = False) -> Iterator[tuple[bytes, int, int]]:
    """(name, where its content begins, size) of each chunk"""
    width = 8 if wide else 4
    for _ in range(_MOST_CHUNKS):
        head = window.at(start, 4 + width)
        if len(head) < 4 + width:
            return
        length = int.from_bytes(head[4:], order)
        yield head[:4], start + 4 + width, length
        start += 4 + width + length + (0 if wide else length % 2)


def _wave(window: _Window) -> _Data | None:
    """RIFF, RIFX (big-endian), RF64 and BW64"""
    magic = window.at(0, 4)
    order = "big" if magic == b"RIFX" else "little"
    wide = magic in (b"RF64", b"BW64")
    if window.at(8, 4) != b"WAVE":
        return None
    form, long_sizes, form_chunk = window.number(4, 4, order) + 8, None, b""
    for name, body, length in _chunks(window, 12, order):
        if name == b"ds64" and wide:
            long_sizes, form = body, window.number(body, 8, order) + 8
        elif name == b"fmt ":
            form_chunk = window.at(body, min(length, 1024))
        elif name == b"data":
            return _wave_data(window, order, form, long_sizes, form_chunk, body, length)
    return None


def _wave_data(
    window: _Window, order: _Order, form: int, long_sizes: int | None, form_chunk: bytes, body: int, length: int
) -> _Data:
    align = max(1, int.from_bytes(form_chunk[12:14], order))
    promised = length
    if long_sizes is not None and length == 0xFFFF_FFFF:
        promised = window.number(long_sizes + 8, 8, order)

    def patch(true: int) -> list[tuple[int, bytes]]:
        whole = body + true - 8
        if long_sizes is not None:
            sizes = whole.to_bytes(8, order) + true.to_bytes(8, order) + (true // align).to_bytes(8, order)
            return [(long_sizes, sizes), (body - 4, b"\xff\xff\xff\xff")]
        return [(4, whole.to_bytes(4, order)), (body - 4, true.to_bytes(4, order))]

    def enlarge(true: int) -> bytes:
        sizes = (true + 72 + len(form_chunk)).to_bytes(8, "little") + true.to_bytes(8, "little")
        sizes += (true // align).to_bytes(8, "little") + bytes(4)
        head = b"RF64\xff\xff\xff\xffWAVEds64" + len(sizes).to_bytes(4, "little") + sizes
        return head + b"fmt " + len(form_chunk).to_bytes(4, "little") + form_chunk + b"data\xff\xff\xff\xff"

    return _Data(
        body,
        promised,
        form,
        patch,
        wide=long_sizes is not None,
        mpeg=int.from_bytes(form_chunk[:2], order) in _WAVE_FORMATS_OF_MPEG,
        order=order,
        enlarge=enlarge if long_sizes is None and order == "little" else None,
    )


def _aiff(window: _Window) -> _Data | None:
    if window.at(8, 4) not in (b"AIFF", b"AIFC"):
        return None
    count_at, frame = None, 0
    for name, body, length in _chunks(window, 12, "big"):
        if name == b"COMM":
            count_at = body + 2
            frame = window.number(body, 2, "big") * ((window.number(body + 6, 2, "big") + 7) // 8)
            if window.at(8, 4) == b"AIFC" and window.at(body + 18, 4) not in (b"NONE", b"sowt", b"twos"):
                frame = 0
        elif name == b"SSND":

            def patch(true: int, body: int = body, count_at: int | None = count_at, frame: int = frame) -> list:
                sizes = [(4, (body + 8 + true - 8).to_bytes(4, "big")), (body - 4, (true + 8).to_bytes(4, "big"))]
                return sizes + ([(count_at, (true // frame).to_bytes(4, "big"))] if count_at and frame else [])

            return _Data(body + 8, max(0, length - 8), window.number(4, 4, "big") + 8, patch, order="big")
    return None


def _au(window: _Window) -> _Data | None:
    body, promised = window.number(4, 4, "big"), window.number(8, 4, "big")
    return _Data(body, promised, None, lambda true: [(8, true.to_bytes(4, "big"))], order="big")


def _caf(window: _Window) -> _Data | None:
    for name, body, length in _chunks(window, 8, "big", wide=True):
        if name == b"data":  # four bytes count the edits
            length = 0 if length >= 2**63 else max(0, length - 4)
            return _Data(
                body + 4,
                length,
                None,
                lambda true, body=body: [(body - 8, (true + 4).to_bytes(8, "big"))],
                wide=True,
                order="big",
            )
    return None


def _w64(window: _Window) -> _Data | None:
    form, position = window.number(16, 8, "little"), 40
    for _ in range(_MOST_CHUNKS):
        head = window.at(position, 24)
        if len(head) < 24:
            return None
        length = int.from_bytes(head[16:], "little")
        if head[:16] == _W64_DATA:

            def patch(true: int, position: int = position) -> list[tuple[int, bytes]]:
                whole = (position + 24 + true).to_bytes(8, "little")
                return [(16, whole), (position + 16, (true + 24).to_bytes(8, "little"))]

            return _Data(position + 24, max(0, length - 24), form, patch, wide=True)
        position += max(24, length + -length % 8)
    return None


_CHUNKED: tuple[tuple[bytes, Callable[[_Window], _Data | None]], ...] = (
    (b"RIFF", _wave),
    (b"RIFX", _wave),
    (b"RF64", _wave),
    (b"BW64", _wave),
    (b"FORM", _aiff),
    (b".snd", _au),
    (b"caff", _caf),
    (_W64_FORM, _w64),
)

# Ogg


def _ogg_links(window: _Window) -> tuple[tuple[int, int], ...]:
    """(start, length) of the streams that follow one another, as recorders and radio stations write them. Streams that
    run side by side, such as sound and picture, begin together and are one link."""
    starts, position, at_begin = [], 0, False
    while position < window.size:
        head = window.at(position, 27 + 255)
        if head[:4] != b"OggS" or len(head) < 27:
            found = window.at(position + 1, _JUNK).find(b"OggS")
            position += 1 + found if found >= 0 else _JUNK - 3
            continue
        begins = bool(head[5] & 2)
        if begins and not at_begin:
            starts.append(position)
        at_begin = begins
        position += 27 + head[26] + sum(head[27 : 27 + head[26]])
    ends = [*starts[1:], window.size]
    return tuple((start, end - start) for start, end in zip(starts, ends, strict=True))


# MPEG audio

_KBITS = {  # (MPEG 1?, layer) -> kbit/s by index
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


@dataclass(frozen=True)
class _Frame:
    """One MPEG frame: bytes, samples, Hz, layer, whether MPEG 1, whether mono."""

    size: int
    samples: int
    rate: int
    layer: int
    mpeg1: bool
    mono: bool

    @property
    def kind(self) -> tuple[int, int, bool]:
        """What does not change within a stream."""
        return self.rate, self.layer, self.mpeg1

    @property
    def side_bytes(self) -> int:
        """Bytes between the header and the Xing tag of a layer III frame."""
        return (17 if self.mono else 32) if self.mpeg1 else (9 if self.mono else 17)


_frames_by_header: dict[bytes, _Frame | None] = {}


def _mpeg_frame(header: bytes) -> _Frame | None:
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    key = header[1:3] + bytes([header[3] >> 6])
    if key not in _frames_by_header:  # at most some thousand
        _frames_by_header[key] = _read_mpeg_header(header)
    return _frames_by_header[key]


def _read_mpeg_header(header: bytes) -> _Frame | None:
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate_index, kbit_index = header[2] >> 2 & 3, header[2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or kbit_index in (0, 15):
        return None
    mpeg1 = version == 3
    rate, bits = _MPEG_RATES[version][rate_index], 1000 * _KBITS[mpeg1, layer][kbit_index]
    padding = header[2] >> 1 & 1
    if layer == 1:
        size, samples = (12 * bits // rate + padding) * 4, 384
    else:
        samples = 1152 if layer == 2 or mpeg1 else 576
        size = samples // 8 * bits // rate + padding
    return _Frame(size, samples, rate, layer, mpeg1, header[3] >> 6 == 3)


def _behind_tags(window: _Window, position: int) -> int:
    """Behind ID3v2 tags and the zeros after them"""
    while (head := window.at(position, 10))[:3] == b"ID3" and len(head) == 10:
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        position += 10 + size + (10 if head[5] & 0x10 else 0)
    if position:
        while (part := window.at(position, 4096)) and not any(part):
            position += len(part)
        position += len(part) - len(part.lstrip(b"\0"))
    return position


def _first_mpeg_frame(window: _Window, start: int, end: int, search: bool) -> int | None:
    position = start
    while position < min(start + _JUNK, end):
        frame = _mpeg_frame(window.at(position, 4))
        if frame is not None and _chain(window, position, end, frame, 4 if position > start else 2):
            return position
        if not search:
            return None
        found = window.at(position + 1, _JUNK).find(b"\xff")
        if found < 0:
            return None
        position += 1 + found
    return None


def _chain(window: _Window, position: int, end: int, frame: _Frame, wanted: int) -> bool:
    """Do so many frames of one kind follow each other (fewer only if the file ends with them)?"""
    for _ in range(wanted):
        following = _mpeg_frame(window.at(position, 4))
        if following is None or following.kind != frame.kind:
            return False
        position += following.size
        if position + 4 > end:
            return True
    return True


def _count_mpeg_frames(window: _Window, position: int, end: int, kind: tuple[int, int, bool]) -> tuple[int, int]:
    """(whole frames, where the last one ends); tags and damaged stretches between them are skipped"""
    count, last = 0, position
    while position + 4 <= end:
        frame = _mpeg_frame(window.at(position, 4))
        if frame is not None and frame.kind == kind:
            if position + frame.size > end:
                break
            position += frame.size
            count, last = count + 1, position
            continue
        behind = _behind_tags(window, position)
        if behind > position and behind > 0 and window.at(position, 3) == b"ID3":
            position = behind
            continue
        found = window.at(position + 1, _JUNK).find(b"\xff")
        position += 1 + found if found >= 0 else _JUNK
        while position + 4 <= end and not (
            (frame := _mpeg_frame(window.at(position, 4)))
            and frame.kind == kind
            and _chain(window, position, end, frame, 2)
        ):
            found = window.at(position + 1, _JUNK).find(b"\xff")
            position += 1 + found if found >= 0 else _JUNK
    return count, last


def _of_mpeg(window: _Window, first: int, end: int, embedded: bool = False) -> Container:
    header = window.at(first, 4)
    frame = _mpeg_frame(header)
    assert frame is not None  # `first` is where one was found
    count, last = _count_mpeg_frames(window, first, end, frame.kind)
    if frame.layer != 3:
        view = Pieces([(window.file, first, end - first)]) if embedded else None
        return Container(view, at_least=count * frame.samples, duration_s=count * frame.samples / frame.rate)
    tag = first + 4 + frame.side_bytes
    tagged = window.at(tag, 4) in (b"Xing", b"Info")
    flags = window.number(tag + 4, 4, "big") if tagged else 0
    sound = count - tagged
    duration_s = sound * frame.samples / frame.rate
    if not flags & 1:  # no count: put a frame with one before the others
        start = first + frame.size if tagged else first
        view = Pieces([_xing_frame(header, frame, sound, last - start), (window.file, start, end - start)])
        return Container(view, at_least=sound * frame.samples, duration_s=duration_s)
    promised = window.number(tag + 8, 4, "big")
    size = window.number(tag + 12, 4, "big") if flags & 2 else None
    lost = promised > sound + 1 and (size is None or size > last - first + frame.size + 1)
    cut = f"its header promises {promised} frames, {max(0, sound)} are there" if lost else ""
    if lost or (abs(promised - sound) <= 1 and not embedded):
        return Container(cut=cut, duration_s=duration_s)
    patch = [(tag + 8, sound.to_bytes(4, "big"))]
    if flags & 2:
        patch.append((tag + 12, (last - first).to_bytes(4, "big")))
    view = _overlaid(window.file, end, patch)
    return Container(Pieces([(view, first, end - first)]), at_least=(sound - 3) * frame.samples, duration_s=duration_s)


def _xing_frame(header: bytes, frame: _Frame, count: int, size: int) -> bytes:
    """A silent layer III frame that tells the number of frames and bytes behind it, without times to cut off."""
    # No checksum, no padding, and a bit rate (index 9) whose frames have room for the tag.
    header = bytes([0xFF, header[1] | 1, 9 << 4 | header[2] & 0x0C, header[3]])
    silent = _mpeg_frame(header)
    assert silent is not None
    tag = b"Xing" + (3).to_bytes(4, "big") + count.to_bytes(4, "big") + (size + silent.size).to_bytes(4, "big")
    return (header + bytes(frame.side_bytes) + tag).ljust(silent.size, b"\0")
