"""Images by URL: from the web, from the URL itself, from configured buckets, and from nowhere else."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poorwill.errors import Cancelled, NotFound, PoorwillError, Refused, UsageError
from poorwill.media.image_source import Bucket, SourceImage, Sources, fetch_image
from poorwill.store.local import LocalStore
from tests.unit.media.picture_files import plain, png
from tests.unit.web.loopback_server import LoopbackServer, http

NOWHERE = Sources()
PNG = plain()
BASE64 = base64.b64encode(PNG).decode()


def told(image: SourceImage) -> tuple[str, int, int, int, str]:
    """All but the pixels."""
    return (image.format, image.width, image.height, image.bytes, image.origin)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "bucket")


# --- the web


def test_from_the_web() -> None:
    """What was found, and where, without the query."""
    with LoopbackServer({"/a.webp": http(plain("WEBP"), content_type="text/plain")}) as server:
        image = fetch_image(server.url("/a.webp?token=secret"), Sources(allow=(server.rule,)))
    assert told(image) == ("WEBP", 32, 24, len(plain("WEBP")), server.url("/a.webp"))
    assert (image.image.mode, image.image.size) == ("RGB", (32, 24))


def test_the_limits_of_the_web() -> None:
    """Addresses, bytes and pixels as the sources say."""
    with LoopbackServer({"/": http(PNG)}) as server:
        for sources, why in (
            (Sources(), "loopback"),
            (Sources(allow=(server.rule,), bytes_max=len(PNG) - 1), "larger"),
            (Sources(allow=(server.rule,), pixels_max=32 * 24 - 1), "pixels"),
        ):
            with pytest.raises(Refused, match=why):
                fetch_image(server.url("/"), sources)
        enough = Sources(allow=(server.rule,), bytes_max=len(PNG), pixels_max=32 * 24)
        assert fetch_image(server.url("/"), enough).bytes == len(PNG)


def test_collaborators_reach_the_web() -> None:
    """The resolver and the check of the caller are those that are used."""
    asked = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    def check() -> None:
        raise Cancelled("enough")

    with LoopbackServer({"/": http(PNG)}) as server:
        sources = Sources(allow=(server.rule,))
        fetch_image(server.url(host="pictures.example"), sources, resolve=resolve)
        with pytest.raises(Cancelled):
            fetch_image(server.url("/"), sources, check=check)
    assert asked == ["pictures.example"]


def test_a_page_instead_of_an_image() -> None:
    """Is named by its URL, without the query."""
    with (
        LoopbackServer({"/cat.png": http(b"<!doctype html>", content_type="image/png")}) as server,
        pytest.raises(UsageError, match=r"/cat\.png is an HTML page, expected a PNG") as caught,
    ):
        fetch_image(server.url("/cat.png?secret"), Sources(allow=(server.rule,)))
    assert "secret" not in str(caught.value)


# --- data: URLs


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{BASE64}",
        f"DATA:IMAGE/PNG;BASE64,{BASE64}",
        f"data:image/png;name=a.png;base64,{BASE64}",
        f"data:image/png;base64,{BASE64.rstrip('=')}",
        f"data:image/png;base64,{quote_from_bytes(BASE64.encode(), safe='')}",
        f"data:image/png;base64,{BASE64[:40]}\r\n {BASE64[40:]}",
        f"data:image/png,{quote_from_bytes(PNG)}",
        f"data:image/png,{''.join(f'%{byte:02X}' for byte in PNG)}",
    ],
    ids=["base64", "capitals", "parameter", "unpadded", "quoted-base64", "wrapped", "percent", "all-percent"],
)
def test_from_the_url_itself(url: str) -> None:
    """In base64 or percent-encoded, in all the ways that are seen."""
    assert told(fetch_image(url, NOWHERE)) == ("PNG", 32, 24, len(PNG), f"data:image/png ({len(PNG)} bytes)")


@settings(deadline=None, max_examples=20)
@given(st.integers(65_400, 65_700), st.integers(0, 3))
def test_escapes_at_the_end_of_a_slice(length: int, shift: int) -> None:
    """Decoding goes slice by slice; an escape that lies across two is not torn."""
    data = png(16, 16, pixels=bytes(17 * 16)) + b"a" * shift + b"\xff" * (length // 3)
    url = f"data:image/png,{quote_from_bytes(data)}"
    assert fetch_image(url, NOWHERE).bytes == len(data)


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:,",
        f"data:;base64,{BASE64}",
        f"data:text/plain;base64,{BASE64}",
        f"data:application/octet-stream;base64,{BASE64}",
        f"data:image/;base64,{BASE64}",
        f"data:image/png;base64{BASE64}",
        f"data:image/png;{'a' * 1000};base64,{BASE64}",
        f"data:image/p\nng;base64,{BASE64}",
        f"data:image/png;base64,{BASE64[:40]}!!!!{BASE64[40:]}",
        f"data:image/png;base64,{BASE64[:41]}",
        f"data:image/png;base64,{BASE64}ä",
        "data:image/png;base64,",
        f"data:image/png,{BASE64}",
        "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>",
        "data:image/gif;base64," + base64.b64encode(plain("GIF")).decode(),
    ],
    ids=lambda url: ascii(url[:40]),
)
def test_invalid_data_urls(url: str) -> None:
    """UsageError in one short line that does not repeat the data."""
    with pytest.raises(UsageError) as caught:
        fetch_image(url, NOWHERE)
    assert BASE64[:20] not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "url", [f"data:image/png;base64,{BASE64}", f"data:image/png,{quote_from_bytes(PNG)}"], ids=["base64", "percent"]
)
def test_the_limit_of_inline_images(url: str) -> None:
    """Just as many bytes as are possible pass, one more does not."""
    assert fetch_image(url, Sources(bytes_max=len(PNG))).bytes == len(PNG)
    with pytest.raises(Refused, match=f"more than {len(PNG) - 1} bytes"):
        fetch_image(url, Sources(bytes_max=len(PNG) - 1))


@pytest.mark.parametrize("payload", ["ä" * 4300, "!" * 2000], ids=["url", "base64"])
def test_oversized_data_urls_are_not_decoded(payload: str) -> None:
    """The length of the URL, then that of its base64, is enough: it is refused though neither could be decoded."""
    with pytest.raises(Refused, match="more than 1000 bytes"):
        fetch_image(f"data:image/png;base64,{payload}", Sources(bytes_max=1000))


# --- buckets


def test_from_a_bucket(store: LocalStore) -> None:
    """Below the prefix, and only there."""
    store.put("cats/a.jpg", plain("JPEG"))
    for prefix in ("users/in", "users/in/", "/users/in"):
        sources = Sources(buckets=(Bucket("pics", prefix, store),))
        url = "s3://pics/users/in/cats/a.jpg"
        assert told(fetch_image(url, sources)) == ("JPEG", 32, 24, len(plain("JPEG")), url)
    whole = Sources(buckets=(Bucket("pics", "", store),))
    assert fetch_image("s3://pics/cats/a.jpg", whole).format == "JPEG"


def test_several_prefixes_of_a_bucket(store: LocalStore, tmp_path: Path) -> None:
    """Each has its own store."""
    other = LocalStore(tmp_path / "other")
    store.put("a.png", PNG)
    other.put("b.webp", plain("WEBP"))
    sources = Sources(buckets=(Bucket("pics", "one", store), Bucket("pics", "two", other)))
    assert fetch_image("s3://pics/one/a.png", sources).format == "PNG"
    assert fetch_image("s3://pics/two/b.webp", sources).format == "WEBP"


@pytest.mark.parametrize(
    "url",
    [
        "s3://other/in/a.png",
        "s3://PICS/in/a.png",
        "s3://pics/a.png",
        "s3://pics/input/a.png",
        "s3://pics/in",
        "s3://pics//in/a.png",
        "s3://pics/%69n/a.png",
        "s3://pics@evil/in/a.png",
        "s3://pics:80/in/a.png",
        "s3:///in/a.png",
        "s3:",
    ],
)
def test_other_buckets_and_keys(store: LocalStore, url: str) -> None:
    """Refused by name; a prefix is a folder, not the beginning of a word."""
    for key in ("a.png", "put/a.png", "in/a.png"):
        store.put(key, PNG)
    with pytest.raises(Refused, match="bucket"):
        fetch_image(url, Sources(buckets=(Bucket("pics", "in", store),)))


@pytest.mark.parametrize(
    "key", ["../a.png", "b/../../a.png", "./a.png", "", "/a.png", "b//a.png", ".uploads/x", "a\n.png"]
)
def test_keys_that_no_store_takes(store: LocalStore, key: str) -> None:
    """No way out of the prefix."""
    store.put("a.png", PNG)
    with pytest.raises(UsageError, match="not an object key"):
        fetch_image(f"s3://pics/in/{key}", Sources(buckets=(Bucket("pics", "in", store),)))


def test_missing_and_oversized_objects(store: LocalStore) -> None:
    """A missing object is NotFound; one that is too large is refused, not called corrupt."""
    sources = Sources(buckets=(Bucket("pics", "in", store),), bytes_max=len(PNG) - 1)
    store.put("a.png", PNG)
    with pytest.raises(NotFound, match=r"missing\.png"):
        fetch_image("s3://pics/in/missing.png", sources)
    with pytest.raises(Refused, match=r"s3://pics/in/a\.png: larger than"):
        fetch_image("s3://pics/in/a.png", sources)


def test_a_store_is_not_asked_after_a_cancel(store: LocalStore) -> None:
    """The check comes first."""

    def check() -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        fetch_image("s3://pics/in/a.png", Sources(buckets=(Bucket("pics", "in", store),)), check=check)


# --- anything else


@pytest.mark.parametrize(
    "url",
    [
        "",
        "picture.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://host/a.png",
        " https://host/",
        "javascript:1",
        "a" * 9000,
    ],
)
def test_other_urls(url: str) -> None:
    """A UsageError that names the possible schemes."""
    with pytest.raises(UsageError, match="https:, http:, data: or s3:") as caught:
        fetch_image(url, NOWHERE)
    assert len(str(caught.value)) < 200


@settings(deadline=None)
@given(
    st.text(max_size=40).map(lambda text: f"data:image/png{text}") | st.text(max_size=40).map(lambda text: f"s3:{text}")
)
def test_any_text_as_a_url(url: str) -> None:
    """It raises an error of ours, never another."""
    with pytest.raises(PoorwillError):
        fetch_image(url, NOWHERE)
