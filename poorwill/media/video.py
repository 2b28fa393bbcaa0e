"""A video from frames, as a file that plays everywhere.

H.264, because every browser and phone decodes it, mostly in hardware; with 4:2:0 chroma in 8 bits (yuv420p),
because most of them decode no other H.264; in an MP4 whose index (`moov`) stands before the pictures
(faststart), because a player that reads over HTTP otherwise fetches the end before it can show the beginning.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream

from poorwill.errors import Corrupt, UsageError, WorkspaceError
from poorwill.media.frames import Frames, check_frames
from poorwill.store.directory_tree import sync_file, sync_folder

OnFrame = Callable[[int, int], None]
FPS_MAX = 240
SIDE_PIXELS_MAX = 8192
CRF_MAX = 51
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
THREADS_MAX = 8  # of x264: each keeps pictures of its own, and gains little beyond
_NTSC = tuple(Fraction(whole * 1000, 1001) for whole in (24, 30, 48, 60, 120))


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What a file holds: `width` and `height` in pixels, how many `frames`, `fps` exactly, `bytes` of the whole
    file, and the `codec` by FFmpeg's name ("h264"). `seconds` is frames / fps."""

    width: int
    height: int
    frames: int
    fps: Fraction
    seconds: float
    bytes: int
    codec: str


