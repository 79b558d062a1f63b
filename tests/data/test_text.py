from __future__ import annotations

import bz2
import gzip
import io
import itertools
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from dnis_lightning.data.text import Block, TextFile
from dnis_lightning.errors import DataError

TEXT = b"".join(b"%d,%d\n" % (i, i * 7919 % 1000) for i in range(300))
COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}


def written(path: Path, data: bytes) -> TextFile:
    path.write_bytes(data)
    return TextFile(path)


def text_of(file: TextFile, size: int = 100, quoted: bytes | None = None) -> bytes:
    return b"".join(block.text for block in file.blocks(size, quoted))


def ends_of(file: TextFile, size: int) -> set[int]:
    """Where blocks of values in quotes end."""
    return set(itertools.accumulate(len(block.text) for block in file.blocks(size, b",")))


def tar_of(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    return data.getvalue()


def check(blocks: list[Block], text: bytes) -> None:
    """Whole lines, rightly numbered, with a share that grows to 1."""
    assert b"".join(block.text for block in blocks) == text
    line = 1
    for block in blocks:
        assert block.first == line
        assert block.text.endswith(b"\n")
        line += block.text.count(b"\n")
    done = [block.done for block in blocks]
    assert done == sorted(done)
    assert done[-1] == 1


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf"])
def test_blocks_of_every_size_give_the_same_lines(begin: bytes, end: bytes, tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", begin + b"a,b\r\n\nccc,d\n,\n  " + end)
    for size in (*range(6, 30), 1 << 20):
        blocks = list(file.blocks(size))
        text = b"".join(block.text for block in blocks)
        assert text.replace(b"  \r\n", b"  \n") == b"a,b\r\n\nccc,d\n,\n  \n"
        check(blocks, text)


def test_a_line_longer_than_a_block_is_named(tmp_path: Path) -> None:
    for size in range(1, 5):
        with pytest.raises(DataError, match=rf"a\.txt:3: a line of more than {size} bytes; is this a text file\?"):
            text_of(written(tmp_path / "a.txt", b"a\nb\ncccccccccc\nd\n"), size)


def test_a_line_end_within_quotes_is_no_place_to_cut(tmp_path: Path) -> None:
    rows = [b'"a\nb",1\n', b"c,2\n", b'"""\r\n""",3\n', b'"x,\n\n",4\n', b'"",5\n', b'6,"\n"\n']
    file = written(tmp_path / "a.csv", b"".join(rows))
    for size in (*range(12, 40), 1 << 20):
        check(list(file.blocks(size, b",")), b"".join(rows))
        assert ends_of(file, size) <= {len(b"".join(rows[: n + 1])) for n in range(len(rows))}


def test_a_quote_out_of_place_moves_no_other_cut(tmp_path: Path) -> None:
    rows = [b'5" pipe,1\n', b'"a\nb",2\n', b"c,3\n", b'7" pipe,4\n', b'"d\n\n",5\n']
    file = written(tmp_path / "a.csv", b"".join(rows))
    for size in (*range(12, 40), 1 << 20):
        assert ends_of(file, size) <= {len(b"".join(rows[: n + 1])) for n in range(len(rows))}


def test_an_unclosed_quote_that_swallows_more_than_a_block_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", b'a,b\n"c,d\n' + b"e,f\n" * 100)
    with pytest.raises(DataError, match=r"a\.csv:2: a line of more than 50 bytes; a quote that is not closed, or"):
        text_of(file, 50, b",")


@pytest.mark.parametrize("ending", COMPRESS)
def test_compressed_files_are_read_as_they_are(ending: str, tmp_path: Path) -> None:
    whole = written(tmp_path / f"a{ending}", COMPRESS[ending](TEXT))
    check(list(whole.blocks(200)), TEXT)
    two = written(tmp_path / f"b{ending}", COMPRESS[ending](TEXT[:1001]) + COMPRESS[ending](TEXT[1001:]))
    check(list(two.blocks(200)), TEXT)


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("damage", ["truncated", "one byte less", "garbage", "garbage behind"])
def test_damaged_compressed_files_are_named(damage: str, ending: str, tmp_path: Path) -> None:
    data = COMPRESS[ending](TEXT)
    broken = {
        "truncated": data[: len(data) // 2],
        "one byte less": data[:-1],
        "garbage": b"label,I1\n" * 100,
        "garbage behind": data + b"garbage",
    }
    with pytest.raises(DataError, match=rf"a\{ending}: not a whole \{ending} file \(.+\); get it again$") as fault:
        text_of(written(tmp_path / f"a{ending}", broken[damage]))
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("name", ["train.txt", "./train.txt", "dac/train.txt"])
@pytest.mark.parametrize("mode", ["w:gz", "w:"])
def test_a_member_of_a_tar_archive_is_read(mode: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.tar.gz" if mode == "w:gz" else "a.tar")
    path.write_bytes(tar_of({"readme.txt": b"read me", name: TEXT, "test.txt": b"1\n" * 999}, mode))
    check(list(TextFile(path, "train.txt").blocks(200)), TEXT)


def test_a_tar_archive_without_the_member_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    path.write_bytes(tar_of({f"{n}.txt": b"x\n" for n in range(7)}))
    with pytest.raises(DataError, match=r"a\.tgz: no train\.txt in this archive, which has 0\.txt, .*4\.txt, …; is it"):
        text_of(TextFile(path, "train.txt"))


@pytest.mark.parametrize("cut", [0, 1, 20, 0.3, 0.9, -9, -1])
def test_a_truncated_tar_archive_is_named(cut: float, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    data = tar_of({"train.txt": TEXT * 50, "test.txt": os.urandom(2000)})
    path.write_bytes(data[: int(cut * len(data)) if 0 < cut < 1 else int(cut)])
    with pytest.raises(DataError, match=r"a\.tar\.gz: not a whole (tar archive|\.gz file) \(.+\); get it again$"):
        text_of(TextFile(path, "train.txt"), 1000)


def test_a_flipped_bit_in_a_compressed_archive_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    data = bytearray(tar_of({"train.txt": TEXT, "test.txt": b"1\n" * 999}))
    for place in range(20, len(data) - 8, 37):
        changed = data.copy()
        changed[place] ^= 4
        path.write_bytes(changed)
        with pytest.raises(DataError, match="not a whole"):
            text_of(TextFile(path, "train.txt"), 1000)


def test_damaged_zip_members_are_named(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a.txt", TEXT)
        check(list(TextFile(path, "a.txt").blocks(200)), TEXT)
        data = bytearray(path.read_bytes())
        for place in (50, 100, 200):
            changed = data.copy()
            changed[place] ^= 255
            path.write_bytes(changed)
            with pytest.raises(DataError, match=r"a\.zip: not a whole zip archive \(.+\); delete it"):
                text_of(TextFile(path, "a.txt"))


@pytest.mark.parametrize("data", [b"", b"\n\r\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_named(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt:1: the file is empty; get it again"):
        text_of(written(tmp_path / "a.txt", data))


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", TEXT)
    blocks = file.blocks(200)
    next(blocks)
    with file.path.open("ab") as more:
        more.write(b"1,2\n")
    with pytest.raises(DataError, match=r"a\.txt: it has changed while it was read; wait until it is whole and start"):
        list(blocks)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    os.mkfifo(tmp_path / "pipe")
    for path, message in [
        (tmp_path, "a folder, expected a file; is the path right"),
        (tmp_path / "pipe", "a pipe or device, expected a file"),
        (tmp_path / "b.txt", r"cannot be read \(No such file or directory\)"),
        (tmp_path / "a.txt" / "b.txt", r"cannot be read \(Not a directory\)"),
        (tmp_path / ("b" * 999), r"cannot be read \(File name too long\)"),
    ]:
        for member in (None, "a.txt"):
            with pytest.raises(DataError, match=message):
                TextFile(path, member).identity()
    with pytest.raises(DataError, match=r"a\.txt: not a whole zip archive \(File is not a zip file\)"):
        TextFile(tmp_path / "a.txt", "b").identity()


def test_the_identity_of_a_file_follows_its_size_and_time(tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", TEXT)
    before = file.identity()
    assert before == file.identity()
    os.utime(file.path, (1, 1))
    assert file.identity() != before


def test_files_alike_in_name_size_and_time_have_other_identities(tmp_path: Path) -> None:
    files = []
    for folder, content in (("monday", b"a,1"), ("tuesday", b"b,1")):
        (tmp_path / folder).mkdir()
        files.append(written(tmp_path / folder / "part.csv", content))
        os.utime(files[-1].path, (1, 1))
    assert files[0].identity() != files[1].identity()
