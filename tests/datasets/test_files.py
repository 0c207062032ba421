"""Checksums that are remembered, files in threads, downloads that carry on."""

import hashlib
import http.server
import json
import os
import threading
import time
from pathlib import Path

import pytest

from gim_bench.datasets import files
from gim_bench.datasets.files import (
    KnownChecksums,
    checksums_of,
    download,
    fingerprint_of,
    in_threads,
)
from gim_bench.errors import DataError
from gim_bench.progress import Silence
from gim_bench.seals import sealed
from gim_bench.system import atomic
from tests.listener import Listener


def ask(known, path, **how):
    (found,) = known.of([path], title="checking", progress=Silence(), **how)
    return found


def rewrite(path, content):
    """New content, and an mtime that differs however fast the test runs."""
    mtime_ns = path.stat().st_mtime_ns + 10**9
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.bin"
    path.write_bytes(b"abc")
    return path


@pytest.fixture
def reads(monkeypatch):
    """The files whose bytes were read."""
    read = []

    def spy(path, *, done=None):
        read.append(path.name)
        return checksums_of(path, done=done)

    monkeypatch.setattr(files, "checksums_of", spy)
    return read


def test_checksums_are_those_of_hashlib(tmp_path):
    content = os.urandom(2_500_001)
    (tmp_path / "large").write_bytes(content)
    found = checksums_of(tmp_path / "large")
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_progress_counts_whole_megabytes(tmp_path):
    (tmp_path / "large").write_bytes(bytes(2_500_000))
    listener = Listener()
    known = KnownChecksums(tmp_path / "known.json")
    known.of([tmp_path / "large"], title="checking", progress=listener)
    assert listener.tasks == [("checking", 3, "MB")]
    assert listener.steps == 2


def test_a_known_file_is_not_read_again(file, tmp_path, reads):
    first = ask(KnownChecksums(tmp_path / "known.json"), file)
    assert ask(KnownChecksums(tmp_path / "known.json"), file) == first
    assert reads == ["some.bin"]


def test_a_file_with_another_mtime_is_read_again(file, tmp_path):
    known = KnownChecksums(tmp_path / "known.json")
    before = ask(known, file)
    rewrite(file, b"abd")
    assert ask(known, file) != before


def test_a_file_with_another_size_is_read_again(file, tmp_path):
    known = KnownChecksums(tmp_path / "known.json")
    before, status = ask(known, file), file.stat()
    file.write_bytes(b"abcd")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ask(known, file) != before


def test_one_altered_byte_is_noticed_though_size_and_mtime_are_put_back(file, tmp_path):
    known = KnownChecksums(tmp_path / "known.json")
    before, status = ask(known, file), file.stat()
    time.sleep(0.02)  # longer than a tick of the file system's clock
    file.write_bytes(b"abd")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ask(known, file) != before


def test_fresh_checksums_are_read_again(file, tmp_path, reads):
    known = KnownChecksums(tmp_path / "known.json")
    assert ask(known, file, fresh=True) == ask(known, file, fresh=True)
    assert reads == ["some.bin"] * 2


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[1]",
        b"[" * 100_000,
        b"\xff\xfe",
        *(
            json.dumps(sealed(table)).encode()
            for table in (
                {},
                {"files": 3},
                {"files": {"x": 3}},
                {"files": {"x": [1, 2]}},
                {"files": {"x": [1, 2, 3, "ab", "cd"]}},
            )
        ),
    ],
)
def test_damaged_memory_is_ignored_and_redone(file, tmp_path, damage):
    memory = tmp_path / "known.json"
    memory.write_bytes(damage)
    assert ask(KnownChecksums(memory), file) == checksums_of(file)
    assert str(file) in json.loads(memory.read_bytes())["files"]


def test_an_altered_digit_of_what_is_remembered_is_not_believed(file, tmp_path):
    """Or every cell would run again, and its record name data that never was."""
    memory = tmp_path / "known.json"
    found = ask(KnownChecksums(memory), file)
    memory.write_text(memory.read_text().replace(found.sha256, "0" * 64))
    assert ask(KnownChecksums(memory), file) == found


def test_memory_that_cannot_be_written_costs_a_line_and_not_the_checksums(file, tmp_path):
    listener = Listener()
    known = KnownChecksums(file / "known.json")  # below a file, so no folder can be made
    (found,) = known.of([file], title="checking", progress=listener)
    assert found == checksums_of(file)
    assert len(listener.lines) == 1
    assert "again next time" in listener.lines[0]


