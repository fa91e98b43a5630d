"""What the header of an audio file says about its length, and how much of that is true.

Writers that cannot seek back (pipes, crashed recorders) leave placeholders in a header, and an MP3 file does not have
to state its length at all; libsndfile then estimates one and stops there. [`inspect_container`] finds the samples from
the structure of the file. If the header is wrong, it returns a corrected view to read instead. It calls a file
truncated only if the header proves it.
"""

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

_SLACK = 256
"""Bytes by which a size may exceed the file: some writers count their own header, which loses no sound."""

_PLACEHOLDER_FROM = 0x7F00_0000
"""32-bit sizes from here on come from writers that do not know the length (0x7FFFF000, 0x80000000, 0xFFFFFFFF)."""

_PLACEHOLDER_STEP = 1 << 24
"""Round sizes are placeholders as well; a real size is rarely a multiple of 16 MiB."""

_JUNK = 64 * 1024
"""Bytes to search for the first MP3 frame."""

_MOST_CHUNKS = 10_000

_WAVE_FORMATS_OF_MPEG = (0x50, 0x55)

_Order = Literal["little", "big"]


@dataclass(frozen=True)
class Container:
    """What is known about a file.

    Args:
        view: what to decode instead of the file; None: the file itself.
        cut: how the header proves that the end of the file is missing, as the end of a sentence; "" if it does not.
        frames: samples per channel that must be present according to a FLAC header; None: unknown.
        at_least: samples that the frames of an MPEG file hold; a decoder that returns clearly fewer stopped early.
        duration_s: duration of an MPEG file according to its frames.
        may_stop_short: whether the file may end within a frame, which a decoder takes for damage.
        links: (start, length) of each stream in a chained Ogg file.
    """

    view: "Pieces | None" = None
    cut: str = ""
    frames: int | None = None
    at_least: int = 0
    duration_s: float | None = None
    may_stop_short: bool = False
    links: tuple[tuple[int, int], ...] = ()


def inspect_container(file: BinaryIO, size: int, search: bool = False) -> Container:
    """Read the header of a seekable file.

    Args:
        file: the file.
        size: its size in bytes.
        search: whether to look for MPEG frames behind other bytes, in a file that no decoder recognizes.
    """
    window = _Window(file, size)
    head = window.at(0, 24)
    if head.startswith(b".snd"):
        return _of_chunks(window, _au(window))
    for magic, layout in _LAYOUTS.items():
        if head.startswith(magic):
            found = _find_data(window, layout)
            return Container() if found is None else _of_chunks(window, found)

    start = _after_tags(window, 0)
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
    """A read-only file made of bytes and of ranges `(file, start, length)` of another file."""

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
        """Number of bytes not read yet."""
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
    """Random access to a file through large reads."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size
        self._start, self._held = 0, b""

    def at(self, position: int, count: int) -> bytes:
        """Return `count` bytes, or fewer at the end of the file."""
        offset = position - self._start
        if offset < 0 or offset + count > len(self._held):
            self.file.seek(position)
            self._start, self._held, offset = position, self.file.read(max(count, _JUNK)), 0
        return self._held[offset : offset + count]

    def number(self, position: int, width: int, order: _Order) -> int:
        return int.from_bytes(self.at(position, width), order)


# Chunks: WAV, RF64, AIFF, AU, CAF, W64


@dataclass(frozen=True)
class _Layout:
    """How a format arranges its chunks, each a name, a size and its content.

    Args:
        start: position of the first chunk.
        data: name of the chunk with the samples.
        skip: bytes of that chunk before the samples.
        kinds: allowed bytes at position 8.
        order: byte order of all numbers.
        size_bytes: width of a size.
        align: chunks are padded to a multiple of this many bytes.
        own_header: bytes of its own header that a chunk's size includes.
        form_at: position of the size of the whole file; None: there is none.
        form_skip: bytes at the start of the file that this size leaves out.
    """

    start: int
    data: bytes
    skip: int = 0
    kinds: tuple[bytes, ...] = ()
    order: _Order = "little"
    size_bytes: int = 4
    align: int = 2
    own_header: int = 0
    form_at: int | None = 4
    form_skip: int = 8


_WAVE = (b"WAVE",)
_LAYOUTS = {
    b"RIFF": _Layout(12, b"data", kinds=_WAVE),
    b"RIFX": _Layout(12, b"data", kinds=_WAVE, order="big"),
    b"RF64": _Layout(12, b"data", kinds=_WAVE),
    b"BW64": _Layout(12, b"data", kinds=_WAVE),
    b"FORM": _Layout(12, b"SSND", skip=8, kinds=(b"AIFF", b"AIFC"), order="big"),
    b"caff": _Layout(8, b"data", skip=4, order="big", size_bytes=8, align=1, form_at=None),
    b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00": _Layout(  # Sony Wave64, whose names are GUIDs
        start=40,
        data=b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a",
        size_bytes=8,
        align=8,
        own_header=24,
        form_at=16,
        form_skip=0,
    ),
}
"""First bytes of a file -> its layout."""


@dataclass(frozen=True)
class _Size:
    """A number in a header that follows from the bytes of sound: (bytes + extra) // unit."""

    position: int
    width: int
    extra: int = 0
    unit: int = 1