def encode(
    frames: Frames,
    fps: float | Fraction,
    target: str | os.PathLike[str],
    *,
    crf: int = 18,
    preset: str = "veryfast",
    on_frame: OnFrame = lambda done, total: None,
    check: Callable[[], None] = lambda: None,
) -> VideoFacts:
    """Write `frames`, sRGB in uint8 of shape (n, height, width, 3), to `target`, an MP4; what is there is replaced.

    Atomic, durable and idempotent: the file appears under its name when it was decoded again and holds every
    frame. Whatever goes wrong, an older file stays and no other is left. Needs memory for the frames in flight,
    about a hundred, beside those given. The same frames give the same video to the eye, not to the byte: x264's
    choices depend on the processor and, with AVX-512, differ from run to run.

    `fps` lies between 0.001 and FPS_MAX and is exact where it is a Fraction; see `exact_fps` for a float. `crf` is
    x264's quality, from 1 (best) to CRF_MAX; 18 looks like the original. `preset` is one of PRESETS: slower ones
    give smaller files. `on_frame(done, total)` is called after each frame, in this thread; `check()` before each
    and after the last, and what it raises stops the encoding and comes out.

    UsageError for frames, sides that are odd (yuv420p halves them), or options that cannot be; WorkspaceError if
    the file cannot be written, with the reason; Corrupt if it does not hold what was given.
    """
    rate = exact_fps(fps)
    _require_encodable(frames, crf, preset)
    target = Path(target)
    temporary = target.with_name(f".{secrets.token_hex(8)}.mp4")
    try:
        _write(frames, rate, temporary, {"crf": str(crf), "preset": preset}, on_frame, check)
        check()
        facts = _require_whole(frames, rate, target, probe(temporary))
        _place(temporary, target)
        return facts
    except av.FFmpegError as error:
        raise WorkspaceError(f"{target}: {error.strerror}: the video cannot be written", path=str(target)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def probe(path: str | os.PathLike[str]) -> VideoFacts:
    """What is really in a file: every frame of its first video stream is decoded. Reads only; idempotent.

    Corrupt if it is not a video, ends early, or the decoder had to guess a part of a frame (which is no checksum: a
    changed bit may also decode to another picture); WorkspaceError if it cannot be read.
    """
    path = os.fspath(path)
    try:
        size = os.stat(path).st_size
        with av.open(path) as container:
            if not container.streams.video:
                raise Corrupt(f"{path} holds no video", path=path)
            return _decoded(container, path, size)
    except OSError as error:
        raise WorkspaceError(f"{path}: {error.strerror}: it cannot be read", path=path) from error
    except av.FFmpegError as error:
        raise Corrupt(f"{path} is not a whole video: {error.strerror}", path=path) from error


def exact_fps(fps: float | Fraction) -> Fraction:
    """The rate that is meant: 23.976, 23.98, 29.97, 47.952, 59.94 and 119.88 are NTSC's 24000/1001 and so on (SMPTE
    ST 12-1), which no decimal fraction names; others are the nearest fraction of at most 1,000ths.

    A Fraction is taken as it is. UsageError below 0.001, above FPS_MAX, and for denominators above 100,000.
    """
    if isinstance(fps, Fraction):
        rate = fps
    elif not math.isfinite(fps):
        rate = Fraction(0)
    else:
        # Half of what lies between 24 and its neighbour of NTSC is 0.012: nothing else is taken for one.
        meant = (ntsc for ntsc in _NTSC if abs(float(fps) - ntsc) < 0.005)
        rate = next(meant, None) or Fraction(float(fps)).limit_denominator(1000)
    if not Fraction(1, 1000) <= rate <= FPS_MAX or rate.denominator > 100_000:
        raise UsageError(f"not a frame rate: {fps}: it goes from 0.001 to {FPS_MAX} frames per second")
    return rate


def _require_encodable(frames: Frames, crf: int, preset: str) -> None:
    check_frames(frames)
    height, width = frames.shape[1:3]
    if not (0 < width <= SIDE_PIXELS_MAX and 0 < height <= SIDE_PIXELS_MAX):
        raise UsageError(f"a video has 2 to {SIDE_PIXELS_MAX} pixels a side, not {width}x{height}")
    if width % 2 or height % 2:
        raise UsageError(f"an H.264 video has an even width and height, not {width}x{height}: crop or scale the frames")
    if not 1 <= crf <= CRF_MAX:
        # 0 is lossless, in a profile that browsers do not play.
        raise UsageError(f"crf goes from 1 to {CRF_MAX}, not {crf}")
    if preset not in PRESETS:
        raise UsageError(f"not a preset: {preset[:40]!a}; there are {', '.join(PRESETS)}")


def _write(
    frames: Frames, rate: Fraction, path: Path, quality: dict[str, str], on_frame: OnFrame, check: Callable[[], None]
) -> None:
    # In MP4's default of milliseconds the edit list, and with it the duration, would be rounded.
    layout = {"movflags": "+faststart", "movie_timescale": str(rate.numerator)}
    with av.open(str(path), "w", format="mp4", options=layout) as container:
        stream = container.add_stream("libx264", rate=rate, options=quality)
        _describe(stream, frames.shape[2], frames.shape[1])
        reformatter = VideoReformatter()
        for number, pixels in enumerate(frames):
            check()
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture = reformatter.reformat(
                picture, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
            )
            picture.pts, picture.time_base = number, 1 / rate
            container.mux(stream.encode(picture))
            on_frame(number + 1, len(frames))
        container.mux(stream.encode(None))


def _describe(stream: VideoStream, width: int, height: int) -> None:
    """The stream's size and colours. What is not tagged players guess, and SD as BT.601: greens shift."""
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.thread_count = min(THREADS_MAX, len(os.sched_getaffinity(0)))
    stream.colorspace = Colorspace.ITU709
    stream.color_range = ColorRange.MPEG
    stream.color_primaries = ColorPrimaries.BT709
    stream.color_trc = ColorTrc.BT709


def _decoded(container: InputContainer, path: str, size: int) -> VideoFacts:
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    stream.thread_count = min(THREADS_MAX, len(os.sched_getaffinity(0)))
    frames = 0
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise Corrupt(f"{path}: frame {frames} is damaged", path=path)
        frames += 1
    if stream.frames and stream.frames != frames:
        raise Corrupt(f"{path} holds {frames} frames, and its index names {stream.frames}", path=path)
    fps, duration, tick = stream.average_rate, stream.duration, stream.time_base
    if fps is None or duration is None or tick is None:
        raise Corrupt(f"{path} names no frame rate or no duration", path=path)
    return VideoFacts(stream.width, stream.height, frames, fps, float(duration * tick), size, stream.codec_context.name)


def _require_whole(frames: Frames, rate: Fraction, target: Path, facts: VideoFacts) -> VideoFacts:
    n, height, width, _ = frames.shape
    expected = VideoFacts(width, height, n, rate, float(n / rate), facts.bytes, "h264")
    if facts != expected:
        raise Corrupt(f"{target}: encoding gave {facts}, expected {expected}", path=str(target))
    return facts


def _place(temporary: Path, target: Path) -> None:
    """Give a written file its name, durably."""
    try:
        sync_file(temporary)
        os.replace(temporary, target)
        sync_folder(str(target.parent))
    except OSError as error:
        raise WorkspaceError(f"{target}: {error.strerror}: the video cannot be written", path=str(target)) from error
