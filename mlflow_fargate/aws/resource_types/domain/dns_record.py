"""Route 53: the record that leads from a domain to the endpoint's load balancer.

Records have no tags. One that leads to the endpoint's load balancer, or to an earlier one of its name, is ours.
"""

from __future__ import annotations

from mlflow_fargate.aws.existing_load_balancer import describe_balancer
from mlflow_fargate.aws.resource_types.domain.hosted_zone import (
    Record,
    change_record,
    delete_record,
    find_record,
    find_zone,
)
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources import ENDPOINT_TAG, cluster_name
from mlflow_fargate.resources.balancer_properties import DnsRecordProperties

_OURS = "the load balancer"


class DnsRecordType(ResourceType[DnsRecordProperties]):
    """An alias of the load balancer."""

    def observe(self, resource: Resource[DnsRecordProperties], ids: Ids) -> Found[DnsRecordProperties] | None:
        zone = find_zone(self._session, resource.name)
        record = find_record(self._session, zone, resource.name) if zone else None
        if record is None:
            return None
        target = _target(record)
        leads_there = "load balancer" in ids and target.endswith(self._balancer(ids)["DNSName"].lower())
        is_ours = leads_there or f"{cluster_name(resource.tags[ENDPOINT_TAG])}-" in target
        properties = DnsRecordProperties(_OURS if leads_there else target)
        return Found(f"{zone} {resource.name}", properties, is_ours)

    def create(self, resource: Resource[DnsRecordProperties], ids: Ids) -> str:
        return self._write(resource, ids)

    def change(self, resource: Resource[DnsRecordProperties], found: Found[DnsRecordProperties], ids: Ids) -> str:
        return self._write(resource, ids)

    def delete(self, found: Found[Properties]) -> None:
        zone, _, name = found.identifier.partition(" ")
        if record := find_record(self._session, zone, name):
            delete_record(self._session, zone, record)

    def _write(self, resource: Resource[DnsRecordProperties], ids: Ids) -> str:
        zone, balancer = find_zone(self._session, resource.name), self._balancer(ids)
        alias = {
            "HostedZoneId": balancer["CanonicalHostedZoneId"],
            "DNSName": balancer["DNSName"],
            "EvaluateTargetHealth": False,
        }
        record = {"Name": resource.name, "Type": "A", "AliasTarget": alias}
        change_record(self._session, zone or "", "UPSERT", record)
        return f"{zone} {resource.name}"

    def _balancer(self, ids: Ids) -> Record:
        return describe_balancer(self._session, ids["load balancer"])


def _target(record: Record) -> str:
    alias = record.get("AliasTarget", {}).get("DNSName")
    values = [alias] if alias else [item["Value"] for item in record.get("ResourceRecords", ())]
    return ", ".join(value.rstrip(".").lower() for value in values)
