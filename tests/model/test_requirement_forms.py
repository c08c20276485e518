"""Requirement lines as people's models have them: which packages the image gets, or what the error says to do."""

from __future__ import annotations

import re
import sys
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlflow_fargate.bento import read_custom_service
from mlflow_fargate.config import parse_config
from mlflow_fargate.deployments.flavors import check_flavor
from mlflow_fargate.errors import FargateError, ImageError, ModelUnusable
from mlflow_fargate.image import normalize
from mlflow_fargate.image.oci.platforms import LINUX_AMD64
from mlflow_fargate.image.packages.lock_file import LockedPackage, check_hashes
from mlflow_fargate.image.packages.uv import install, lock, why_nothing_is_built
from mlflow_fargate.model.artifacts import ArtifactStores
from mlflow_fargate.model.resolve import resolve_model
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.publisher.inputs import image_inputs
from mlflow_fargate.requirement_files import without_hashes
from mlflow_fargate.resolved_model import ResolvedModel

MLMODEL = "flavors: {python_function: {loader_module: m, data: model.pkl}}\n"
SHA = "sha256:" + "0" * 64
FILES = {
    "constraints.txt": "numpy<2.2\nsix  # in any version\n-c more/limits.txt\n",
    "more/limits.txt": "pyyaml>=6\n-r deeper.txt",
    "more/deeper.txt": "tomli>=2",
    "base.txt": "numpy==1.26.4\n-c constraints.txt\n",
    "loop.txt": "-r loop.txt",
    "wheels/six-1.17.0-py2.py3-none-any.whl": "",
}


