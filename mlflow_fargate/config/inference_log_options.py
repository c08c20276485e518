"""The record of requests and answers in S3."""

from __future__ import annotations

import re
from typing import NamedTuple

from pydantic import field_validator, model_validator
from typing_extensions import Self

from mlflow_fargate.config.option import Names, OptionGroup, option

# Of a key's characters, those that mean nothing else in a policy, a query or a shell.
_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<prefix>[\w.=-]+(/[\w.=-]+)*)/?", re.ASCII)


class LogPlace(NamedTuple):
    """Where the record is."""

    bucket: str
    prefix: str  # without slashes at its ends


class InferenceLogOptions(OptionGroup):
    """Options of the record of requests and answers."""

    inference_log: str | None = option(
        None,
        "record requests and answers in this bucket, which must be in the endpoint's region, below this prefix; they "
        "can contain personal data (see docs/operating.md)",
        maps_to="S3 object keys; ECS task definition: taskRoleArn",
        examples=["s3://my-bucket/predictions"],
        allowed="s3://BUCKET/PREFIX",
    )
    inference_log_sampling_fraction: float = option(
        1.0,
        "fraction of the requests that is recorded, chosen by their IDs",
        unit="fraction",
        ge=0.0001,
        le=1,
        maps_to="Databricks inference tables: sampling_fraction",
        examples=["0.1"],
    )
    inference_log_max_body: int = option(
        64,
        "largest body that is recorded; of a larger one, only that it was too large",
        unit="kB",
        ge=1,
        le=1000,
        maps_to="Databricks inference tables: logging_error_codes",
        examples=["256"],
    )
    inference_log_drop: Names = option(
        (),
        "columns that are not recorded; with this option, a body in which columns have no names is not recorded either",
        maps_to="MLflow model signature: inputs",
        examples=["email,phone"],
        allowed="columns of the model's signature",
    )
    inference_log_hash: Names = option(
        (),
        "columns of which only a hash is recorded: HMAC-SHA256 with the key in secrets.INFERENCE_LOG_HASH_KEY, without "
        "which anyone can find out values by trying",
        maps_to="MLflow model signature: inputs",
        examples=["customer_id"],
        allowed="columns of the model's signature",
    )

    @field_validator("inference_log")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is not None and not _URL.fullmatch(url):
            raise ValueError(
                "must be s3://BUCKET/PREFIX, such as s3://my-bucket/calls; a prefix has letters, digits and ._=-/"
            )
        return url

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if both := sorted({*self.inference_log_drop} & {*self.inference_log_hash}):
            raise ValueError(f"inference_log_drop and inference_log_hash both name {', '.join(both)}; use one of them")
        given = sorted(self.model_fields_set & InferenceLogOptions.model_fields.keys())
        if given and not self.inference_log:
            raise ValueError(f"{given[0]} requires inference_log=s3://BUCKET/PREFIX")
        return self

    @property
    def log_place(self) -> LogPlace | None:
        """Where the record is; None if there is none."""
        found = _URL.fullmatch(self.inference_log or "")
        return LogPlace(found["bucket"], found["prefix"]) if found else None

    @property
    def hidden_columns(self) -> tuple[str, ...]:
        """The columns that are dropped or hashed."""
        return (*self.inference_log_drop, *self.inference_log_hash)
