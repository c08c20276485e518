"""Public advisories on the dependencies in setup.py: the first version without each serious flaw, and its source.

Serious: rated high or critical, or reachable here by what others send. As of November 2026. Only those are listed
that release notes or code show.
"""

from __future__ import annotations

from typing import NamedTuple


class Advisory(NamedTuple):
    """A flaw of `package`, fixed in `fixed`, as described at `source`; `checked` is what was compared with it."""

    package: str
    fixed: str
    source: str
    gist: str
    checked: str


_CODE = "the code of the oldest version that is allowed"
_NOTES = "the release notes in the package"
_GITHUB = "https://github.com/{}/security/advisories/GHSA-{}"
_CVE = "https://nvd.nist.gov/vuln/detail/CVE-{}"

ADVISORIES = (
    Advisory("aiohttp", "3.13.3", _CVE.format("2025-69223"), "a compressed request is a bomb", _NOTES),
    Advisory(
        "aiohttp", "3.14.1", "https://docs.aiohttp.org/en/stable/changes.html",
        "a client can send requests ahead without a limit", _NOTES,
    ),
    Advisory(
        "bentoml", "1.4.39", _GITHUB.format("bentoml/BentoML", "78f9-r8mh-4xm2"),
        "a base image's name becomes lines of a Dockerfile", _CODE,
    ),
    Advisory(
        "bentoml", "1.4.38", _GITHUB.format("bentoml/BentoML", "fgv4-6jr3-jgfw"),
        "command injection in a setup script", _CODE,
    ),
    Advisory("filelock", "3.20.3", _CVE.format("2026-22701"), "a lock follows a planted link", _CODE),
    Advisory("idna", "3.14", _CVE.format("2026-45409"), "quadratic time for long names, another way", _NOTES),
    Advisory("jinja2", "3.1.6", _CVE.format("2025-27516"), "a way out of the sandbox", _CODE),
    Advisory("mlflow", "3.5", _CVE.format("2025-14279"), "DNS rebinding reaches the server", _CODE),
    Advisory(
        "pillow", "13.0", "https://pillow.readthedocs.io/en/stable/releasenotes/13.0.0.html",
        "a JPEG writes beyond the decoder's buffer", _NOTES,
    ),
    Advisory("pydantic", "2.4", _CVE.format("2024-3772"), "exponential time for an address", _CODE),
    Advisory("pyyaml", "5.4", _CVE.format("2020-14343"), "full_load runs code", _NOTES),
    Advisory("requests", "2.32.4", _CVE.format("2024-47081"), "~/.netrc goes to other hosts", _NOTES),
    Advisory("scikit-learn", "1.5", _CVE.format("2024-5206"), "a vectorizer keeps all tokens", _CODE),
    Advisory(
        "urllib3", "2.8", _GITHUB.format("urllib3/urllib3", "vxq7-64xx-v4gw"), "a chunk's size has no limit", _NOTES,
    ),
    Advisory(
        "urllib3", "2.8", _GITHUB.format("urllib3/urllib3", "8988-9cw3-xx77"), "a proxy is not authenticated", _NOTES,
    ),
    Advisory(
        "urllib3", "2.7", _GITHUB.format("urllib3/urllib3", "qccp-gfcp-xxvc"),
        "a proxy's redirect gets the Authorization header", _NOTES,
    ),
    Advisory(
        "urllib3", "2.6.3", _GITHUB.format("urllib3/urllib3", "38jv-5279-wg99"), "a redirect's body is a bomb", _NOTES,
    ),
    Advisory(
        "uv", "0.11.15", "https://github.com/astral-sh/uv/blob/main/CHANGELOG.md", "a wheel writes outside its folder",
        "tests/test_distribution.py, with the oldest version that is allowed",
    ),
    Advisory(
        "waitress", "3.0.1", _GITHUB.format("Pylons/waitress", "9298-4cf8-g4wj"), "request smuggling by a race", _NOTES,
    ),
    Advisory(
        "waitress", "3.0.1", _GITHUB.format("Pylons/waitress", "3f84-rpwh-47g6"), "a half-open socket spins",
        _NOTES,
    ),
    Advisory(
        "werkzeug", "3.0.6", _GITHUB.format("pallets/werkzeug", "q34m-jh98-gwm2"), "a form fills the memory", _NOTES,
    ),
    Advisory(
        "werkzeug", "3.1.9", _GITHUB.format("pallets/werkzeug", "g6x2-hccm-hh4m"), "device names as paths on Windows",
        _NOTES,
    ),
)  # fmt: skip
# A floor below the fix, and why.
EXCEPTIONS = {
    "pillow>=12.3; python_version < '3.11'": "Pillow 13 does not support Python 3.10; use a newer Python for images",
}
# No serious advisory for any version that is allowed, as far as known.
NONE_KNOWN = frozenset(
    [
        "backports-tarfile",
        "boto3",
        "click",
        "cyclonedx-python-lib",
        "flask",
        "mlflow-skinny",
        "moto",
        "packaging",
        "platformdirs",
        "prometheus-client",
        "psutil",
        "pyelftools",
        "python-json-logger",
        "rich",
        "stamina",
        "tensorboard",
        "tensorflow",
        "tensorflow-cpu",
        "tomli",
        "zstandard",
    ]
)