def resolve(folder: Path) -> ResolvedModel:
    def no_s3() -> ArtifactStores:
        raise AssertionError("a local model needs no S3")

    return resolve_model(
        str(folder), stores=ArtifactStores(s3=no_s3), progress=RecordedProgress(), tracking_uri="sqlite://"
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for name, content in {"MLmodel": MLMODEL, "model.pkl": "pickled", **FILES}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def lines_for(folder: Path, text: str, **options: object) -> tuple[str, ...]:
    """Returns the lines for uv that the model's requirements lead to, without those that every image has."""
    (folder / "requirements.txt").write_text(text)
    inputs = image_inputs(resolve(folder), parse_config(options))
    lines = normalize(inputs.requirements, machine="x86_64").lines
    every_image = ("bentoml", "mlflow-skinny", "httptools", "uvloop", "orjson", "pandas")
    return tuple(line for line in lines if not line.startswith(every_image))


LIMITS = ("-c numpy<2.2", "-c pyyaml>=6", "-c tomli>=2")


@pytest.mark.parametrize(
    ("requirements", "lines"),
    [
        ("numpy==1.26.4", ("numpy==1.26.4",)),
        ("numpy  # any\n\n# numpy<1\n", ("numpy",)),
        ("Numpy>=1.26 ; python_version > '3.8'", ('numpy>=1.26; python_version > "3.8"',)),
        ("numpy\n-c constraints.txt", ("numpy", *LIMITS)),
        ("numpy\n--constraint=constraints.txt", ("numpy", *LIMITS)),
        ("numpy\n-cconstraints.txt", ("numpy", *LIMITS)),
        ("-r base.txt", ("numpy==1.26.4", *LIMITS)),
        ("--requirement ./base.txt", ("numpy==1.26.4", *LIMITS)),
        ("-r loop.txt\n-c loop.txt\nnumpy", ("numpy",)),
        ("-c base.txt\n-r base.txt", ("numpy==1.26.4", "-c numpy<2.2", "-c numpy==1.26.4", *LIMITS[1:])),
        (f"numpy==1.26.4 --hash={SHA}", ("numpy==1.26.4", f"-c numpy==1.26.4 --hash={SHA}")),
        (f"numpy==1.26.4 \\\n    --hash={SHA}", ("numpy==1.26.4", f"-c numpy==1.26.4 --hash={SHA}")),
        ("-i https://pypi.org/simple\nnumpy", ("numpy",)),
        ("--require-hashes\n--prefer-binary\n--only-binary :all:\nnumpy", ("numpy",)),
        ("tensorflow==2.21.0\n-c constraints.txt", ("tensorflow-cpu==2.21.0", *LIMITS)),
        ("xgboost===2.0.0", ("xgboost===2.0.0",)),
        ("six @ https://h.example/six-1-py3-none-any.whl", ("six@ https://h.example/six-1-py3-none-any.whl",)),
    ],
)
def test_a_line_that_the_model_decides_is_followed(model: Path, requirements: str, lines: tuple[str, ...]) -> None:
    assert [line.replace("six @", "six@") for line in lines_for(model, requirements)] == list(lines)


@pytest.mark.parametrize(
    ("line", "way_out"),
    [
        ("-c /home/me/limits.txt", "refers to another file"),
        ("-r ../base.txt", "refers to another file"),
        ("-r https://h.example/base.txt", "refers to another file"),
        ("-c absent.txt", "refers to another file"),
        ("-i https://h.example/simple", "extra_index_urls=https://h.example/simple"),
        ("--extra-index-url https://me:pw@h.example/whl", "extra_index_urls=https://h.example/whl"),
        ("-f https://h.example/torch.html", "find_links=https://h.example/torch.html"),
        ("--find-links=https://h.example/torch.html", "find_links=https://h.example/torch.html"),
        ("--find-links elsewhere", "option find_links="),
        ("--trusted-host h.example", "UV_INSECURE_HOST"),
        ("--no-binary six", "build_sdists=true"),
        ("--no-index", "index_url and extra_index_urls"),
        ("--pre", "requirements=NAME==VERSION"),
        ("-e .", "code_paths"),
        ("--editable ./code", "code_paths"),
        ("./wheels/absent-1.17.0-py2.py3-none-any.whl", "publish the package to an index"),
        ("six @ file:///srv/six.whl", "publish the package to an index"),
        ("six @ http://h.example/six-1-py3-none-any.whl", "https://"),
        ("git+https://github.com/o/six.git@v1", "'requirements=six @ https://github.com/o/six/archive/v1.zip'"),
        ("a @ git+ssh://git@h.example/a", "build a wheel"),
        ("six==${VERSION}", "environment variable"),
        ("six six", "update_model_requirements()"),
        ("numpy @ file:///croot/numpy_1/work", "requirements=NAME==VERSION"),
        (f"six==1.17.0 --hash=md5:{'0' * 32}", "SHA-256"),
        (f"six @ https://h.example/six-1-py3-none-any.whl#egg=six&SHA1%3D{'0' * 40}", "SHA-256"),
    ],
)
def test_a_line_that_only_the_deployer_decides_is_refused_with_what_to_do(model: Path, line: str, way_out: str) -> None:
    with pytest.raises(FargateError) as refused:
        lines_for(model, f"numpy\n{line}\n")

    assert way_out in str(refused.value)
    assert "me:pw" not in str(refused.value)


def test_places_that_the_options_name_are_used(model: Path) -> None:
    line = "--extra-index-url https://a.example/whl/\n-f https://b.example/torch.html\nnumpy"

    lines = lines_for(model, line, extra_index_urls="https://a.example/whl", find_links="https://b.example/torch.html")

    assert lines == ("numpy",)


@pytest.mark.parametrize(
    ("line", "option", "lines"),
    [
        ("numpy==1.26.4\n-c constraints.txt", "numpy==2.2.1", ("numpy==2.2.1", *LIMITS[1:])),
        ("Six[more]==1.16.0", "six>=1.17,<2", ("six[more]<2,>=1.17",)),
        ("six==1.16.0", "six", ("six==1.16.0",)),
        ("six @ file:///croot/six_1/work", "six", ("six",)),
        ("six @ https://h.example/six-1.zip", "six==1.17.0", ("six==1.17.0",)),
        ("-e git+ssh://git@h.example/six@v1#egg=six", "six==1.17.0", ("six==1.17.0",)),
        ("../dist/six-1.0-py3-none-any.whl", "six==1.17.0", ("six==1.17.0",)),
    ],
)
def test_the_deployers_line_replaces_the_models(model: Path, line: str, option: str, lines: tuple[str, ...]) -> None:
    assert lines_for(model, line, requirements=option) == lines


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("line", "archive"),
    [
        (f"six @ git+https://github.com/o/six.git@{COMMIT}", f"six @ https://github.com/o/six/archive/{COMMIT}.zip"),
        (f"git+https://github.com/o/r@{COMMIT}#egg=six", f"six @ https://github.com/o/r/archive/{COMMIT}.zip"),
        (
            f"six @ git+https://github.com/o/r@{COMMIT}#subdirectory=py/six",
            f"six @ https://github.com/o/r/archive/{COMMIT}.zip#subdirectory=py/six",
        ),
    ],
)
def test_a_commit_on_github_that_the_deployer_names_is_its_archive(model: Path, line: str, archive: str) -> None:
    assert lines_for(model, "numpy", requirements=line) == ("numpy", archive)
    with pytest.raises(ImageError, match="is a source distribution"):
        lines_for(model, line)
    with pytest.raises(ImageError, match="is a source distribution"):
        lines_for(model, "numpy", requirements=line.replace(COMMIT, "main"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_files_with_a_byte_order_mark_are_read(model: Path, encoding: str) -> None:
    (model / "constraints.txt").write_bytes("numpy<2.2\r\n".encode(encoding))
    (model / "requirements.txt").write_bytes(
        "numpy \\\r\n ; python_version > '3'\r\n-c constraints.txt".encode(encoding)
    )
    (model / "python_env.yaml").write_bytes("python: 3.12.1\r\n".encode(encoding))

    assert resolve(model).requirements == ("numpy   ; python_version > '3'", "-c numpy<2.2")
    assert resolve(model).python_version == "3.12.1"
    (model / "requirements.txt").unlink()
    (model / "python_env.yaml").unlink()
    (model / "conda.yaml").write_bytes(CONDA.encode(encoding))
    (model / "base.txt").write_text("six")
    assert resolve(model).requirements == ("mlflow", "numpy==1.26.4", "six")
    assert resolve(model).python_version == "3.11.7"


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("MLmodel", MLMODEL.encode("utf-16"), 1),  # MLflow itself reads only UTF-8
        ("MLmodel", f"{MLMODEL}run_id: grün".encode("latin1"), 2),
        ("requirements.txt", "numpy\nsix\n".encode("utf-16-le"), 1),
        ("requirements.txt", "numpy\n# grün\nsix-grün".encode("latin1"), 3),
        ("conda.yaml", "name: x\nchannels: [grün]".encode("latin1"), 2),
        ("python_env.yaml", b"python: 3.12\0.1", 1),
    ],
)
def test_a_file_in_another_encoding_is_refused_with_the_line(model: Path, name: str, content: bytes, line: int) -> None:
    (model / name).write_bytes(content)

    with pytest.raises(ModelUnusable, match=rf"/{name} is not text in UTF-8: see line {line}\.") as refused:
        resolve(model)

    assert "log the model again" in str(refused.value)


