"""Bodies that are made to exhaust a service or to make it fail: JSON in each form of MLflow's protocol, and CSV.

Where a value is sent that a message could repeat, it contains SECRET. The names are for the reports of tests.
"""

from __future__ import annotations

import json

SECRET = "DE00 0000 0000"

Bodies = dict[str, bytes]


def json_bombs() -> Bodies:
    """Returns bodies in JSON that are small for what they become, or large."""
    sparse = [{f"{SECRET}{number}": 1} for number in range(16_000)]
    wide, short = [0] * 16_000, [[]] * 16_000
    rows = range(16_000)
    bodies = {
        "records with different keys": {"dataframe_records": sparse},
        "records of one wide row": {"dataframe_records": [wide, *short]},
        "split with different keys": {"dataframe_split": {"columns": ["a"], "data": sparse}},
        "split of one wide row": {"dataframe_split": {"data": [wide, *short]}},
        "split of one value": {"dataframe_split": {"index": wide, "columns": wide, "data": 1}},
        "split of one text": {"dataframe_split": {"index": wide, "columns": wide, "data": SECRET}},
        "records with a long name": {"dataframe_records": [{SECRET * 400_000: 1}]},
        "split of a long name": {"dataframe_split": {"columns": [SECRET * 400_000, "b"], "data": [[1, 2]]}},
        "instances with a long name": {"instances": [{SECRET * 400_000: 1}]},
        "inputs with a long name": {"inputs": {SECRET * 400_000: [1]}},
        "split of nothing": {"dataframe_split": {"index": wide, "columns": wide, "data": []}},
        "split by column and row label": {"dataframe_split": {"data": {f"c{i}": {f"r{i}": 1} for i in rows}}},
        "instances with different keys": {"instances": sparse},
        "instances with one long text": {"instances": [*["a"] * 5000, SECRET * 10_000]},
        "inputs with one long text": {"inputs": {"a": [*["a"] * 5000, SECRET * 10_000], "b": [1.0]}},
        "nested inputs with one long text": {"inputs": [[["a"] * 5000], [[SECRET * 10_000]]]},
        "inputs with many keys": {"inputs": {f"k{i}": i for i in range(20_000)}},
        "records with many keys": {"dataframe_records": [{f"k{i}": i for i in range(80_000)}]},
        "ragged instances": {"instances": [[1.0], [1.0, 2.0], SECRET]},
        "wrong type of instances": {"instances": SECRET},
        "wrong type of split": {"dataframe_split": SECRET},
        "wrong type of records": {"dataframe_records": {"a": SECRET}},
        "records of records": {"dataframe_records": [{"a": {"b": SECRET}, "b": [SECRET]}]},
        "two forms": {"dataframe_records": sparse[:2], "inputs": SECRET},
    }
    raw = {
        "deep lists": b'{"inputs":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        "deep objects": b'{"inputs":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        "deep lists in a record": b'{"dataframe_records":[{"a":' + b"[" * 500 + b"]" * 500 + b',"b":1}]}',
        "lists that are not closed": b"[" * 1_000_000,
        "a number of 5,000 digits": b'{"dataframe_records":[{"a":' + b"7" * 5000 + b',"b":1}]}',
        "a number of 400 digits": b'{"dataframe_records":[{"a":' + b"7" * 400 + b',"b":1}]}',
        "empty lists": b'{"inputs":[' + b"[]," * 2_000_000 + b"[]]}",
        "small objects": b'{"dataframe_records":[' + b'{"a":1},' * 500_000 + b'{"a":1}]}',
        "empty objects": b'{"instances":[' + b"{}," * 1_000_000 + b"{}]}",
        "many small numbers": b'{"dataframe_split":{"columns":["a","b"],"data":[' + b"[1,2]," * 1_500_000 + b"[1,2]]}}",
        "a comma for each byte": b"," * 15_000_000,
        "wide characters": b'{"inputs":["' + "\U0001f600".encode() * 4_500_000 + b'"]}',
        "escaped characters": b'{"inputs":["' + b"\\ud83d\\ude00" * 1_500_000 + b'"]}',
        "another encoding": b'{"dataframe_records":[{"a":1},'.decode().encode("utf-16") + b"\xff" * 100,
        "no encoding": b'{"inputs": "\xff\xfe"}',
        "a byte order mark only": b"\xef\xbb\xbf",
        "nothing": b"",
        "zeros": bytes(1_000_000),
    }
    return {name: json.dumps(document).encode() for name, document in bodies.items()} | raw


# Each is sent in place of a number, in all forms.
_VALUES: Bodies = {
    "text": f'"{SECRET}"'.encode(),
    "a long text": f'"{SECRET * 5000}"'.encode(),
    "a text with a null character": b'"\\u0000"',
    "half a character": b'"\\ud83d"',
    "a date": b'"9999-99-99T99:99:99Z"',
    "base64": b'"////"',
    "true": b"true",
    "null": b"null",
    "NaN": b"NaN",
    "minus infinity": b"-Infinity",
    "a number too large for a double": b"1e999",
    "a number too small for a double": b"1e-999999999999",
    "a number of 70,000 decimal places": b"0." + b"3" * 70_000,
    "a number of 4,000 digits": b"9" * 4000,
    "2**63": b"9223372036854775808",
    "a leading zero": b"01",
    "a hexadecimal number": b"0x1F",
    "an empty list": b"[]",
    "an empty object": b"{}",
    "lists in lists": b"[" * 90 + b"]" * 90,
    "objects in objects": b'{"a":' * 90 + b"1" + b"}" * 90,
    "a list with an object": b'[{"a":[1,{"b":null}]},"x"]',
    "a key twice": b'{"a":1,"a":{"a":2}}',
    "a key that is a path": b'{"__class__":"os.system","../../x":1}',
    "a comment": b"1/**/",
    "no value": b"",
    "a line break": b"\n",
    "a byte that is not UTF-8": b"\xc3\x28",
}
_FORMS: Bodies = {
    "split": b'{"dataframe_split":{"columns":["a","b"],"data":[[1,%s],[%s,2]]}}',
    "split's columns": b'{"dataframe_split":{"columns":[%s,"b"],"index":[%s],"data":[[1,2]]}}',
    "records": b'{"dataframe_records":[{"a":1,"b":%s},{"a":%s,"b":2}]}',
    "instances": b'{"instances":[{"a":%s,"b":1},{"a":1,"b":%s}]}',
    "instances of lists": b'{"instances":[[1,%s],[%s,2]]}',
    "inputs": b'{"inputs":[[1,%s],[%s,2]]}',
    "named inputs": b'{"inputs":{"a":[1,%s],"b":[%s,2]}}',
    "params": b'{"dataframe_records":[{"a":1,"b":2}],"params":{"a":%s,"b":[%s]}}',
    "messages": b'{"messages":[{"role":%s,"content":%s}]}',
}


def json_values() -> dict[str, Bodies]:
    """Returns, for each form of MLflow's protocol, bodies with a hostile value in place of a number."""
    return {
        form: {f"{form}: {name}": template % (value, value) for name, value in _VALUES.items()}
        for form, template in _FORMS.items()
    }


def csv_bodies() -> Bodies:
    """Returns hostile bodies in CSV for a model of the columns a and b."""
    wide = b"," * 20_000
    secret = SECRET.encode()
    return {
        "a wide header": wide + b"\n" + b"1\n" * 20_000,
        "a wide first row": b"a\n" + wide + b"\n" + b"1\n" * 20_000,
        "a wide quoted header": b'"a\nb"' + wide + b"\n" + b"1\n" * 20_000,
        "a wide last row": b"a,b\n1,2\n" + wide,
        "an open quote": b'a,b\n"' + secret * 500_000,
        "quotes only": b'"' * 1_000_001,
        "line breaks": b"a,b\n" + b"1\r" * 5_000_000,
        "line breaks of each kind": b"a,b\r1,2\n\r3,4\r\n5" + b"\n\r" * 100_000,
        "no columns": b"\n" * 1_000_000,
        "commas only": b"," * 3_000_000,
        "wide characters": ("a,b\n" + "\U0001f600" * 2_000_000).encode(),
        "a long field": b"a,b\n1," + secret * 100_000,
        "a long number": b"a,b\n1," + b"9" * 100_000,
        "a number of many decimal places": b"a,b\n1,0." + b"3" * 100_000,
        "a column twice": b"a,a,b,b\n1,2,3,4\n",
        "20,000 columns of one name": b"a," * 20_000 + b"b\n1\n",
        "20,000 columns of one name after a long one": b"c" * 200_000 + b",a" * 20_000 + b"\n1\n",
        "a long name": secret * 400_000 + b",b\n1,2\n",
        "texts": b"a,b\n" + secret + b",x\n",
        "no rows": b"a,b\n",
        "no values": b"a,b\n,\n",
        "infinity": b"a,b\ninf,-Infinity\n1e999,NaN\n",
        "too few values": b"a,b\n1\n",
        "too many values": b"a,b\n1,2,3\n",
        "semicolons": b"a;b\n1;2\n",
        "a byte order mark": b"\xef\xbb\xbfa,b\nx,2\n",
        "another encoding": "a,b\n1,2".encode("utf-16"),
        "bytes that are not UTF-8": b"a,b\n\xff\xfe,\x80\n",
        "zeros": bytes(500_000),
        "a zero in a field": b"a,b\n1\x00,2\n",
        "a formula": b"a,b\n=cmd|' /C calc'!A0,2\n",
        "a compressed file": b"\x1f\x8b\x08\x00" + bytes(100),
        "nothing": b"",
    }
