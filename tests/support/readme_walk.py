"""Runs the README from top to bottom as a shell script: every block as written, with what it assumes.

python3 tests/support/readme_walk.py    in a checkout, with only Python and its venv module; creates .venv

The region is replaced by the local stack. A block without an entry in KNOWN is an error, so that none is left out.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CODE = "build/readme/block.py"

# What a reader already has: a registered model with two versions, the first in Production, and rows to score.
MODELS = """
import mlflow, pandas
mlflow.set_experiment("churn")
for _ in range(2):
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="model", python_model="tests/support/doubler.py", input_example=pandas.DataFrame({"x": [1.0]}),
            pip_requirements=["pandas"], registered_model_name="churn",
        )
"""
PROMOTE = """
import sys, mlflow
mlflow.MlflowClient().transition_model_version_stage("churn", sys.argv[1], "Production", archive_existing_versions=True)
"""
TRAIN = """
import mlflow, mlflow_fargate
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
rows, species = load_iris(return_X_y=True, as_frame=True)
model = LogisticRegression(max_iter=500).fit(rows, species)
"""
SERVICE = """
@bentoml.service
class Digits:
    @bentoml.api
    def double(self, number: float) -> float:
        return float(generator.predict(pandas.DataFrame({"x": [number]}))["x"][0])
"""
ASK = """
from mlflow.deployments import get_deploy_client
print("the service says", get_deploy_client("fargate:/local").predict("churn", {"number": 7.0}))
"""
STACK = """
mlflow-fargate local up --detach
eval "$(mlflow-fargate local env)"
"""
UNTIL_VERSION_2 = """
for _ in $(seq 100); do
  mlflow deployments get -t fargate:/local --name churn | grep '^model_version: 2' && break
  sleep 3
done
mlflow deployments get -t fargate:/local --name churn | grep '^model_version: 2'
kill $!
wait $!
mlflow-fargate local down
"""
CREATE = "mlflow deployments create -t fargate:/local --name churn -C deregistration_delay_seconds=1 -m models:/churn/"
UPDATE = "mlflow deployments update -t fargate:/local --name churn -m models:/churn/"
DELETE = "mlflow deployments delete -t fargate:/local --name churn"


@dataclass(frozen=True)
class Around:
    """What the text assumes around a block: shell code, and for a Python block the rest of its file."""

    before: str = ""
    after: str = ""
    head: str = ""
    tail: str = ""


def python(code: str, *arguments: str) -> str:
    return shlex.join(["python", "-W", "ignore", "-c", code, *arguments])


# By the start of a block. None: not run, because the walk runs in a test, and the demo takes as long as the walk.
KNOWN = {
    "make demo": None,
    "python3 -m venv": Around(
        after=f"""pip install '.[local,webhook]' scikit-learn
{STACK}{python(MODELS)}
{python(PROMOTE, "1")}
echo '[{{"x": 1.5}}, {{"x": 2.0}}]' > rows.json"""
    ),
    "mlflow deployments create": Around(),
    "with mlflow.start_run": Around(
        head=TRAIN, tail="print(deployment.predict(rows.head(2)))", after=f"python -W ignore {CODE}\n{DELETE}"
    ),
    "from deployed import": Around(
        head="import bentoml, pandas", tail=SERVICE, after=f"{CREATE}1 -C service={CODE}\n{python(ASK)}\n{DELETE}"
    ),
    "mlflow-fargate plan": Around(before=f"{CREATE}1\n{UPDATE}2", after=DELETE),
    "pip install '.[local]'": Around(),
    "pip install '.[webhook]'": Around(
        before=f"{STACK}{python(PROMOTE, '1')}\n{CREATE}Production\nexport FARGATE_WEBHOOK_PORT=0",
        after=python(PROMOTE, "2") + UNTIL_VERSION_2,
    ),
}


def blocks(readme: str) -> list[str]:
    """Returns the text of every block that has a language."""
    return re.findall(r"^```\w+\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)


def script(readme: str) -> str:
    """Returns the whole script for bash; ValueError for a block without an entry in KNOWN."""
    first, *others = blocks(readme)
    if not any(text.startswith(first) for text in others):
        raise ValueError(f"the block at the top does not begin a later block:\n{first}")
    parts = ["set -eo pipefail", "trap 'mlflow-fargate local down' EXIT"]
    for text in others:
        known = [around for begin, around in KNOWN.items() if text.startswith(begin)]
        if not known:
            raise ValueError(f"no entry in KNOWN for this block:\n{text}")
        if known[0] is not None:
            parts += [known[0].before, *shell(text, known[0]), known[0].after]
    return "\n".join(parts).replace("fargate:/us-east-2", "fargate:/local")


def shell(text: str, around: Around) -> list[str]:
    """Returns the lines that show a block and run it; a Python block becomes a file."""
    if around.tail:
        code = f"{around.head}\n{text}\n{around.tail}"
        return [f"echo {shlex.quote(text)}", f"mkdir -p build/readme; cat > {CODE} <<'END'\n{code}\nEND"]
    lines = []
    for line in text.splitlines():
        has_changes = " || [ $? = 2 ]" if line.startswith("mlflow-fargate plan") else ""
        lines += [f"echo {shlex.quote('$ ' + line)}", line + (" &" if " serve " in line else has_changes)]
    return lines


if __name__ == "__main__":
    command = ["bash", "-c", script((ROOT / "README.md").read_text(encoding="utf-8"))]
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)
