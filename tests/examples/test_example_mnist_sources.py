"""Where examples/mnist finds its files; mirrors are real HTTP servers on the loopback interface."""

from __future__ import annotations

import gzip
import hashlib
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from example_modules import load_example

from sgsc_edge.errors import DataError, FileFormatError

sources = load_example("mnist", "sources").sources

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
CONTENT = struct.pack(">HBB3I", 0, 8, 3, 2, 4, 3) + VALUES.tobytes()
PACKED = gzip.compress(CONTENT, mtime=0)
FILE = sources.IdxFile("tiny-idx3-ubyte", VALUES.shape, hashlib.sha256(CONTENT).hexdigest())
OTHER = gzip.compress(CONTENT[:-1] + b"\xff", mtime=0)


class Mirror:
    """Serves one body at /<mirror>/<file>.gz; counts requests by mirror."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.declared: dict[str, int] = {}
        self.requests: list[str] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.split("/")[1]
                mirror.requests.append(self.path)
                if name not in mirror.bodies:
                    self.send_error(404)
                    return
                body = mirror.bodies[name]
                self.send_response(200)
                self.send_header("Content-Length", str(mirror.declared.get(name, len(body))))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}/"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Mirror()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SGSC_EDGE_DATA", raising=False)
    monkeypatch.delenv("SGSC_EDGE_MNIST_MIRRORS", raising=False)


def use(monkeypatch: pytest.MonkeyPatch, *urls: str) -> None:
    monkeypatch.setenv("SGSC_EDGE_MNIST_MIRRORS", " ".join(urls))


def test_good_mirror_fills_the_cache_once(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.bodies["good"] = PACKED
    use(monkeypatch, mirror.url("good"))
    for _ in range(2):
        np.testing.assert_array_equal(sources.load(FILE), VALUES)
    assert mirror.requests == [f"/good/{FILE.name}.gz"]
    cached = list(sources.cache_folder().iterdir())
    assert [path.name for path in cached] == [f"{FILE.name}.gz"]
    assert cached[0].read_bytes() == PACKED


def test_next_mirror_after_404_corruption_and_truncation(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.bodies.update(corrupted=OTHER, cut=PACKED[:-9], short=PACKED[:-9], good=PACKED)
    mirror.declared["short"] = len(PACKED)
    names = ("absent", "corrupted", "cut", "short", "good")
    use(monkeypatch, *(mirror.url(name) for name in names))
    np.testing.assert_array_equal(sources.load(FILE), VALUES)
    assert [path.split("/")[1] for path in mirror.requests] == list(names)


@pytest.mark.parametrize(
    ("body", "declared", "message"),
    [
        (OTHER, None, f"SHA-256 .* expected {FILE.sha256}"),
        (PACKED[:-9], None, "truncated gzip data"),
        (PACKED[:-9], len(PACKED), f"sent {len(PACKED) - 9} of {len(PACKED)} bytes"),
        (b"<html>not found</html>", None, "shorter than its header|starts with"),
        (bytes(FILE.nbytes + 70_000), None, "sent more than"),
        (None, None, "404"),
    ],
)
def test_bad_mirror_is_named_and_nothing_is_kept(
    mirror: Mirror,
    monkeypatch: pytest.MonkeyPatch,
    body: bytes | None,
    declared: int | None,
    message: str,
) -> None:
    if body is not None:
        mirror.bodies["bad"] = body
    if declared is not None:
        mirror.declared["bad"] = declared
    use(monkeypatch, mirror.url("bad"))
    with pytest.raises(DataError, match=message) as caught:
        sources.load(FILE)
    assert mirror.url("bad") in str(caught.value)
    assert "SGSC_EDGE_DATA" in str(caught.value)
    assert not sources.cache_folder().exists()


def test_unreachable_and_strange_mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / f"{FILE.name}.gz").write_bytes(PACKED)
    use(monkeypatch, "http://127.0.0.1:1/", tmp_path.as_uri(), "no-scheme")
    with pytest.raises(DataError) as caught:
        sources.load(FILE)
    refusals = caught.value.message.splitlines()[1:]
    assert "refused" in refusals[0]
    assert all("http or https" in refusal for refusal in refusals[1:])


def test_damaged_cache_is_downloaded_again(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.bodies["good"] = PACKED
    use(monkeypatch, mirror.url("good"))
    cached = sources.cache_folder() / f"{FILE.name}.gz"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(PACKED[:-1])
    np.testing.assert_array_equal(sources.load(FILE), VALUES)
    assert cached.read_bytes() == PACKED
    assert "downloading it again" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_costs_only_a_warning(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    mirror.bodies["good"] = PACKED
    use(monkeypatch, mirror.url("good"))
    np.testing.assert_array_equal(sources.load(FILE), VALUES)
    assert "the download is not kept" in capsys.readouterr().err


@pytest.mark.parametrize(("suffix", "data"), [("", CONTENT), (".gz", PACKED)])
def test_data_folder_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, data: bytes
) -> None:
    monkeypatch.setenv("SGSC_EDGE_DATA", str(tmp_path))
    use(monkeypatch, "http://127.0.0.1:1/")
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / (FILE.name + suffix)).write_bytes(data)
    np.testing.assert_array_equal(sources.load(FILE), VALUES)


def test_wrong_file_in_the_data_folder_is_the_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGSC_EDGE_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    wrong = tmp_path / "mnist" / f"{FILE.name}.gz"
    wrong.write_bytes(OTHER)
    with pytest.raises(FileFormatError, match="differs from the original") as caught:
        sources.load(FILE)
    assert caught.value.where == str(wrong)


def test_the_four_files_of_mnist() -> None:
    files = (sources.TRAIN_IMAGES, sources.TRAIN_LABELS, sources.TEST_IMAGES, sources.TEST_LABELS)
    assert [file.nbytes for file in files] == [47040016, 60008, 7840016, 10008]
    assert all(mirror.startswith("https://") for mirror in sources.mirrors())
