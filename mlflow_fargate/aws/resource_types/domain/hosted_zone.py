"""Route 53: the account's public hosted zone of a domain, and records in it."""

from __future__ import annotations

from typing import Any, Literal

from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError

Record = dict[str, Any]  # a ResourceRecordSet of Route 53


def find_zone(session: AwsSession, domain: str) -> str | None:
    """Returns the ID of the public hosted zone that the domain is in, the most specific one; None without one."""
    zones = [
        zone
        for zone in session.pages("route53", "list_hosted_zones", "HostedZones")
        if not zone["Config"].get("PrivateZone") and f".{domain}.".endswith(f".{zone['Name']}")
    ]
    return str(max(zones, key=lambda zone: len(zone["Name"]))["Id"]) if zones else None


def find_record(session: AwsSession, zone: str, name: str) -> Record | None:
    """Returns the A, AAAA or CNAME record of a name."""
    answer = session.call(
        "route53", "list_resource_record_sets", HostedZoneId=zone, StartRecordName=name, MaxItems="10"
    )
    found = (it for it in answer["ResourceRecordSets"] if it["Name"].rstrip(".").lower() == name.rstrip(".").lower())
    return next((it for it in found if it["Type"] in ("A", "AAAA", "CNAME")), None)


def change_record(session: AwsSession, zone: str, action: Literal["CREATE", "UPSERT"], record: Record) -> None:
    """Creates a record, or creates or replaces it."""
    batch = {"Comment": "mlflow-fargate", "Changes": [{"Action": action, "ResourceRecordSet": record}]}
    session.call("route53", "change_resource_record_sets", HostedZoneId=zone, ChangeBatch=batch)


def delete_record(session: AwsSession, zone: str, record: Record) -> None:
    """Deletes a record; does nothing if it is gone or has changed since it was read."""
    batch = {"Changes": [{"Action": "DELETE", "ResourceRecordSet": record}]}
    try:
        session.call("route53", "change_resource_record_sets", HostedZoneId=zone, ChangeBatch=batch)
    except AwsError as error:
        if error.code != "InvalidChangeBatch":
            raise
