"""`mlflow-fargate image`: exports the image of a deployment, to run it elsewhere, and lists what is in it."""

from __future__ import annotations

from pathlib import Path

import click

from mlflow_fargate.cli.deployment.options import command_progress, quiet_option, target_option
from mlflow_fargate.cli.deployment.plan import parse_options
from mlflow_fargate.cli.extras import needed
from mlflow_fargate.target import cache_directory, parse_target


@click.group()
def image() -> None:
    """Export a model's image, or list its contents."""


@image.command(short_help="Write a model's image to a folder.")
@target_option
@click.option("--model-uri", "-m", required=True, help="Model URI, as in `mlflow deployments create`.")
@click.option(
    "--config", "-C", "config", multiple=True, metavar="KEY=VALUE", help="Deployment option; can be repeated."
)
@click.option("--tag", default="latest", show_default=True, help="Tag for the image in the layout.")
@click.option("--dockerfile", is_flag=True, help="Write a Dockerfile and its build context instead of an image.")
@quiet_option
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def export(*, target: str, model_uri: str, config: tuple[str, ...], tag: str, dockerfile: bool, folder: Path) -> None:
    """Build the image that a deployment would run, and write it to FOLDER as an OCI image layout.

    Prints the image's digest. Changes nothing in AWS, and does not need Docker. To use the layout:

    \b
      podman run -p 3000:3000 oci:FOLDER:latest
      skopeo copy oci:FOLDER:latest docker://ghcr.io/me/churn:1

    Docker before 23.0 cannot read zstd layers, nor can older skopeo releases (such as 1.9) when they copy to
    Docker's own formats. For those, add -C compression=gzip to the export; then:

    \b
      tar -C FOLDER -c . | docker load    # the folder's name is the image's
      skopeo copy oci:FOLDER:latest docker-daemon:churn:1
      skopeo copy oci:FOLDER:latest docker-archive:churn.tar:churn:1

    With --dockerfile, FOLDER instead gets a Dockerfile, the pinned requirements, the service's code and the model, so
    you can build the image yourself:

    \b
      docker build -t churn FOLDER
    """
    # boto3 takes a second to load: --help should not wait for it.
    from mlflow_fargate.aws.account import Account  # noqa: PLC0415
    from mlflow_fargate.config import parse_config  # noqa: PLC0415
    from mlflow_fargate.publisher import Publisher  # noqa: PLC0415

    where = parse_target(target)
    publisher = Publisher(where, Account(where), cache_directory(), command_progress())
    parsed = parse_config(parse_options(config))
    model = publisher.resolve(model_uri, parsed.labels)
    if dockerfile:
        publisher.export_dockerfile(model, parsed, folder)
        click.echo(folder / "Dockerfile")
    else:
        click.echo(publisher.export(model, parsed, folder, tag))


@image.command(short_help="Print the software bill of materials (SBOM) of an image.")
@target_option
@click.option("--tag", default="latest", show_default=True, help="Tag of the image, if IMAGE is a folder.")
@click.argument("image")
def sbom(*, target: str, tag: str, image: str) -> None:
    """Print the software bill of materials (SBOM) of IMAGE, as CycloneDX 1.6 JSON.

    IMAGE is a folder written by `image export`, or an image in a registry. The SBOM lists the Python packages (with
    licenses and wheel hashes), the Debian packages, the model and the base image. The same image always
    produces the same SBOM.

    \b
      mlflow-fargate image export -m models:/churn/Production churn-image
      mlflow-fargate image sbom churn-image > churn.cdx.json
    """
    from mlflow_fargate.aws.account import Account  # noqa: PLC0415
    from mlflow_fargate.image import OciLayout, Reference  # noqa: PLC0415
    from mlflow_fargate.publisher import registry_at  # noqa: PLC0415

    with needed("sbom"):
        from mlflow_fargate.image.sbom import make_sbom, read_content  # noqa: PLC0415
    if Path(image, "oci-layout").is_file():
        layout = OciLayout(Path(image))
        content = read_content(layout, Reference("localhost", layout.name, tag))
    else:
        where, reference = parse_target(target), Reference.parse(image)
        with registry_at(reference.registry, where, lambda: Account(where).registry_login()) as registry:
            content = read_content(registry, reference)
    click.echo(make_sbom(content))
