"""ECS: an endpoint's cluster."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.plan import Found, Resource


class Cluster:
    """A cluster without machines: tasks run on Fargate."""

    def __init__(self, session: AwsSession) -> None:
        self._session = session

    def observe(self, resource: Resource, made: Mapping[str, str]) -> Found | None:
        answer = self._session.call("ecs", "describe_clusters", clusters=[resource.name], include=["TAGS"])
        cluster = next((item for item in answer["clusters"] if item["status"] == "ACTIVE"), None)
        if cluster is None:
            return None
        providers = sorted(cluster.get("capacityProviders", []))
        are_ours = tags.are_ours(tags.read(cluster.get("tags")))
        return Found(cluster["clusterArn"], {"capacity_providers": providers}, are_ours)

    def create(self, resource: Resource, made: Mapping[str, str]) -> str:
        answer = self._session.call(
            "ecs",
            "create_cluster",
            clusterName=resource.name,
            capacityProviders=resource.properties["capacity_providers"],
            defaultCapacityProviderStrategy=[{"capacityProvider": "FARGATE", "weight": 1}],
            tags=tags.small(resource.tags),
        )
        return str(answer["cluster"]["clusterArn"])

    def change(self, resource: Resource, found: Found, made: Mapping[str, str]) -> str:
        self._session.call(
            "ecs",
            "put_cluster_capacity_providers",
            cluster=found.identifier,
            capacityProviders=resource.properties["capacity_providers"],
            defaultCapacityProviderStrategy=[{"capacityProvider": "FARGATE", "weight": 1}],
        )
        return found.identifier

    def delete(self, found: Found) -> None:
        self._session.delete("ecs", "delete_cluster", cluster=found.identifier)
