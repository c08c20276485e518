"""ECR as the gateway serves it: repositories from moto, with the local registry's address; images from that registry.

Images pushed to the registry appear in ECR with their real digest; images deleted in ECR are deleted from the registry.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlflow_fargate.local.api.protocol import AwsRequest, Forward, Refusal, Response, json_response
from mlflow_fargate.local.moto_client import MotoClient
from mlflow_fargate.local.registry.grammar import OciRefusal, digest_of
from mlflow_fargate.local.registry.records import ImageRecord
from mlflow_fargate.local.registry.server import USER, LocalRegistry

Parameters = Mapping[str, Any]

_TOKEN_SECONDS = 12 * 3600
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
# Layers are uploaded through the registry's protocol; moto would accept them and store nothing.
_NOT_PLAYED = {"InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload"}


class EcrApi:
    """Responds to requests to ECR. `registry` must be started: image references contain its address."""

    def __init__(self, registry: LocalRegistry, account_id: str, aws: MotoClient, forward: Forward) -> None:
        self._registry = registry.store
        self._host = registry.address
        self._password = registry.password or "none"  # accepted by a registry without a password
        self._account_id = account_id
        self._aws = aws
        self._forward = forward
        self._on_images: dict[str, Callable[[str, Parameters], dict[str, Any]]] = {
            "DescribeImages": self._describe_images,
            "ListImages": self._list_images,
            "BatchGetImage": self._batch_get_image,
            "BatchDeleteImage": self._batch_delete_image,
            "PutImage": self._put_image,
            "BatchCheckLayerAvailability": self._batch_check_layer_availability,
            "GetDownloadUrlForLayer": self._get_download_url_for_layer,
        }

    def __call__(self, request: AwsRequest) -> Response:
        if request.operation in _NOT_PLAYED:
            said = f"The local stack does not support {request.operation}: push to http://{self._host} instead."
            raise Refusal("UnsupportedCommandException", said)
        if request.operation == "GetAuthorizationToken":
            return json_response(self._authorization_token())
        name = str(request.parameters.get("repositoryName", ""))
        if request.operation in self._on_images:
            self._refuse_unknown(name)
            return json_response(self._on_images[request.operation](name, request.parameters))
        if request.operation == "DeleteRepository":
            self._refuse_full(name, is_forced=bool(request.parameters.get("force")))
        response = self._forward(request)
        return response if response.is_error else self._after(request.operation, name, response)

    def _after(self, operation: str, name: str, response: Response) -> Response:
        """Repeats an ECR operation in the registry, and returns the response with the repository's local address."""
        data = response.json()
        if operation == "DeleteRepository":
            self._registry.delete_repository(name)
        if operation in ("CreateRepository", "PutImageTagMutability"):
            mutability = (data.get("repository") or data).get("imageTagMutability", "MUTABLE")
            self._registry.create_repository(name, immutable_tags=mutability == "IMMUTABLE")
        shown = [data["repository"]] if "repository" in data else data.get("repositories") or []
        for repository in shown:
            repository["repositoryUri"] = f"{self._host}/{repository['repositoryName']}"
        return response.with_body(json.dumps(data).encode()) if shown else response

    def _authorization_token(self) -> dict[str, Any]:
        token = base64.b64encode(f"{USER}:{self._password}".encode()).decode()
        expires_at = time.time() + _TOKEN_SECONDS
        data = {"authorizationToken": token, "expiresAt": expires_at, "proxyEndpoint": f"http://{self._host}"}
        return {"authorizationData": [data]}

    def _refuse_unknown(self, name: str) -> None:
        """Raises moto's RepositoryNotFoundException, in AWS's words."""
        client = self._aws.client("ecr")
        try:
            client.describe_repositories(repositoryNames=[name])
        except client.exceptions.RepositoryNotFoundException as error:
            said = error.response["Error"]
            raise Refusal(said["Code"], said["Message"]) from error
        if not self._registry.repository_exists(name):
            self._registry.create_repository(name)

    def _refuse_full(self, name: str, *, is_forced: bool) -> None:
        if not is_forced and self._registry.repository_exists(name) and self._registry.images(name):
            raise Refusal(
                "RepositoryNotEmptyException",
                f"The repository with name '{name}' in registry with id '{self._account_id}' cannot be deleted because "
                "it still contains images",
            )

    def _describe_images(self, name: str, parameters: Parameters) -> dict[str, Any]:
        wanted = parameters.get("imageIds")
        records = self._registry.images(name)
        if wanted:
            records = [self._existing(name, records, image_id) for image_id in wanted]
        return {"imageDetails": [self._detail(name, record) for record in _with_status(records, parameters)]}

    def _list_images(self, name: str, parameters: Parameters) -> dict[str, Any]:
        ids: list[dict[str, str]] = []
        for record in _with_status(self._registry.images(name), parameters):
            tagged = [{"imageDigest": record.digest, "imageTag": tag} for tag in record.tags]
            ids += tagged or [{"imageDigest": record.digest}]
        return {"imageIds": ids}

    def _batch_get_image(self, name: str, parameters: Parameters) -> dict[str, Any]:
        images, failures = [], []
        for image_id in parameters.get("imageIds") or ():
            try:
                manifest = self._registry.manifest(name, _identifier(image_id))
            except OciRefusal:
                failures.append(_failure(image_id))
                continue
            images.append(
                {
                    "registryId": self._account_id,
                    "repositoryName": name,
                    "imageId": {**image_id, "imageDigest": manifest.digest},
                    "imageManifest": manifest.body.decode(),
                    "imageManifestMediaType": manifest.media_type,
                }
            )
        return {"images": images, "failures": failures}

    def _batch_delete_image(self, name: str, parameters: Parameters) -> dict[str, Any]:
        deleted, failures = [], []
        for image_id in parameters.get("imageIds") or ():
            try:
                digest = self._registry.manifest(name, _identifier(image_id)).digest
                self._delete(name, image_id, digest)
                deleted.append({**image_id, "imageDigest": digest})
            except OciRefusal:
                failures.append(_failure(image_id))
        return {"imageIds": deleted, "failures": failures}

    def _delete(self, name: str, image_id: Mapping[str, str], digest: str) -> None:
        """Deletes a tag or an image; like ECR, also deletes an image with its last tag."""
        self._registry.delete_image(name, _identifier(image_id))
        if "imageDigest" in image_id:
            return
        left = next((record for record in self._registry.images(name) if record.digest == digest), None)
        if left is not None and not left.tags:
            self._registry.delete_image(name, digest)

    def _put_image(self, name: str, parameters: Parameters) -> dict[str, Any]:
        body = str(parameters.get("imageManifest", "")).encode()
        media_type = parameters.get("imageManifestMediaType") or _media_type(body)
        tag = parameters.get("imageTag")
        self._refuse_same(name, body, tag)
        try:
            digest = self._registry.put_manifest(name, tag or digest_of(body), body, media_type)
        except OciRefusal as error:
            codes = {
                "MANIFEST_BLOB_UNKNOWN": "LayersNotFoundException",
                "TAG_INVALID": "ImageTagAlreadyExistsException",
            }
            raise Refusal(codes.get(error.code, "InvalidParameterException"), error.said) from error
        image_id = {"imageDigest": digest, **({"imageTag": tag} if tag else {})}
        return {
            "image": {
                "registryId": self._account_id,
                "repositoryName": name,
                "imageId": image_id,
                "imageManifest": body.decode(),
                "imageManifestMediaType": media_type,
            }
        }

    def _refuse_same(self, name: str, body: bytes, tag: str | None) -> None:
        digest = digest_of(body)
        known = next((record for record in self._registry.images(name) if record.digest == digest), None)
        if known is not None and (tag is None or tag in known.tags):
            raise Refusal(
                "ImageAlreadyExistsException",
                f"Image with digest '{digest}' and tag '{tag}' already exists in the repository with name '{name}' in "
                f"registry with id '{self._account_id}'",
            )

    def _batch_check_layer_availability(self, name: str, parameters: Parameters) -> dict[str, Any]:
        layers = []
        for digest in parameters.get("layerDigests") or ():
            try:
                size = self._registry.blob(name, digest).stat().st_size
                found = {"layerAvailability": "AVAILABLE", "layerSize": size, "mediaType": _LAYER_TYPE}
            except OciRefusal:
                found = {"layerAvailability": "UNAVAILABLE"}
            layers.append({"layerDigest": digest, **found})
        return {"layers": layers, "failures": []}

    def _get_download_url_for_layer(self, name: str, parameters: Parameters) -> dict[str, Any]:
        digest = str(parameters.get("layerDigest"))
        try:
            self._registry.blob(name, digest)
        except OciRefusal as error:
            raise Refusal("LayersNotFoundException", error.said) from error
        # Like AWS's presigned URL: anyone who has it can download.
        url = f"http://{USER}:{self._password}@{self._host}/v2/{name}/blobs/{digest}"
        return {"downloadUrl": url, "layerDigest": digest}

    def _existing(self, name: str, records: Iterable[ImageRecord], image_id: Mapping[str, str]) -> ImageRecord:
        digest, tag = image_id.get("imageDigest"), image_id.get("imageTag")
        for record in records:
            if digest in (None, record.digest) and (tag is None or tag in record.tags):
                return record
        raise Refusal(
            "ImageNotFoundException",
            f"The image with imageId {{imageDigest:'{digest or 'null'}', imageTag:'{tag or 'null'}'}} does not exist "
            f"within the repository with name '{name}' in the registry with id '{self._account_id}'",
        )

    def _detail(self, name: str, record: ImageRecord) -> dict[str, Any]:
        detail = {
            "registryId": self._account_id,
            "repositoryName": name,
            "imageDigest": record.digest,
            "imageSizeInBytes": record.size_bytes,
            "imagePushedAt": record.pushed_at.timestamp(),
            "imageManifestMediaType": record.media_type,
        }
        return {**detail, "imageTags": list(record.tags)} if record.tags else detail


def _with_status(records: Iterable[ImageRecord], parameters: Parameters) -> list[ImageRecord]:
    status = (parameters.get("filter") or {}).get("tagStatus", "ANY")
    return [record for record in records if status == "ANY" or bool(record.tags) == (status == "TAGGED")]


def _identifier(image_id: Mapping[str, str]) -> str:
    return image_id.get("imageDigest") or image_id.get("imageTag") or ""


def _failure(image_id: Mapping[str, str]) -> dict[str, Any]:
    return {"imageId": dict(image_id), "failureCode": "ImageNotFound", "failureReason": "Requested image not found"}


def _media_type(body: bytes) -> str:
    try:
        return str(json.loads(body).get("mediaType") or _MANIFEST_TYPE)
    except ValueError as error:
        raise Refusal("InvalidParameterException", "Invalid parameter at 'ImageManifest': not JSON") from error
