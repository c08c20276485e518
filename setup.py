"""The distribution `mlflow-fargate`: its requirements, packages and entry points."""

from pathlib import Path

from setuptools import find_packages, setup

VERSION = "0.1.0"

# No floor has a known serious flaw: tests/support/advisories.py lists the advisories, and a test compares.
CORE = [
    "mlflow-skinny>=3.1,<4",  # the plugin contract, the model registry
    "boto3>=1.44,<2",  # every AWS call; older ones lack the circuit breaker's threshold
    # Without a minimum, resolvers fall back to bentoml 0.9 (opentelemetry pins), which lacks `bentoml.build`.
    "bentoml>=1.4.39,<2",
    "pydantic>=2.6,<3",  # options: parsed, checked and described once
    "click>=8.4",  # the command line; older ones do not suggest the right command
    "rich>=14.1",  # progress on a terminal
    "stamina>=25.1",  # retries
    "requests>=2.32.4",  # the OCI registry, the deployed model
    "urllib3>=2.8",  # streams of blobs; already required by requests
    "idna>=3.14",  # compares host names; already required by requests
    "platformdirs>=4",  # the system's cache folder
    "filelock>=3.20.3",  # one builder of one cache entry at a time
    "uv>=0.12",  # installs the image's packages; older ones let a wheel write outside its folder
    "zstandard>=0.22",  # layers
    # Which system libraries a wheel needs; used by every deployment, so not an extra. Pure Python, no dependencies.
    "pyelftools>=0.30",
    "packaging>=23.2",  # requirement lines; older ones call a path an invalid URL
    "tomli>=2",  # uv's lock files, also on Python 3.10
    "PyYAML>=6",  # MLmodel
]
LOCAL = [
    "moto[server]>=5.1.12,<6",  # the AWS control plane; older ones do not support CloudWatch's JSON protocol
    "aiohttp>=3.14.5",  # the load balancer
    "waitress>=3.0.1",  # the WSGI server in front of moto, and the webhook's
    "jinja2>=3.1.6",  # the stack's page; already required by moto's server
    "werkzeug>=3.1.9",  # under moto's server; the floor only
    "mlflow>=3.5,<4",  # the tracking server; older ones accept every host name
    "backports.tarfile>=1.2; python_full_version < '3.11.4'",  # unpacking layers that are not trusted
    "psutil>=5.9",  # finds and ends processes that outlived their parent
]
WEBHOOK = [
    "flask>=3.1.1",  # HTTP, and the page with Jinja
    "jinja2>=3.1.6",
    "werkzeug>=3.1.9",  # under Flask; the floor only
    "waitress>=3.0.1",  # the server
    "prometheus-client>=0.20",  # /metrics
    "python-json-logger>=4",  # a formatter for the standard library's logging
]
SBOM = [
    "cyclonedx-python-lib>=11.6,<12"
]  # `image sbom`: the format's own library, so an extra; deploying needs none of it
DEMO = [
    "tensorflow-cpu>=2.16; platform_machine == 'x86_64' or platform_machine == 'AMD64'",
    "tensorflow>=2.16; platform_machine != 'x86_64' and platform_machine != 'AMD64'",
    "tensorboard",  # mlflow.tensorflow.autolog() fails without it, and TensorFlow 2.21 no longer requires it
    "scikit-learn>=1.5",
    "pillow>=13; python_version >= '3.11'",
    "pillow>=12.3; python_version < '3.11'",  # the last for this Python
]
DOCS = ["mkdocs-material>=9.5", "mkdocs>=1.6,<2"]
TEST = [
    "cyclonedx-python-lib[json-validation]>=11.6,<12",  # the validator of the format
    "Flask-WTF>=1.2,<2",  # MLflow's basic-auth server, without the rest of mlflow[auth]
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",  # end-to-end tests mostly wait, so a second process runs others
    "hypothesis>=6.100",
    "httptools>=0.6",  # installed in images next to BentoML, so tests use it too
    "uvloop>=0.19; sys_platform != 'win32'",
    "orjson>=3.11.6",
    "jsonschema>=4.18",  # validates the printed JSON schema
    "import-linter>=2.17",  # finds circles between packages
    "mypy>=1.11",
    "ruff>=0.8",
    "shap>=0.49; python_version < '3.14'",  # an explainer to deploy
    "schemathesis>=4",  # generates requests from the service's OpenAPI document
    "build>=1.2",
    "twine>=6",  # PyPI's checks of the distribution
    "codespell>=2.4",  # American spelling in everything that a person reads
    "cfn-lint>=1.40",  # CloudFormation's schemas for infrastructure/; moto brings it along
    "check-jsonschema>=0.29",  # GitHub's and GitLab's schemas for the CI files in examples/
    "nbclient>=0.10",  # runs the notebook in examples/
    "ipykernel>=6.29",
    "setuptools>=65",
    "types-requests",
    "types-PyYAML",
]
# Only for training models in `make test-all`.
EXHAUSTIVE = [
    "spacy>=3.7",
    "xgboost-cpu>=3; platform_machine == 'x86_64'",  # the default distribution includes 300 MB for GPUs
    "lightgbm>=4.5",
    "catboost>=1.2",
    "prophet>=1.1",
    "statsmodels>=0.14",
    "onnx>=1.17",
    "onnxruntime>=1.20",
]