def test_comments_can_have_any_encoding(model: Path) -> None:
    (model / "requirements.txt").write_bytes("numpy  # grün\n# grün\n".encode("latin1"))

    assert resolve(model).requirements == ("numpy",)


@pytest.mark.slow
def test_a_constraint_limits_what_is_locked_but_installs_nothing(tmp_path: Path) -> None:
    limits = ["-c numpy<2.2", "-c six==1.16.0", "-c tomli<2"]

    locked = lock(["numpy", "six", *limits], python_version="3.11", platform=LINUX_AMD64, cache=tmp_path)

    versions = {package.name: package.version for package in locked.packages}
    assert versions.keys() == {"numpy", "six"}
    assert versions["six"] == "1.16.0"
    assert versions["numpy"].startswith("2.1.")


def test_a_file_with_another_hash_is_refused() -> None:
    packages = [LockedPackage("six", "six==1.17.0", (SHA,)), LockedPackage("urls", "urls @ https://h/u.whl", (SHA,))]
    other = SHA.replace("0", "1")

    check_hashes(packages, ["six", f"-c six==1.17.0 --hash={other} --hash={SHA}", f"-c six==1.16 --hash={other}"])
    with pytest.raises(ImageError, match=r"six 1\.17\.0 has another hash"):
        check_hashes(packages, [f"-c six==1.17.0 --hash={other}"])


