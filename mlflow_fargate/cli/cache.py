"""`mlflow-fargate cache`: what this package keeps on this machine, and how to free it."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import click

from mlflow_fargate.cli.deployment.options import print_table
from mlflow_fargate.errors import FargateError, LocalStackError
from mlflow_fargate.progress import format_bytes
from mlflow_fargate.target import cache_directory, read_local_state

# Only these are deleted, and only beside nothing else: MLFLOW_FARGATE_CACHE may name a folder with other files.
_BUILDS = {
    "bases": "what base images contain",
    "blobs": "layers of images",
    "bytecode": "compiled packages",
    "debian": "Debian's packages",
    "file-lists": "what layers of packages contain",
    "layers": "which layers are built",
    "locks": "versions of packages",
    "models": "downloaded models",
    "shared-libraries": "which libraries packages need",
    "smoke-test": "unpacked layers for smoke tests",
    "smoke-tested": "which images passed their smoke test",
    "work": "files of builds that were killed",
}
_LOCAL = {"local": "the local stack: images, models, runs and logs"}
_KEPT = {"demo.log"}


@click.group(short_help="Show or free the disk space that builds use.")
def cache() -> None:
    """Show or free the disk space that builds and the local stack use on this machine."""


@cache.command(short_help="Show how much disk space is used.")
def size() -> None:
    """Show how much disk space each part of the cache uses."""
    place = cache_directory()
    sizes = {name: _size_of(place / name) for name in (*_BUILDS, *_LOCAL)}
    click.echo(place)
    described = (_BUILDS | _LOCAL).items()
    print_table(("SIZE", "FOLDER", "CONTENT"), [(format_bytes(sizes[name]), name, what) for name, what in described])
    click.echo(f"{format_bytes(sum(sizes.values()))} in total")


@cache.command(short_help="Delete what builds have cached.")
@click.option("--local", is_flag=True, help="Also delete the local stack's images, models, runs and logs.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def clear(local: bool, yes: bool) -> None:
    """Delete what builds have cached; the next build takes longer. Builds that are running now may fail.

    The local stack's own data is kept unless you add --local.
    """
    place = cache_directory()
    if local and read_local_state(place):
        raise LocalStackError("The local stack is running.", hint="stop it first: mlflow-fargate local down")
    if others := sorted(path.name for path in place.glob("*") if path.name not in {*_BUILDS, *_LOCAL, *_KEPT}):
        raise FargateError(
            f"{place} also has files that mlflow-fargate did not write: {', '.join(map(repr, others[:5]))}.",
            hint="move them, or delete the folders in `mlflow-fargate cache size` yourself",
        )
    folders = [place / name for name in (_BUILDS | (_LOCAL if local else {})) if (place / name).is_dir()]
    freed = format_bytes(sum(map(_size_of, folders)))
    if not yes:
        click.confirm(f"Delete {freed} in {place} ({', '.join(folder.name for folder in folders)})?", abort=True)
    for folder in folders:
        try:
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
        except OSError as error:
            advice = "check who owns it, and whether a build is running; then run the command again"
            raise FargateError(f"{folder} could not be deleted: {error.strerror}.", hint=advice) from error
    click.echo(f"{freed} freed")


def _size_of(folder: Path) -> int:
    """Returns the bytes on disk; a file with several names counts once."""
    found: dict[tuple[int, int], int] = {}
    for below, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                one = os.lstat(Path(below, name))
                found[one.st_dev, one.st_ino] = one.st_blocks * 512
    return sum(found.values())
