"""The documentation matches the code: commands exist, generated pages are current, links work."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow.cli import cli as mlflow_cli

from mlflow_fargate.cli import main
from mlflow_fargate.deployments.costs import read_prices
from support.console_page import commands_of
from support.documented_commands import check_command
from support.readme_walk import script

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text("utf-8")


def test_the_options_page_is_the_current_output_of_the_command() -> None:
    written = CliRunner().invoke(main, ["schema", "--markdown"]).output

    assert (DOCS / "options.md").read_text("utf-8") == written, "mlflow-fargate schema --markdown > docs/options.md"


# Mistakes on troubleshooting.md; test_first_hour.py makes them.
TYPOS = {
    "mlflow-fargate statis -t fargate:/us-east-2 --name churn",
    "mlflow deployments create -t fargate:/us-east-2 --name churn -m ./model -C cpus=2048",
}
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *DOCS.rglob("*.md")])


def commands(page: Path) -> Iterator[str]:
    """Yields every command of mlflow-fargate and MLflow on a page, in shell blocks and between backticks."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```(?:bash|console|sh)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    if page.name == "cli.md":
        lines = commands_of(text)  # without the output that follows them
    lines += re.findall(
        r"`((?:mlflow-fargate|mlflow deployments|make) [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    )
    for line in lines:
        found = re.search(r"(?:^|[\s(\"])((?:mlflow-fargate|mlflow deployments|make) .*)", line)
        if found and "…" not in found[1]:
            command = re.split(r"\)\"$| [|#>] |;", found[1].removesuffix(" -C"))[0]  # inside "$(…)", piped, commented
            yield command.strip()


@pytest.mark.parametrize(
    ("page", "command"),
    [(page, command) for page in PAGES for command in dict.fromkeys(commands(page))],
    ids=lambda value: value.stem if isinstance(value, Path) else value[:60],
)
def test_every_command_in_the_docs_exists_with_its_options(page: Path, command: str) -> None:
    if command in TYPOS:
        with pytest.raises(AssertionError):
            check_command(command)
    else:
        check_command(command)


def test_the_command_line_page_shows_every_command() -> None:
    """test_cli_page.py checks that the output is current."""
    shown = commands_of((DOCS / "cli.md").read_text("utf-8"))

    deployments = mlflow_cli.commands["deployments"]
    verbs = [f"mlflow deployments {verb}" for verb in deployments.commands] + [
        f"mlflow-fargate {verb}" for verb in main.commands
    ]
    missing = [verb for verb in verbs if not any(command.startswith(f"{verb} ") for command in shown)]
    assert missing == []


def test_the_costs_in_the_readme_are_those_of_the_price_table() -> None:
    prices = read_prices()

    def month(cpu: float, gib: float, architecture: str = "X86_64") -> str:
        hour = cpu * prices.vcpu_hour[architecture] + gib * prices.gib_hour[architecture] + prices.public_address_hour
        return f"{hour * prices.hours_a_month:.2f}"

    shown = README.partition("## What it costs")[2].partition("\n## ")[0]
    balancer = f"{prices.load_balancer_hour * prices.hours_a_month:.2f}"
    assert re.findall(r"\| ([\d.]+) \|$", shown, re.MULTILINE) == [
        month(0.25, 0.5),
        month(1, 2),
        month(1, 2, "ARM64"),
        balancer,
    ]
    assert prices.read_on in shown
    assert prices.region in shown


def test_every_link_in_the_readme_points_to_a_file() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link]

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_every_link_of_the_other_pages_points_to_a_file(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text("utf-8")) if "://" not in link]

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_promise_of_the_security_page_names_tests_that_exist() -> None:
    table = (DOCS / "security.md").read_text("utf-8").partition("## What is tested")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]

    named = [re.findall(r"`(tests/[\w/.]+)`", row) for row in rows]
    assert len(rows) > 5 and all(named)
    assert [path for paths in named for path in paths if not (ROOT / path).is_file()] == []


DESIGN_PAGES = [ROOT / "ARCHITECTURE.md", *sorted((DOCS / "design").glob("*.md"))]
CODE = [ROOT / name for name in ("mlflow_fargate", "webhook", "service_template", "onnx_converter", "tests")]


@pytest.mark.parametrize("page", DESIGN_PAGES, ids=lambda page: page.stem)
def test_every_file_and_folder_of_code_that_a_design_page_names_exists(page: Path) -> None:
    """Searches the whole project: pages refer to modules by the end of their path."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    named = set(re.findall(r"`((?:\w+/)*(?:\w+\.py|\w+/))`", text))
    known = {path.as_posix() for top in CODE for path in (top, *top.rglob("*"))}

    assert named
    assert sorted(name for name in named if not any(path.endswith(f"/{name.rstrip('/')}") for path in known)) == []


def test_every_block_of_the_readme_is_run_by_the_walk() -> None:
    """test_distribution.py runs the walk, in a separate virtual environment."""
    with pytest.raises(ValueError, match="no entry in KNOWN"):
        script(README + "\n```bash\nmlflow-fargate dance\n```\n")

    assert "mlflow-fargate rollback -t fargate:/local --name churn" in script(README)


@pytest.mark.exhaustive
def test_the_site_is_built_without_broken_links() -> None:
    done = subprocess.run(["make", "docs"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "fonts.googleapis" not in (ROOT / "build" / "site" / "index.html").read_text("utf-8")
