"""Text files that people edit."""

import codecs

import pytest

from gim_bench.errors import ConfigError
from gim_bench.texts import TextError, check_text, read_text, read_toml, text_lines


# case 7
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_byte_order_mark_and_the_kind_of_line_ends_leave_the_text_as_it_is(mark, end, tmp_path):
    (tmp_path / "file").write_bytes(mark + f"größe = 1{end}{end}two".encode())
    assert read_text(tmp_path / "file") == "größe = 1\n\ntwo"


def test_a_byte_order_mark_within_a_text_is_kept(tmp_path):
    (tmp_path / "file").write_bytes("a\ufeffb\n\ufeffc".encode())
    assert read_text(tmp_path / "file") == "a\ufeffb\n\ufeffc"


def test_the_first_line_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "file").write_bytes("a\nb\rgröße\n".encode("latin-1"))
    with pytest.raises(TextError, match=r"^line 3: byte 0xf6 is not UTF-8 text: save the file"):
        read_text(tmp_path / "file")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_as_some_shells_write_is_named(encoding, tmp_path):
    (tmp_path / "file").write_bytes("\ufeffname = 1\n".encode(encoding))
    with pytest.raises(TextError, match=r"^line 1: it is UTF-16 text"):
        read_text(tmp_path / "file")


def test_half_a_surrogate_is_no_text(tmp_path):
    (tmp_path / "file").write_bytes(b"a\n\xed\xa0\x80\n")
    with pytest.raises(TextError, match=r"^line 2: byte 0xed"):
        read_text(tmp_path / "file")


def test_lines_of_a_file_are_read_one_by_one_and_each_can_be_refused(tmp_path):
    (tmp_path / "file").write_bytes(codecs.BOM_UTF8 + b"a 1\r\n\xe9 2\nc 3")
    with (tmp_path / "file").open("rb") as file:
        first, second, third = text_lines(file)
    assert (first, third) == ("a 1\n", "c 3")
    check_text(first)
    with pytest.raises(TextError, match=r"^byte 0xe9"):
        check_text(second)


@pytest.mark.parametrize("content", [b"a = ", b"a = '\xe9'", b"a = " + b"[" * 5000])
def test_a_file_that_is_no_toml_is_one_line_with_its_name(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^cannot read the suite .*file \(.*\): it must be TOML"):
        read_toml(tmp_path / "file", noun="suite")