@dataclass
class _Data:
    """The chunk with the samples.

    Args:
        body: position of the first sample.
        promised: bytes of samples according to the header.
        sizes: the numbers in the header that depend on them.
        order: byte order of these numbers.
        form_end: where the whole file should end according to its header; None: not stated.
        wide: whether sizes have 64 bits.
        mpeg: whether the samples are MPEG frames.
        enlarge: (bytes) -> a header with 64-bit sizes, for more sound than this one can describe.
    """

    body: int
    promised: int
    sizes: list[_Size]
    order: _Order
    form_end: int | None = None
    wide: bool = False
    mpeg: bool = False
    enlarge: Callable[[int], bytes] | None = None


def _chunks(window: _Window, layout: _Layout) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk, the position of its content and the size of its content."""
    position, name_bytes = layout.start, len(layout.data)
    for _ in range(_MOST_CHUNKS):
        body = position + name_bytes + layout.size_bytes
        head = window.at(position, body - position)
        if len(head) < body - position:
            return
        length = max(0, int.from_bytes(head[name_bytes:], layout.order) - layout.own_header)
        yield head[:name_bytes], body, length
        position = body + length + -length % layout.align


def _find_data(window: _Window, layout: _Layout) -> _Data | None:
    if layout.kinds and window.at(8, 4) not in layout.kinds:
        return None

    before: dict[bytes, tuple[int, int]] = {}  # chunks before the samples: name -> (position, size)
    for name, body, length in _chunks(window, layout):
        if name == layout.data:
            break
        before[name] = body, length
    else:
        return None

    sound, width = body + layout.skip, layout.size_bytes
    sizes = [_Size(body - width, width, layout.skip + layout.own_header)]
    data = _Data(sound, max(0, length - layout.skip), sizes, layout.order, wide=width == 8)
    if layout.form_at is not None:
        data.form_end = window.number(layout.form_at, width, layout.order) + layout.form_skip
        sizes.append(_Size(layout.form_at, width, sound - layout.form_skip))

    if layout.kinds == _WAVE:
        _complete_wave(window, data, before)
    elif b"COMM" in before:
        _complete_aiff(window, data, before[b"COMM"][0])
    return data


def _complete_wave(window: _Window, data: _Data, before: dict[bytes, tuple[int, int]]) -> None:
    """Add what the `fmt ` chunk and the 64-bit sizes of a WAV file say."""
    position, length = before.get(b"fmt ", (0, 0))
    form = window.at(position, min(length, 1024))
    data.mpeg = int.from_bytes(form[:2], data.order) in _WAVE_FORMATS_OF_MPEG
    align = max(1, int.from_bytes(form[12:14], data.order))

    if b"ds64" in before and data.promised == 0xFFFF_FFFF:
        sizes = before[b"ds64"][0]
        data.form_end, data.promised = window.number(sizes, 8, data.order) + 8, window.number(sizes + 8, 8, data.order)
        data.sizes = [_Size(sizes, 8, data.body - 8), _Size(sizes + 8, 8), _Size(sizes + 16, 8, unit=align)]
        data.wide = True
    elif data.order == "little":

        def enlarge(true: int) -> bytes:
            numbers = (true + 72 + len(form), true, true // align)
            sizes = b"".join(number.to_bytes(8, "little") for number in numbers) + bytes(4)
            head = b"RF64\xff\xff\xff\xffWAVEds64" + len(sizes).to_bytes(4, "little") + sizes
            return head + b"fmt " + len(form).to_bytes(4, "little") + form + b"data\xff\xff\xff\xff"

        data.enlarge = enlarge


def _complete_aiff(window: _Window, data: _Data, common: int) -> None:
    """Add the number of frames, which the `COMM` chunk of uncompressed AIFF files states."""
    channels, bits = window.number(common, 2, "big"), window.number(common + 6, 2, "big")
    frame = channels * ((bits + 7) // 8)
    compressed = window.at(8, 4) == b"AIFC" and window.at(common + 18, 4) not in (b"NONE", b"sowt", b"twos")
    if frame and not compressed:
        data.sizes.append(_Size(common + 2, 4, unit=frame))


def _au(window: _Window) -> _Data:
    return _Data(window.number(4, 4, "big"), window.number(8, 4, "big"), [_Size(8, 4)], "big")


def _of_chunks(window: _Window, data: _Data) -> Container:
    present = max(0, window.size - data.body)
    missing = data.promised - present
    true, cut = data.promised, ""
    if missing > 0:
        true = present
        whole_by_form = data.form_end is not None and (
            data.form_end <= window.size + _SLACK or _is_placeholder(data.form_end - 8, data.wide)
        )
        if missing > _SLACK and not whole_by_form and not _is_placeholder(data.promised, data.wide):
            cut = f"its header promises {missing} more bytes of audio"
    elif missing < 0 and not _is_end(window, data.body + data.promised, data):
        true = present

    if data.mpeg:
        first = _first_mpeg_frame(window, data.body, data.body + true, search=True)
        if first is not None:
            found = _of_mpeg(window, first, data.body + true, embedded=True)
            return replace(found, cut=cut or found.cut)
    if true == data.promised:
        return Container(cut=cut)
    if data.enlarge is not None and true > 0xFFFF_0000:
        return Container(Pieces([data.enlarge(true), (window.file, data.body, true)]), cut)

    patches = [
        (size.position, ((true + size.extra) // size.unit).to_bytes(size.width, data.order)) for size in data.sizes
    ]
    return Container(_overlaid(window.file, data.body + true, patches), cut)


def _is_placeholder(size: int, wide: bool) -> bool:
    limit = 2**48 if wide else _PLACEHOLDER_FROM
    return size <= 0 or size >= limit or size % _PLACEHOLDER_STEP == 0


def _is_end(window: _Window, position: int, data: _Data) -> bool:
    """Whether the samples are followed by something else: another chunk, a tag or padding."""
    for start in (position, position + 1):  # most writers pad chunks to an even number of bytes
        head = window.at(start, 8)
        if len(head) < 8 or head[:3] in (b"TAG", b"ID3") or head == b"APETAGEX":
            return True
        fits = data.wide or start + 8 + int.from_bytes(head[4:], data.order) <= window.size + _SLACK
        if fits and all(32 <= byte < 127 for byte in head[:4]):
            return True

    # A recording may start with silence, so zeros are padding only after some samples.
    ends = window.at(position, _JUNK) + window.at(max(position, window.size - _JUNK), _JUNK)
    return data.promised > 0 and not any(ends)


def _overlaid(file: BinaryIO, size: int, patches: Sequence[tuple[int, bytes]]) -> Pieces:
    """The first `size` bytes of a file with some of them (position, bytes) replaced."""
    pieces, position = [], 0
    for offset, content in sorted(patches):
        pieces += [(file, position, offset - position), content]
        position = offset + len(content)
    return Pieces([*pieces, (file, position, size - position)])


# Ogg


def _ogg_links(window: _Window) -> tuple[tuple[int, int], ...]:
    """Find the streams that follow one another, as recorders and radio stations write them: (start, length) of each.

    Streams that run in parallel, such as sound and picture, start together and count as one.
    """
    starts, position, after_start = [], 0, False
    while position < window.size:
        head = window.at(position, 27 + 255)
        if head[:4] != b"OggS" or len(head) < 27:
            found = window.at(position + 1, _JUNK).find(b"OggS")
            position += 1 + found if found >= 0 else _JUNK - 3
            continue

        is_start = bool(head[5] & 2)
        if is_start and not after_start:
            starts.append(position)
        after_start = is_start
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
        """What stays the same within a stream."""
        return self.rate, self.layer, self.mpeg1

    @property
    def side_bytes(self) -> int:
        """Bytes between the header and the Xing tag of a layer III frame."""
        if self.mpeg1:
            return 17 if self.mono else 32
        return 9 if self.mono else 17


@functools.lru_cache(4096)
def _mpeg_frame(header: bytes) -> _Frame | None:
    """Parse the four bytes of a frame header; None: this is no frame."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate_index, kbit_index = header[2] >> 2 & 3, header[2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or kbit_index in (0, 15):
        return None

    mpeg1, padding = version == 3, header[2] >> 1 & 1
    rate, bits = _MPEG_RATES[version][rate_index], 1000 * _KBITS[mpeg1, layer][kbit_index]
    if layer == 1:
        size, samples = (12 * bits // rate + padding) * 4, 384
    else:
        samples = 1152 if layer == 2 or mpeg1 else 576
        size = samples // 8 * bits // rate + padding
    return _Frame(size, samples, rate, layer, mpeg1, header[3] >> 6 == 3)


def _after_tags(window: _Window, position: int) -> int:
    """Skip ID3v2 tags and the zeros after them."""
    while (head := window.at(position, 10))[:3] == b"ID3" and len(head) == 10:
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        position += 10 + size + (10 if head[5] & 0x10 else 0)
    if position:
        while (part := window.at(position, 4096)) and not any(part):
            position += len(part)
        position += len(part) - len(part.lstrip(b"\0"))
    return position


def _next_sync(window: _Window, position: int) -> int:
    """The next position where a frame may start."""
    found = window.at(position + 1, _JUNK).find(b"\xff")
    return position + (1 + found if found >= 0 else _JUNK)


def _first_mpeg_frame(window: _Window, start: int, end: int, search: bool) -> int | None:
    position = start
    while position < min(start + _JUNK, end):
        if _chain(window, position, end, 4 if position > start else 2):
            return position
        if not search:
            return None
        position = _next_sync(window, position)
    return None


def _chain(window: _Window, position: int, end: int, wanted: int) -> bool:
    """Whether this many frames of one kind follow each other (fewer only if the file ends after them)."""
    kinds = set()
    for _ in range(wanted):
        frame = _mpeg_frame(window.at(position, 4))
        if frame is None:
            return False
        kinds.add(frame.kind)
        position += frame.size
        if position + 4 > end:
            break
    return len(kinds) == 1


def _count_mpeg_frames(window: _Window, position: int, end: int, kind: tuple[int, int, bool]) -> tuple[int, int]:
    """Count whole frames and find where the last one ends, skipping tags and damaged parts between them."""
    count, last, lost = 0, position, False
    while position + 4 <= end:
        frame = _mpeg_frame(window.at(position, 4))
        if frame is not None and frame.kind == kind and (not lost or _chain(window, position, end, 2)):
            position += frame.size
            if position > end:
                break
            count, last, lost = count + 1, position, False
        elif window.at(position, 3) == b"ID3":
            position = max(position + 1, _after_tags(window, position))
        else:
            position, lost = _next_sync(window, position), True
    return count, last


def _of_mpeg(window: _Window, first: int, end: int, embedded: bool = False) -> Container:
    header = window.at(first, 4)
    frame = _mpeg_frame(header)
    assert frame is not None  # `first` is the position of a frame
    count, last = _count_mpeg_frames(window, first, end, frame.kind)
    if frame.layer != 3:
        view = Pieces([(window.file, first, end - first)]) if embedded else None
        return Container(view, at_least=count * frame.samples, duration_s=count * frame.samples / frame.rate)

    tag = first + 4 + frame.side_bytes
    tagged = window.at(tag, 4) in (b"Xing", b"Info")
    flags = window.number(tag + 4, 4, "big") if tagged else 0
    sound = count - tagged
    duration_s = sound * frame.samples / frame.rate
    if not flags & 1:  # no count: put a frame with one in front
        start = first + frame.size if tagged else first
        view = Pieces([_xing_frame(header, frame, sound, last - start), (window.file, start, end - start)])
        return Container(view, at_least=sound * frame.samples, duration_s=duration_s)

    promised = window.number(tag + 8, 4, "big")
    size = window.number(tag + 12, 4, "big") if flags & 2 else None
    lost = promised > sound + 1 and (size is None or size > last - first + frame.size + 1)
    if lost or (abs(promised - sound) <= 1 and not embedded):
        cut = f"its header promises {promised} frames, but only {max(0, sound)} are present" if lost else ""
        return Container(cut=cut, duration_s=duration_s)

    patches = [(tag + 8, sound.to_bytes(4, "big"))]
    if flags & 2:
        patches.append((tag + 12, (last - first).to_bytes(4, "big")))
    view = _overlaid(window.file, end, patches)
    return Container(Pieces([(view, first, end - first)]), at_least=(sound - 3) * frame.samples, duration_s=duration_s)


def _xing_frame(header: bytes, frame: _Frame, count: int, size: int) -> bytes:
    """Make a silent layer III frame that states how many frames and bytes follow, without encoder delays."""
    # No checksum, no padding, and a bit rate (index 9) whose frames have room for the tag.
    header = bytes([0xFF, header[1] | 1, 9 << 4 | header[2] & 0x0C, header[3]])
    silent = _mpeg_frame(header)
    assert silent is not None
    tag = b"Xing" + (3).to_bytes(4, "big") + count.to_bytes(4, "big") + (size + silent.size).to_bytes(4, "big")
    return (header + bytes(frame.side_bytes) + tag).ljust(silent.size, b"\0")