def test_files_that_include_each_other_a_million_times_are_read_once(model: Path) -> None:
    for name, inner in {"a": "b", "b": "c", "c": "d"}.items():
        (model / f"{name}.txt").write_text(f"-r {inner}.txt\n-c {inner}.txt\n" * 500)
    (model / "d.txt").write_text("six" + " " * 1_900 + "==1.17.0\n")

    assert lines_for(model, "-r a.txt\n" * 1000) == ("six==1.17.0", "-c six==1.17.0")
    for number in range(30):
        (model / f"{number}.txt").write_text("six\n")
    with pytest.raises(ImageError, match="refers to another file"):
        lines_for(model, "".join(f"-r {number}.txt\n" for number in range(30)))


def test_a_line_of_spaces_is_read_in_linear_time() -> None:
    began = time.process_time()

    without_hashes("six" + " " * 1_000_000 + "x")

    assert time.process_time() - began < 20  # quadratic time is hours


CONDA = """
channels: [conda-forge]
dependencies:
- python=3.11.7
- pip<=23
- scikit-learn=1.5.0=py311
- conda-forge::libgcc
- pip: [mlflow, numpy==1.26.4, -r base.txt]
"""


def test_packages_that_only_conda_installs_are_refused_with_the_option_for_them(model: Path) -> None:
    (model / "conda.yaml").write_text(CONDA)
    resolved = resolve(model)

    assert resolved.requirements[:2] == ("mlflow", "numpy==1.26.4")
    assert resolved.python_version == "3.11.7"
    with pytest.raises(ModelUnusable, match=r"scikit-learn==1\.5\.0, libgcc") as refused:
        image_inputs(resolved, parse_config({"requirements": "scipy==1.14.1"}))
    assert "requirements=scipy==1.14.1,scikit-learn==1.5.0,libgcc" in str(refused.value)
    image_inputs(resolved, parse_config({"requirements": "scikit-learn==1.5.0,libgcc"}))


@pytest.mark.parametrize(
    ("spec", "package"),
    [
        ("six=1.16=py_0", "six==1.16"),
        ("six 1.16.* py_0", "six==1.16.*"),
        ("conda-forge::six>=1.16,<2", "six>=1.16,<2"),
        ("six[version='>=1.16,<2']", "six>=1.16,<2"),
        ("conda-forge/linux-64::six=*", "six"),
        ("six", "six"),
        ("null", ""),
    ],
)
def test_a_package_of_conda_is_named_as_pip_does(model: Path, spec: str, package: str) -> None:
    (model / "conda.yaml").write_text(f'dependencies: ["{spec}", null, {{pip: [null]}}]')

    assert resolve(model).conda_packages == ((package,) if package else ())
    if package:  # and no requirements.txt
        with pytest.raises(ModelUnusable, match=re.escape(f"requirements={package}")):
            image_inputs(resolve(model), parse_config({}))


