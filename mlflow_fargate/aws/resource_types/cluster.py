"""ECS: the cluster of an endpoint."""

from __future__ import annotations

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources.properties import ClusterProperties


class ClusterType(ResourceType[ClusterProperties]):
    """A cluster without instances: tasks run on Fargate."""

    def observe(self, resource: Resource[ClusterProperties], ids: Ids) -> Found[ClusterProperties] | None:
        answer = self._session.call("ecs", "describe_clusters", clusters=[resource.name], include=["TAGS"])
        cluster = next((item for item in answer["clusters"] if item["status"] == "ACTIVE"), None)
        if cluster is None:
            return None
        properties = ClusterProperties(tuple(sorted(cluster.get("capacityProviders", []))))
        are_ours = tags.are_ours(tags.read(cluster.get("tags")))
        return Found(cluster["clusterArn"], properties, are_ours)

    def create(self, resource: Resource[ClusterProperties], ids: Ids) -> str:
        answer = self._session.call(
            "ecs",
            "create_cluster",
            clusterName=resource.name,
            capacityProviders=resource.properties.capacity_providers,
            defaultCapacityProviderStrategy=[{"capacityProvider": "FARGATE", "weight": 1}],
            tags=tags.small(resource.tags),
        )
        return str(answer["cluster"]["clusterArn"])

    def change(self, resource: Resource[ClusterProperties], found: Found[ClusterProperties], ids: Ids) -> str:
        self._session.call(
            "ecs",
            "put_cluster_capacity_providers",
            cluster=found.identifier,
            capacityProviders=resource.properties.capacity_providers,
            defaultCapacityProviderStrategy=[{"capacityProvider": "FARGATE", "weight": 1}],
        )
        return found.identifier

    def delete(self, found: Found[Properties]) -> None:
        self._session.delete("ecs", "delete_cluster", cluster=found.identifier)
