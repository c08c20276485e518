"""The distribution `mlflow-fargate`: what it needs, what it installs, where MLflow finds it."""

from pathlib import Path

from setuptools import find_packages, setup

VERSION = "0.1.0"

CORE = [
    "mlflow-skinny>=3.1,<4",  # the plugin contract, the model registry
    "boto3>=1.44,<2",  # every AWS call; older ones do not know the circuit breaker's threshold
    # Without a floor today's resolvers walk back to bentoml 0.9 (opentelemetry pins), which has no `bentoml.build`.
    "bentoml>=1.4.30,<2",
    "pydantic>=2.6,<3",  # options: parsed, checked and described once
    "click>=8.4",  # the command; older ones do not say which verb was meant
    "rich>=13",  # progress on a terminal
    "stamina>=25.1",  # retries
    "requests>=2.31",  # the OCI registry, the deployed model
    "idna>=3.7",  # host names compared; requests brings it
    "platformdirs>=4",  # where caches belong on each system
    "filelock>=3.14",  # one builder of one cache entry at a time
    "uv>=0.12",  # resolves and installs what goes into the image; older ones let a wheel write outside of its folder
    "zstandard>=0.22",  # layers
    # Which libraries a wheel needs of the system; before every deploy, so no extra. Pure Python, needs nothing itself.
    "pyelftools>=0.30",
    "packaging>=23",  # requirement lines
    "tomli>=2",  # uv's lock files, also on Python 3.10
    "PyYAML>=6",  # MLmodel
]
LOCAL = [
    "moto[server]>=5.1.12,<6",  # the AWS control plane; older ones do not speak CloudWatch's JSON
    "aiohttp>=3.9",  # the load balancer
    "waitress>=3",  # the WSGI server in front of moto, and the webhook's
    "jinja2>=3",  # the stack's page; moto's server brings it anyway
    "mlflow>=3.5,<4",  # the tracking server; older ones answer to every host name
    "backports.tarfile>=1.2; python_full_version < '3.11.4'",  # unpacking layers that are not trusted
    "psutil>=5.9",  # finding and ending processes that outlived their parent
]
WEBHOOK = [
    "flask>=3",  # the edge, and with Jinja the page
    "waitress>=3",  # the server
    "prometheus-client>=0.20",  # /metrics
    "python-json-logger>=4",  # a formatter for the standard library's logging
]
DEMO = [
    "tensorflow-cpu>=2.16; platform_machine == 'x86_64' or platform_machine == 'AMD64'",
    "tensorflow>=2.16; platform_machine != 'x86_64' and platform_machine != 'AMD64'",
    "tensorboard",  # mlflow.tensorflow.autolog() fails without it, and TensorFlow 2.21 no longer brings it
    "scikit-learn>=1.4",
    "pillow>=10",
]
DOCS = ["mkdocs-material>=9.5", "mkdocs>=1.6,<2"]
TEST = [
    "Flask-WTF>=1.2,<2",  # MLflow's basic-auth server, without the rest of mlflow[auth]
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",  # the end-to-end tests wait most of the time: another process tests meanwhile
    "hypothesis>=6.100",
    "httptools>=0.6",  # what images have beside BentoML: services are tried as they run there
    "uvloop>=0.19; sys_platform != 'win32'",
    "jsonschema>=4.18",  # a validator for the schema that we print
    "import-linter>=2.17",  # finds circles between packages
    "mypy>=1.11",
    "ruff>=0.8",
    "shap>=0.49; python_version < '3.14'",  # an explainer to deploy
    "schemathesis>=4",  # requests made up from our OpenAPI document
    "build>=1.2",
    "twine>=6",  # what PyPI would say of the distribution
    "codespell>=2.4",  # American spelling in everything that a person reads
    "check-jsonschema>=0.29",  # what GitHub and GitLab say of the CI files in examples/
    "nbclient>=0.10",  # runs the notebook in examples/
    "ipykernel>=6.29",
    "setuptools>=65",
    "types-requests",
    "types-PyYAML",
]
# What `make test-all` trains models with, and nothing else needs.
EXHAUSTIVE = [
    "spacy>=3.7",
    "xgboost-cpu>=3; platform_machine == 'x86_64'",  # the usual distribution brings 300 MB for GPUs
    "lightgbm>=4.5",
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
        # What `mlflow-fargate demo` runs.
        "mlflow_fargate.examples",
        "mlflow_fargate.examples.image_classifier",
    ],
    package_dir={
        "mlflow_fargate.webhook": "webhook",
        "mlflow_fargate.service_template": "service_template",
        "mlflow_fargate.onnx_converter": "onnx_converter",
        "mlflow_fargate.examples": "examples",
    },
    package_data={
        "mlflow_fargate": ["py.typed"],
        "mlflow_fargate.deployments": ["prices.json"],
        "mlflow_fargate.webhook.http": ["templates/*.html"],
        "mlflow_fargate.local.page": ["templates/*.html"],
    },
    entry_points={
        "mlflow.deployments": ["fargate=mlflow_fargate"],
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