setup(
    name="mlflow-fargate",
    version=VERSION,
    description="Deploy MLflow models to AWS Fargate: mlflow deployments create -t fargate",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    install_requires=CORE,
    extras_require={
        "local": LOCAL,
        "webhook": WEBHOOK,
        "sbom": SBOM,
        "demo": DEMO,
        "docs": DOCS,
        "test": TEST,
        "exhaustive": EXHAUSTIVE,
    },
    packages=[
        *find_packages(include=["mlflow_fargate", "mlflow_fargate.*"]),
        "mlflow_fargate.webhook",
        *(f"mlflow_fargate.webhook.{name}" for name in find_packages("webhook")),
        "mlflow_fargate.service_template",
        *(f"mlflow_fargate.service_template.{name}" for name in find_packages("service_template")),
        "mlflow_fargate.onnx_converter",
        "mlflow_fargate.iam",
        # Run by `mlflow-fargate demo`.
        "mlflow_fargate.examples",
        "mlflow_fargate.examples.image_classifier",
    ],
    package_dir={
        "mlflow_fargate.webhook": "webhook",
        "mlflow_fargate.service_template": "service_template",
        "mlflow_fargate.onnx_converter": "onnx_converter",
        "mlflow_fargate.examples": "examples",
        "mlflow_fargate.iam": "docs/iam",
    },
    package_data={
        "mlflow_fargate": ["py.typed", "page_refresh.js"],
        "mlflow_fargate.deployments": ["prices.json"],
        "mlflow_fargate.iam": ["*.json"],
        "mlflow_fargate.service_template.fargate_service.http": ["page.css"],
        "mlflow_fargate.webhook.http": ["templates/*.html"],
        "mlflow_fargate.local.page": ["templates/*.html"],
    },
    entry_points={
        "mlflow.deployments": ["fargate=mlflow_fargate"],
        # The local stack's tracking server.
        "mlflow.app": ["fargate-local=mlflow_fargate.local.tracking_app:make_app"],
        # mlflow server --registry-store-uri fargate-postgresql://…; the driver counts as part of the scheme.
        "mlflow.model_registry_store": [
            f"fargate-{scheme}=mlflow_fargate.registry_store:open_store"
            for scheme in (
                "sqlite",
                "postgresql",
                "postgresql+psycopg2",
                "mysql",
                "mysql+pymysql",
                "mssql",
                "mssql+pyodbc",
            )
        ],
        "console_scripts": ["mlflow-fargate=mlflow_fargate.cli:main"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
