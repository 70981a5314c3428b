"""Make the pictures of the README anew: `python -m tests.pictures [demo] [page]`; without a name all of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.pictures import demo, page

HERE = Path(__file__).parent
MOST_BYTES = 150_000
PICTURES: dict[str, Callable[[Path], object]] = {"demo": demo.draw, "page": page.shoot}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.pictures")
    parser.add_argument("names", nargs="*", choices=[[], *PICTURES], metavar="NAME", help="|".join(PICTURES))
    for name in parser.parse_args().names or PICTURES:
        PICTURES[name](HERE)
    for file in HERE.glob("*.png"):
        _make_small(file)
    for file in sorted((*HERE.glob("*.svg"), *HERE.glob("*.png"))):
        print(f"{file.name}: {file.stat().st_size} bytes")
        if file.stat().st_size > MOST_BYTES:
            raise SystemExit(f"{file} is larger than {MOST_BYTES} bytes")


def _make_small(file: Path) -> None:
    """The same picture in 128 colours: they are screens and plots, and nobody sees the difference."""
    with Image.open(file) as picture:
        if picture.mode == "P":
            return
        small = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(file, optimize=True)


if __name__ == "__main__":
    main()
