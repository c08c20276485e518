"""Training documents: images of business papers, drawn with Pillow, whose words and layout depend on their kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = (600, 800)
# The upper level of each kind, for the two-level classifier.
MASTER_OF = {"invoice": "finance", "receipt": "finance", "letter": "correspondence", "memo": "correspondence"}
KINDS = tuple(MASTER_OF)
MASTERS = tuple(dict.fromkeys(MASTER_OF.values()))
_WORDS = {
    "invoice": "invoice customer number amount due payment account bank transfer vat total period terms order",
    "receipt": "receipt paid cash change cashier shop items thank visit card total store price returned",
    "letter": "dear madam regards sincerely yours wish letter kindly address reply write pleased received enclosed",
    "memo": "memo staff team meeting office agenda department please note subject internal reminder monday project",
}
_COMMON = "the of and on for we this is with from to today"
_LINES, _WORDS_OF_A_LINE = 8, 4


@dataclass(frozen=True)
class Document:
    """One document: its kind, text and image."""

    kind: str
    text: str
    picture: Image.Image


def draw_documents(count: int, *, seed: int) -> Iterator[Document]:
    """Yields `count` documents of each kind."""
    generator = np.random.default_rng(seed)
    for kind in KINDS * count:
        yield _draw(kind, generator)


def _draw(kind: str, generator: np.random.Generator) -> Document:
    lines = [_make_line(kind, generator) for _ in range(_LINES)]
    picture = Image.new("RGB", SIZE, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(30)
    left, top = (int(number) for number in generator.integers(40, 80, 2))
    for number, line in enumerate(lines):
        pen.text((left, top + 70 * number), line, fill="black", font=font)
    if MASTER_OF[kind] == "finance":  # these have a table
        for height in range(top + 60, top + 70 * _LINES, 140):
            pen.line((left, height, SIZE[0] - left, height), fill="black", width=2)
    return Document(kind, "\n".join(lines), picture)


def _make_line(kind: str, generator: np.random.Generator) -> str:
    typical, common = (generator.choice(words.split(), _WORDS_OF_A_LINE) for words in (_WORDS[kind], _COMMON))
    are_typical = generator.random(_WORDS_OF_A_LINE) < 0.7
    return " ".join(map(str, np.where(are_typical, typical, common)))