@pytest.mark.parametrize("name", ["MLmodel", "model.pkl"])
def test_a_git_lfs_pointer_is_named(model: Path, name: str) -> None:
    (model / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid {SHA}\nsize 1234567\n")

    with pytest.raises(ModelUnusable, match=rf"/{name} is a Git LFS pointer"):
        resolve(model)


@pytest.mark.parametrize("name", ["MLmodel", "model.pkl"])
def test_an_empty_file_is_named(model: Path, name: str) -> None:
    (model / name).write_text("")

    with pytest.raises(ModelUnusable, match=rf"/{name} is empty"):
        resolve(model)


def test_a_model_that_mlflow_cannot_serve_is_refused_unless_code_loads_it(model: Path) -> None:
    (model / "MLmodel").write_text("flavors: {sklearn: {}, mleap: {}}\n")
    (model / "requirements.txt").write_text("numpy\n")

    with pytest.raises(ModelUnusable, match=r"no flavor python_function.*its flavors are: mleap, sklearn") as refused:
        image_inputs(resolve(model), parse_config({}))
    assert "service=PATH.py" in str(refused.value)
    (model / "service.py").write_text("import bentoml\n")
    image_inputs(resolve(model), parse_config({"service": str(model / "service.py")}))


@pytest.mark.parametrize("flavor", [None, "python_function"])
def test_an_explainer_is_deployed_only_on_request(model: Path, flavor: str | None) -> None:
    (model / "MLmodel").write_text("flavors: {python_function: {}, shap: {}}\n")
    explainer = resolve(model)

    with pytest.raises(ModelUnusable, match=r"(?s)is an explainer, not a model.*-f shap"):
        check_flavor(explainer, flavor)
    check_flavor(explainer, "shap")


SERVICE = """
import bentoml

image = bentoml.images.Image(python_version="3.11").python_packages("scipy==1.14.1", "-c limits.txt")
image.system_packages("git")

@bentoml.service(image=image, labels={"team": "x"}, resources={"cpu": "2"}, workers=2, traffic={"timeout": 9})
class Main:
    pass
"""


def test_a_services_packages_are_installed_and_settings_without_effect_are_named(model: Path) -> None:
    (model / "service.py").write_text(SERVICE)
    (model / "requirements.txt").write_text("numpy\n-r base.txt\n")
    (model / "limits.txt").write_text("six<2\n")

    service = read_custom_service(model / "service.py")

    assert service.requirements == ("numpy", "numpy==1.26.4", *LIMITS, "scipy==1.14.1", "-c six<2")
    assert [note.partition(" of @bentoml.service has no effect: ")[::2] for note in service.unused] == [
        ("system_packages", "set the option system_packages"),
        ("resources", "the options cpu and memory size a task"),
        ("labels", "set the option tags"),
    ]


BACKEND = """
import zipfile

def build_wheel(directory, *_):
    with zipfile.ZipFile(f"{directory}/tiny-1-py3-none-any.whl", "w") as wheel:
        files = {"tiny.py": "", "tiny-1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\n"}
        files["tiny-1.dist-info/WHEEL"] = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        for name, content in {**files, "tiny-1.dist-info/RECORD": "".join(f"{name},,\\n" for name in files)}.items():
            wheel.writestr(name, content)
    return "tiny-1-py3-none-any.whl"
"""


@pytest.mark.slow
def test_an_archive_of_a_repository_is_built_only_where_that_is_allowed(tmp_path: Path) -> None:
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    with zipfile.ZipFile(tmp_path / "v1.zip", "w") as archive:
        archive.writestr("tiny-1/pyproject.toml", f'[project]\nname = "tiny"\nversion = "1"\n{system}')
        archive.writestr("tiny-1/backend.py", BACKEND)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lines = [f"tiny @ http://127.0.0.1:{server.server_port}/v1.zip"]
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    try:
        with pytest.raises(ImageError, match=r"No wheel for tiny.*build_sdists=false"):
            lock(lines, python_version=here, platform=LINUX_AMD64, cache=tmp_path / "cache")
        if why_nothing_is_built(here, LINUX_AMD64, is_allowed=True) is None:
            locked = lock(lines, python_version=here, platform=LINUX_AMD64, cache=tmp_path / "cache", build_sdists=True)
            (tmp_path / "site").mkdir()
            install(locked, tmp_path / "site")
            assert (tmp_path / "site" / "tiny.py").is_file()
    finally:
        server.shutdown()
        server.server_close()
