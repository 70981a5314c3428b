"""The pictures of the README: made by `python -m tests.pictures`, small, and without anything from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.pictures import demo
from tests.readme import README

PICTURES = Path(__file__).parent / "pictures"
SVG = "{http://www.w3.org/2000/svg}"


def words_in(picture: Path) -> str:
    texts = ET.parse(picture).getroot().iter(f"{SVG}text")
    return " ".join("".join(each.itertext()) for each in texts).replace("\xa0", " ")


def test_the_demo_is_drawn_as_it_is_played_and_as_the_readme_shows_it(tmp_path: Path) -> None:
    for told in (words_in(demo.draw(tmp_path)), words_in(PICTURES / "demo.svg")):
        for words in (
            "journal-watcher demo",
            "✓ One of them is killed in the middle of a transaction",
            "✓ Another one looks just as dead, but lives, and is left alone",
            "Kill to readable: ",
            "Next: ",
        ):
            assert words in told, told
        assert "times slower" not in told  # what moves has gone at its end
        assert "⠋" not in told


def test_no_picture_wants_anything_from_elsewhere() -> None:
    for each in PICTURES.glob("*.svg"):
        text = each.read_text(encoding="utf-8")
        assert not re.search(r"url\((?!#)|@import|<(?:script|image|foreignObject)", text), each


def test_each_picture_that_is_kept_is_shown_and_small() -> None:
    told = README.read_text(encoding="utf-8")
    for each in (*PICTURES.glob("*.svg"), *PICTURES.glob("*.png")):
        assert f"tests/pictures/{each.name}" in told
        assert each.stat().st_size < 150_000
