"""What `mlflow-fargate predict -I FILE` sends, and what it says of a file that it cannot send."""

from __future__ import annotations

import csv
import io
import json
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlflow_fargate.cli.deployment.input_file import read_input
from mlflow_fargate.errors import InvalidOption

_CELLS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8).map(lambda text: f"x{text}")


def read(content: bytes, name: str = "-") -> object:
    file = BytesIO(content)
    file.name = name
    return read_input(file)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("name", ["-", "seven", "seven.json"])
def test_an_image_is_sent_as_its_bytes_whatever_its_name(kind: str, name: str) -> None:
    picture = BytesIO()
    Image.new("RGB", (2, 2)).save(picture, kind)

    assert read(picture.getvalue(), name) == picture.getvalue()


@pytest.mark.parametrize("document", [{"inputs": [[1.5]]}, [1, 2], "text", None, True, -3])
@pytest.mark.parametrize("name", ["-", "<stdin>", "rows.json", "rows"])
def test_json_is_sent_as_it_is(document: object, name: str) -> None:
    assert read(b"\xef\xbb\xbf" + json.dumps(document).encode(), name) == document


@given(st.lists(st.lists(_CELLS, min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_table_is_sent_with_the_values_that_were_written(rows: list[list[str]]) -> None:
    written = io.StringIO(newline="")
    csv.writer(written).writerows([["a", "b", "c"], *rows])

    found = read(written.getvalue().encode(), "rows.csv")

    assert isinstance(found, pd.DataFrame)
    assert found.to_numpy().tolist() == rows and list(found.columns) == ["a", "b", "c"]


def test_standard_input_that_begins_with_a_name_is_a_table() -> None:
    found = read(b"age,plan\n42,basic\n")

    assert isinstance(found, pd.DataFrame) and found.to_dict("records") == [{"age": 42, "plan": "basic"}]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        ("00501,90210", ["00501", "90210"]),
        ("+4912345", ["+4912345"]),
        ("1E5,2E5", ["1E5", "2E5"]),
        ("NA,null,None,nan", ["NA", "null", "None", "nan"]),
        ("9007199254740993,,1", [9007199254740993, None, 1]),
        ("12345678901234567890", ["12345678901234567890"]),
        ("0.5,1e-05,2", [0.5, 1e-05, 2.0]),
        ("true,False", [True, False]),
    ],
)
def test_no_value_of_a_table_is_changed(cells: str, values: list[object]) -> None:
    rows = "".join(f"{cell},x\n" for cell in cells.split(","))
    found = read(f"a,b\n{rows}".encode(), "rows.csv")

    assert isinstance(found, pd.DataFrame)
    assert [None if pd.isna(value) else value for value in found["a"]] == values


@pytest.mark.parametrize("header", ["BMI,age", "RIFF,age", "GIF8,age", "tenure,age", "n,age", "1st,age"])
@pytest.mark.parametrize("name", ["-", "rows.csv"])
def test_a_table_is_not_taken_for_an_image_or_json(header: str, name: str) -> None:
    found = read(f"{header}\n1,2\n".encode(), name)

    assert isinstance(found, pd.DataFrame) and list(found.columns) == header.split(",")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.json", b" \n", "rows.json is empty."),
        ("-", b"", "standard input is empty."),
        ("rows.json", b'{"inputs": [1,\n 2', "Expecting ',' delimiter (line 2, column 3)"),
        ("rows.json", b"age,plan\n42,basic", "Expecting value (line 1, column 1)"),
        ("rows.json", b"[" * 100_000, "rows.json is not a request: it is nested too deeply."),
        ("rows.json", b"1" * 5_000, "a number is too long"),
        ("rows.json", b"ok\n\xe9", "not text in UTF-8: see line 2."),
        ("rows.csv", b"a,b\n1,2\n1,2,3\n", "line 3 has 3 columns, and the first line 2"),
        ("rows.csv", b"a,b\n1\n", "line 2 has 1 column, and the first line 2"),
        ("rows.csv", b"a,a\n1,2\n", "two columns are named 'a'"),
        ("rows.csv", b'a,b\n1,"2\n', "unexpected end of data (line 2)"),
        ("rows.tsv", b"a\tb\n1,2\n", "line 2 has 1 column"),
        ("rows.csv", b"a;b\n1,5;2,5\n", "its columns are separated by ';', not by ','"),
        ("-", b"a;b\n1;2\n", "its columns are separated by ';', not by ','"),
        ("rows.csv", b"a\tb\n1\t2\n", r"its columns are separated by '\t', not by ','"),
        ("rows.tsv", b"a,b\n1,2\n", r"its columns are separated by ',', not by '\t'"),
        ("seven.png", b"GET / HTTP/1.1", "seven.png is not an image."),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused_with_the_place(name: str, content: bytes, said: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        read(content, name)

    assert said in str(refused.value)
    assert refused.value.hint


def test_a_table_with_its_own_index_keeps_it_as_a_column(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "rows.csv")

    with (tmp_path / "rows.csv").open("rb") as file:
        assert list(read_input(file).columns) == ["Unnamed: 0", "a"]
