"""What becomes of a rotated log file.

Not loguru's own compression: that makes its files with the rights that the umask leaves, for everybody to read, beside
a log that is 0640 and tells the names of sessions.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import BinaryIO, Literal

__all__ = ["packer"]

_MODE = 0o640  # as the log file itself


def packer(kind: str) -> Callable[[str], None]:
    """What packs a file: `x.log` becomes `x.log.gz`, or where that is there, `x.1.log.gz`.

    Args:
        kind: gz, bz2, xz, lzma, tar, tar.gz, tar.bz2, tar.xz or zip.

    Raises:
        ValueError: another one. What is returned raises OSError where it cannot pack; then the file is as it was.
    """
    if kind not in _PACKED_BY:
        raise ValueError(f"{kind} is no compression of a log file")
    return partial(_pack, kind=kind)


def _pack(path: str, *, kind: str) -> None:
    packed, descriptor = _new_file(path, kind)
    try:
        with os.fdopen(descriptor, "wb") as into:
            _PACKED_BY[kind](path, into)
    except BaseException:
        os.unlink(packed)
        raise
    os.unlink(path)


def _new_file(path: str, kind: str) -> tuple[str, int]:
    """A new file beside the one to pack: its name, and a descriptor."""
    root, extension = os.path.splitext(path)
    for number in count():
        packed = f"{root}.{number}{extension}.{kind}" if number else f"{path}.{kind}"
        try:
            return packed, os.open(packed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        except FileExistsError:
            continue
    raise AssertionError("there is always a next number")


def _as_gz(path: str, into: BinaryIO) -> None:
    with open(path, "rb") as plain, gzip.GzipFile(os.path.basename(path), "wb", fileobj=into) as packed:
        shutil.copyfileobj(plain, packed)


def _as_bz2(path: str, into: BinaryIO) -> None:
    with open(path, "rb") as plain, bz2.BZ2File(into, "wb") as packed:
        shutil.copyfileobj(plain, packed)


def _as_lzma(path: str, into: BinaryIO, *, container: int) -> None:
    with open(path, "rb") as plain, lzma.LZMAFile(into, "wb", format=container) as packed:
        shutil.copyfileobj(plain, packed)


def _as_tar(path: str, into: BinaryIO, *, mode: Literal["w:", "w:gz", "w:bz2", "w:xz"]) -> None:
    with tarfile.open(fileobj=into, mode=mode) as packed:
        packed.add(path, os.path.basename(path))


def _as_zip(path: str, into: BinaryIO) -> None:
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(path, os.path.basename(path))


_PACKED_BY: dict[str, Callable[[str, BinaryIO], None]] = {
    "gz": _as_gz,
    "bz2": _as_bz2,
    "xz": partial(_as_lzma, container=lzma.FORMAT_XZ),
    "lzma": partial(_as_lzma, container=lzma.FORMAT_ALONE),
    "tar": partial(_as_tar, mode="w:"),
    "tar.gz": partial(_as_tar, mode="w:gz"),
    "tar.bz2": partial(_as_tar, mode="w:bz2"),
    "tar.xz": partial(_as_tar, mode="w:xz"),
    "zip": _as_zip,
}