def test_an_interruption_keeps_what_was_read(file, tmp_path, monkeypatch):
    other = tmp_path / "other.bin"
    other.write_bytes(b"other")

    def interrupted(path, *, done=None):
        if path == other:
            raise KeyboardInterrupt
        return checksums_of(path)

    monkeypatch.setattr(files, "checksums_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        KnownChecksums(tmp_path / "known.json").of([file, other], title="x", progress=Silence())
    assert list(json.loads((tmp_path / "known.json").read_bytes())["files"]) == [str(file)]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*gone\.bin .*No such file"):
        ask(KnownChecksums(tmp_path / "known.json"), tmp_path / "gone.bin")


def test_the_fingerprint_depends_on_names_and_contents_but_not_on_their_order():
    one = fingerprint_of([("a", "1"), ("b", "2")])
    assert one == fingerprint_of([("b", "2"), ("a", "1")])
    assert len({one, fingerprint_of([("a", "2"), ("b", "1")]), fingerprint_of([("a", "1")])}) == 3


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(file):
    def half_written():
        with atomic.atomically(file) as part:
            part.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_written()
    assert file.read_bytes() == b"abc"
    assert list(file.parent.iterdir()) == [file]


# -- downloads -----------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 8_000  # 2 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the server's `ranges`, `cut` and `asked` say how, and what was asked for."""

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if not self.path.endswith("file.bin"):
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if not self.server.ranges:
            start = 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if wanted and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : self.server.cut])

    def log_message(self, *arguments): ...


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.ranges, server.cut, server.asked = True, None, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server, to: Path, *, file="file.bin", progress=None, **expected):
    url, expected = f"http://127.0.0.1:{server.server_port}/{file}", expected or {"md5": MD5}
    download(url, to=to, advice="plug it in", progress=progress or Silence(), **expected)


def test_a_download_ends_as_the_whole_file_alone(server, tmp_path):
    listener = Listener()
    fetch(server, tmp_path / "new" / "file.bin", progress=listener)
    assert (tmp_path / "new" / "file.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.bin"]
    assert listener.tasks[0] == ("downloading file.bin", 3, "MB")


def test_a_download_that_broke_off_is_carried_on(server, tmp_path):
    server.cut = 1_500_000
    with pytest.raises(DataError, match="548,000 bytes before its end: run the same command again"):
        fetch(server, tmp_path / "file.bin")
    server.cut, listener = None, Listener()
    fetch(server, tmp_path / "file.bin", progress=listener)
    assert listener.tasks[0] == ("downloading file.bin", 3, "MB")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1500000-"]


def test_a_server_without_ranges_makes_the_download_start_over(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:100])
    server.ranges = False
    fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_used(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(("kind", "found"), [("md5", MD5), ("sha256", SHA256)])
def test_a_download_with_another_checksum_is_thrown_away(server, tmp_path, kind, found):
    with pytest.raises(DataError, match=f"has {kind} {found}, not 0000, and was deleted"):
        fetch(server, tmp_path / "file.bin", **{kind: "0000"})
    assert list(tmp_path.iterdir()) == []


def test_a_download_with_the_right_sha256_is_kept(server, tmp_path):
    fetch(server, tmp_path / "file.bin", sha256=SHA256)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_resumed_download_is_checked_as_a_whole(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"from another file")
    with pytest.raises(DataError, match="has sha256"):
        fetch(server, tmp_path / "file.bin", sha256=SHA256)
    fetch(server, tmp_path / "file.bin", sha256=SHA256)  # nothing of it is left
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_file_that_the_server_lacks_ends_in_the_advice(server, tmp_path):
    with pytest.raises(DataError, match=r"cannot download .*404.*: plug it in$"):
        fetch(server, tmp_path / "file.bin", file="gone")


# -- threads -------------------------------------------------------------------------------------


def test_results_keep_the_order_of_their_items():
    assert list(in_threads(lambda n: n * n, range(500))) == [n * n for n in range(500)]


def test_threads_work_only_a_little_ahead():
    begun, limit = [], 5 * (os.cpu_count() or 1) + 2
    results = in_threads(begun.append, range(10 * limit))
    next(results)
    assert len(begun) <= limit
    results.close()
    assert threading.active_count() < limit
