"""Public advisories on the dependencies in setup.py: the first version without each serious flaw, and its source.

Serious: rated high or critical, or reachable here by what others send. As of November 2026.
"""

from __future__ import annotations

from typing import NamedTuple


class Advisory(NamedTuple):
    """A flaw of `package`, fixed in `fixed`, as described at `source`."""

    package: str
    fixed: str
    source: str
    gist: str


ADVISORIES = (
    Advisory(
        "aiohttp", "3.14.5", "https://github.com/aio-libs/aiohttp/security/advisories/GHSA-5wr8-gcqf-gqf3",
        "a server waits for a request's headers without a limit",
    ),
    Advisory(
        "aiohttp", "3.14.5", "https://github.com/aio-libs/aiohttp/security/advisories/GHSA-2g87-pp6c-29x5",
        "memory and CPU without bounds",
    ),
    Advisory("aiohttp", "3.13.3", "https://nvd.nist.gov/vuln/detail/CVE-2025-69223", "a compressed request is a bomb"),
    Advisory(
        "bentoml", "1.4.39", "https://github.com/bentoml/BentoML/security/advisories/GHSA-78f9-r8mh-4xm2",
        "a base image's name becomes lines of a Dockerfile",
    ),
    Advisory(
        "bentoml", "1.4.38", "https://github.com/bentoml/BentoML/security/advisories/GHSA-fgv4-6jr3-jgfw",
        "command injection in a setup script",
    ),
    Advisory("filelock", "3.20.3", "https://nvd.nist.gov/vuln/detail/CVE-2026-22701", "a lock follows a planted link"),
    Advisory("idna", "3.7", "https://nvd.nist.gov/vuln/detail/CVE-2024-3651", "quadratic time for long names"),
    Advisory("jinja2", "3.1.6", "https://nvd.nist.gov/vuln/detail/CVE-2025-27516", "a way out of the sandbox"),
    Advisory("mlflow", "3.5", "https://nvd.nist.gov/vuln/detail/CVE-2025-14279", "DNS rebinding reaches the server"),
    Advisory(
        "pillow", "13.0", "https://pillow.readthedocs.io/en/stable/releasenotes/13.0.0.html",
        "a JPEG writes beyond the decoder's buffer",
    ),
    Advisory("pydantic", "2.4", "https://nvd.nist.gov/vuln/detail/CVE-2024-3772", "exponential time for an address"),
    Advisory("pyyaml", "5.4", "https://nvd.nist.gov/vuln/detail/CVE-2020-14343", "full_load runs code"),
    Advisory("requests", "2.32.4", "https://nvd.nist.gov/vuln/detail/CVE-2024-47081", "~/.netrc goes to other hosts"),
    Advisory("scikit-learn", "1.5", "https://nvd.nist.gov/vuln/detail/CVE-2024-5206", "a vectorizer keeps all tokens"),
    Advisory(
        "urllib3", "2.7", "https://github.com/urllib3/urllib3/security/advisories/GHSA-qccp-gfcp-xxvc",
        "a proxy's redirect gets the Authorization header",
    ),
    Advisory("urllib3", "2.6.3", "https://nvd.nist.gov/vuln/detail/CVE-2026-21441", "a redirect's body is a bomb"),
    Advisory(
        "uv", "0.11.15", "https://github.com/astral-sh/uv/blob/main/CHANGELOG.md", "a wheel writes outside its folder",
    ),
    Advisory("waitress", "3.0.1", "https://nvd.nist.gov/vuln/detail/CVE-2024-49768", "request smuggling by a race"),
    Advisory("werkzeug", "3.0.6", "https://nvd.nist.gov/vuln/detail/CVE-2024-49767", "a form fills the memory"),
    Advisory("werkzeug", "3.1.6", "https://github.com/pallets/werkzeug/security/advisories/GHSA-29vq-49wr-vm6x",
             "device names as paths on Windows"),
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
