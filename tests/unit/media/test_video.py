"""Videos are decoded again: pictures, colours, times and layout are what was asked for, or there is no file."""

from __future__ import annotations

import resource
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from poorwill.errors import Cancelled, Corrupt, UsageError, WorkspaceError
from poorwill.media.video import CRF_MAX, FPS_MAX, encode, exact_fps, probe

Frames = npt.NDArray[np.uint8]
NTSC_FILM = Fraction(24000, 1001)


def moving(n: int, height: int = 96, width: int = 160) -> Frames:
    """A smooth wave that moves to the right over a vertical gradient: no frame looks like another."""
    across = np.arange(width)[None, None, :]
    down = np.arange(height)[None, :, None]
    wave_ = 128 + 100 * np.sin(2 * np.pi * (across - 5 * np.arange(n)[:, None, None]) / width)
    frames = np.empty((n, height, width, 3), np.uint8)
    frames[..., 0] = wave_
    frames[..., 1] = 255 * down / height
    frames[..., 2] = 255 - wave_ * 0.5
    return frames


def noise(n: int) -> Frames:
    """What takes the most bytes, so that any place in the file lies within some picture."""
    return np.random.default_rng(0).integers(0, 256, (n, 64, 64, 3), np.uint8)


def decoded(path: Path) -> Frames:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def psnr_db(found: Frames, expected: Frames) -> float:
    error = np.mean((found.astype(float) - expected) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def boxes(data: bytes) -> list[str]:
    """The names of an MP4's outermost boxes, in order (ISO/IEC 14496-12, 4.2)."""
    names, at = [], 0
    while at < len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        assert size >= 8, "no test writes boxes of 64-bit sizes"
        names.append(name.decode("ascii"))
        at += size
    assert at == len(data)
    return names


@contextmanager
def file_bytes_max(limit: int) -> Iterator[None]:
    """Every write beyond so many bytes of a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_pictures_come_back_in_order(tmp_path: Path) -> None:
    """Every frame is close to the one given, and far from its neighbours."""
    frames = moving(30)
    encode(frames, 24, tmp_path / "v.mp4")
    found = decoded(tmp_path / "v.mp4")
    assert found.shape == frames.shape
    assert min(map(psnr_db, found, frames)) > 38
    assert max(map(psnr_db, found[1:], frames[:-1])) < 32


def test_a_better_crf_is_better(tmp_path: Path) -> None:
    """The quality asked for reaches the encoder: crf 1 beats 18 beats 40, in pictures and in bytes."""
    frames = moving(6)
    rng = np.random.default_rng(1)
    frames = (frames.astype(int) + rng.integers(-20, 20, frames.shape)).clip(0, 255).astype(np.uint8)
    facts = {crf: encode(frames, 24, tmp_path / f"{crf}.mp4", crf=crf) for crf in (1, 18, 40)}
    quality = {crf: psnr_db(decoded(tmp_path / f"{crf}.mp4"), frames) for crf in facts}
    assert quality[1] > quality[18] > quality[40]
    assert facts[1].bytes > facts[18].bytes > facts[40].bytes


@pytest.mark.parametrize("side", [64, 720], ids=["small", "as high as HD"])
@pytest.mark.parametrize(
    ("colour", "bt709"),
    [
        ((255, 0, 0), (63, 102, 240)),
        ((0, 255, 0), (173, 42, 26)),
        ((0, 0, 255), (32, 240, 118)),
        ((255, 255, 255), (235, 128, 128)),
        ((0, 0, 0), (16, 128, 128)),
    ],
    ids=["red", "green", "blue", "white", "black"],
)
def test_colours(tmp_path: Path, side: int, colour: tuple[int, int, int], bt709: tuple[int, int, int]) -> None:
    """As RGB within 3 levels; and as Y'CbCr by the numbers of ITU-R BT.709 in tv range, which the tags name.

    The tags alone, or the numbers alone, would look right here and wrong in a player.
    """
    encode(np.full((2, side, 64, 3), colour, np.uint8), 24, tmp_path / "v.mp4")
    assert np.abs(decoded(tmp_path / "v.mp4").astype(int) - colour).max() <= 3
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        tags = (context.color_range, context.colorspace, context.color_primaries, context.color_trc)
        assert tags == (1, 1, 1, 1)  # tv range, and BT.709 three times: ITU-T H.273
        planes = next(container.decode(stream)).to_ndarray().reshape(-1)
    luma, rest = planes[: side * 64], planes[side * 64 :]
    for plane, expected in zip((luma, rest[: rest.size // 2], rest[rest.size // 2 :]), bt709, strict=True):
        assert np.abs(plane.astype(int) - expected).max() <= 2


def test_the_file_plays_while_it_is_read(tmp_path: Path) -> None:
    """The index stands before the pictures, and the codec is one that browsers have."""
    encode(moving(10), 24, tmp_path / "v.mp4")
    names = boxes((tmp_path / "v.mp4").read_bytes())
    assert names[0] == "ftyp"
    assert names.index("moov") < names.index("mdat")
    with av.open(str(tmp_path / "v.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.profile, context.pix_fmt) == ("h264", "High", "yuv420p")
        assert len(container.streams) == 1


@pytest.mark.parametrize("n", [1, 2, 3, 25])
@pytest.mark.parametrize(
    ("fps", "exact"),
    [
        (24, Fraction(24)),
        (23.976, NTSC_FILM),
        (Fraction(30000, 1001), Fraction(30000, 1001)),
        (7.5, Fraction(15, 2)),
        (Fraction(1, 3), Fraction(1, 3)),
        (240.0, Fraction(240)),
    ],
    ids=str,
)
def test_times(tmp_path: Path, n: int, fps: float | Fraction, exact: Fraction) -> None:
    """Frame i is shown at i / fps, the last as long as the others, and the whole takes n / fps: exactly."""
    facts = encode(moving(n, 16, 16), fps, tmp_path / "v.mp4")
    assert (facts.frames, facts.fps, facts.seconds) == (n, exact, float(n / exact))
    assert facts == probe(tmp_path / "v.mp4")
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.duration * stream.time_base == n / exact
        assert container.duration == pytest.approx(float(n / exact) * 1e6, abs=1)
        shown = [(frame.pts * frame.time_base, frame.duration * frame.time_base) for frame in container.decode(stream)]
    assert shown == [(number / exact, 1 / exact) for number in range(n)]


@pytest.mark.parametrize(
    ("fps", "exact"),
    [
        (23.976, NTSC_FILM),
        (23.98, NTSC_FILM),
        (24000 / 1001, NTSC_FILM),
        (29.97, Fraction(30000, 1001)),
        (47.952, Fraction(48000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (119.88, Fraction(120000, 1001)),
        (24, Fraction(24)),
        (25.0, Fraction(25)),
        (12.5, Fraction(25, 2)),
        (1 / 3, Fraction(1, 3)),
        (0.001, Fraction(1, 1000)),
        (Fraction(2997, 125), Fraction(2997, 125)),
        (FPS_MAX, Fraction(FPS_MAX)),
    ],
)
def test_exact_frame_rates(fps: float | Fraction, exact: Fraction) -> None:
    """The usual names of NTSC's rates mean those; whole and simple ones, and every Fraction, stay."""
    assert exact_fps(fps) == exact


@pytest.mark.parametrize(
    "fps",
    [0, -24, 0.0001, FPS_MAX + 0.01, float("nan"), float("inf"), Fraction(0), Fraction(10**7, 10**6 - 1)],
    ids=str,
)
def test_invalid_frame_rates(tmp_path: Path, fps: float | Fraction) -> None:
    """A UsageError that names the bounds, and no file."""
    with pytest.raises(UsageError, match=r"0\.001 to 240"):
        encode(moving(1), fps, tmp_path / "v.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (moving(2, 96, 161), "even width and height, not 161x96"),
        (moving(2, 95, 160), "even width and height, not 160x95"),
        (moving(2)[:0], "not uint8 of \\(0, 96, 160, 3\\)"),
        (moving(2)[0], "not uint8 of \\(96, 160, 3\\)"),
        (moving(2)[..., :2], "not uint8 of \\(2, 96, 160, 2\\)"),
        (moving(2).astype(np.float32), "not float32"),
        (np.zeros((1, 0, 2, 3), np.uint8), "not uint8 of \\(1, 0, 2, 3\\)"),
        (np.zeros((1, 2, 8194, 3), np.uint8), "not 8194x2"),
    ],
    ids=["odd width", "odd height", "none", "one picture", "two channels", "floats", "no rows", "too wide"],
)
def test_invalid_frames(tmp_path: Path, frames: Frames, words: str) -> None:
    """Refused before anything is written; nothing is cropped, scaled or converted in silence."""
    with pytest.raises(UsageError, match=words):
        encode(frames, 24, tmp_path / "v.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"crf": 0}, {"crf": CRF_MAX + 1}, {"preset": "fastest"}], ids=str)
def test_invalid_options(tmp_path: Path, options: dict[str, int | str]) -> None:
    """Refused, crf 0 too: x264 takes it for lossless, in a profile that browsers do not play."""
    with pytest.raises(UsageError, match=r"crf goes|not a preset"):
        encode(moving(1), 24, tmp_path / "v.mp4", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_any_memory_layout(tmp_path: Path) -> None:
    """Frames that lie backwards, strided, plane by plane, or are read-only come back like any others."""
    frames = moving(12)
    planes = np.ascontiguousarray(frames.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    frozen = frames[::-1]
    frozen.flags.writeable = False
    for name, view in (("strided", frames[::2, ::2, ::2]), ("planes", planes), ("backwards", frozen)):
        assert not view.flags.c_contiguous
        encode(view, 24, tmp_path / f"{name}.mp4")
        assert min(map(psnr_db, decoded(tmp_path / f"{name}.mp4"), view)) > 36, name


def test_progress(tmp_path: Path) -> None:
    """Each frame is reported once, in order, and the target appears when all are in it."""
    told: list[tuple[int, int]] = []

    def on_frame(done: int, total: int) -> None:
        assert not (tmp_path / "v.mp4").exists()
        told.append((done, total))

    encode(moving(7), 24, tmp_path / "v.mp4", on_frame=on_frame)
    assert told == [(number, 7) for number in range(1, 8)]
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


@pytest.mark.parametrize("call", [1, 5, 10, 11], ids=["before the first", "midway", "before the last", "at the end"])
@pytest.mark.parametrize("old", [None, b"an older video"], ids=["new", "over an older one"])
def test_cancelling_leaves_no_file(tmp_path: Path, call: int, old: bytes | None) -> None:
    """What `check` raises comes out as it is; an older file stays, and nothing else is there."""
    target = tmp_path / "v.mp4"
    if old is not None:
        target.write_bytes(old)
    stop, calls = Cancelled("stop"), iter(range(1, 100))

    def check() -> None:
        if next(calls) == call:
            raise stop

    with pytest.raises(Cancelled) as caught:
        encode(moving(10), 24, target, check=check)
    assert caught.value is stop
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({} if old is None else {"v.mp4": old})


def test_what_was_written_is_read_before_it_gets_its_name(tmp_path: Path) -> None:
    """A file that lost a frame on its way to the disk does not become the video, though it plays."""
    (tmp_path / "shorter").mkdir()
    encode(moving(9), 24, tmp_path / "shorter" / "v.mp4")
    calls = iter(range(1, 100))

    def check() -> None:
        if next(calls) == 11:  # all ten are written
            (written,) = tmp_path.glob(".*.mp4")
            written.write_bytes((tmp_path / "shorter" / "v.mp4").read_bytes())

    with pytest.raises(Corrupt, match=r"frames=9.*expected.*frames=10"):
        encode(moving(10), 24, tmp_path / "v.mp4", check=check)
    assert [path.name for path in tmp_path.iterdir()] == ["shorter"]


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    """One line names target and reason, wherever in the file the room ends; an older file stays."""
    frames = noise(8)
    size = encode(frames, 24, tmp_path / "v.mp4").bytes
    old = (tmp_path / "v.mp4").read_bytes()
    for limit in (10, size // 2, size - 1):
        with file_bytes_max(limit), pytest.raises(WorkspaceError, match=r"v\.mp4: File too large") as caught:
            encode(frames, 24, tmp_path / "v.mp4")
        assert "\n" not in str(caught.value)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"v.mp4": old}


def test_invalid_targets(tmp_path: Path) -> None:
    """A missing folder, and a folder where the file should be: told in one line, with nothing left beside it."""
    (tmp_path / "folder").mkdir()
    for target, words in ((tmp_path / "missing" / "v.mp4", "No such file"), (tmp_path / "folder", "directory")):
        with pytest.raises(WorkspaceError, match=f"{target}: .*{words}"):
            encode(moving(2), 24, target)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_probe_reads_other_videos_too(tmp_path: Path) -> None:
    """Facts come from the file, not from what this module would have written."""
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, width=48, height=32)
        for pixels in moving(5, 32, 48):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    with pytest.raises(Corrupt, match="no duration"):
        probe(tmp_path / "v.mkv")  # Matroska names none for a stream
    with av.open(str(tmp_path / "v.mkv")) as given, av.open(str(tmp_path / "v.mov"), "w") as container:
        copy = container.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = copy
                container.mux(packet)
    facts = probe(tmp_path / "v.mov")
    assert (facts.width, facts.height, facts.frames, facts.codec) == (48, 32, 5, "mpeg4")
    assert (facts.fps, facts.seconds) == (Fraction(10), 0.5)
    assert facts.bytes == (tmp_path / "v.mov").stat().st_size


def hide_the_second_half(data: bytes) -> bytes:
    """The edit list (ISO/IEC 14496-12, 8.6.6) shows half the time that the index has frames for."""
    at = data.index(b"elst") + 12
    shown = int.from_bytes(data[at : at + 4], "big")
    return data[:at] + (shown // 2).to_bytes(4, "big") + data[at + 4 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "no video": lambda data: b"<Error><Code>AccessDenied</Code></Error>" * 99,
    "half of it": lambda data: data[: len(data) // 2],
    "without its last byte": lambda data: data[:-1],
    "without its index": lambda data: data[:40],
    "half of it hidden": hide_the_second_half,
    "zeros in the middle": lambda data: data[: len(data) // 2] + bytes(len(data) // 4) + data[len(data) * 3 // 4 :],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_videos_are_corrupt(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Corrupt, in one line that names the file, however much of it a player would show."""
    path = tmp_path / "v.mp4"
    encode(noise(8), 24, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Corrupt, match=str(path)) as caught:
        probe(path)
    assert "\n" not in str(caught.value)


def test_a_guessed_picture_is_corrupt(tmp_path: Path) -> None:
    """A decoder conceals what it cannot read and goes on: that is told, for a good part of single changed bytes."""
    path = tmp_path / "v.mp4"
    facts = encode(noise(8), 24, path)
    whole = path.read_bytes()
    pictures = whole.index(b"mdat") + 1000
    concealed = 0
    for at in range(pictures, len(whole), (len(whole) - pictures) // 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            assert probe(path) == facts
        except Corrupt as error:
            concealed += "is damaged" in str(error)
    assert concealed >= 4


def test_a_file_with_sound_alone(tmp_path: Path) -> None:
    """A file that FFmpeg reads well, with nothing to see in it."""
    with wave.open(str(tmp_path / "s.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    with pytest.raises(Corrupt, match="holds no video"):
        probe(tmp_path / "s.wav")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    """A missing file and a folder are not corrupt: they are not there to be read."""
    for path, words in ((tmp_path / "missing", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(WorkspaceError, match=words):
            probe(path)
