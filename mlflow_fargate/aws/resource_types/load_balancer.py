"""ELBv2: an endpoint's load balancer and its listeners. The rules of deployments are in listener_rules.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources import OWN_CERTIFICATE
from mlflow_fargate.resources.balancer_properties import IDLE_TIMEOUT, LoadBalancerProperties
from mlflow_fargate.resources.properties import ListenerProperties

_NOT_FOUND = {
    "Type": "fixed-response",
    "FixedResponseConfig": {
        "StatusCode": "404",
        "ContentType": "application/json",
        "MessageBody": '{"error": "no deployment answers on this path"}',
    },
}
_TLS_POLICY = "ELBSecurityPolicy-TLS13-1-2-2021-06"


class LoadBalancerType(ResourceType[LoadBalancerProperties]):
    """An Application Load Balancer."""

    def observe(self, resource: Resource[LoadBalancerProperties], ids: Ids) -> Found[LoadBalancerProperties] | None:
        found = find_load_balancer(self._session, resource.name)
        if found is None:
            return None
        arn = found["LoadBalancerArn"]
        answer = self._session.call("elbv2", "describe_load_balancer_attributes", LoadBalancerArn=arn)
        attributes = {item["Key"]: item.get("Value", "") for item in answer["Attributes"]}
        ours = {key: attributes.get(key) for key in resource.properties.attributes}
        wanted = resource.properties.attributes.get(IDLE_TIMEOUT)
        if wanted and int(ours[IDLE_TIMEOUT] or 0) >= int(wanted):  # another deployment needs more
            ours[IDLE_TIMEOUT] = wanted
        are_ours = tags.are_ours(tags_of(self._session, [arn])[arn])
        is_protected = attributes.get("deletion_protection.enabled") == "true"
        # Without a scheme, it is a Gateway Load Balancer, and not ours.
        properties = LoadBalancerProperties(subnets_of(found), ours, found.get("Scheme", ""), is_protected)
        return Found(arn, properties, are_ours)

    def create(self, resource: Resource[LoadBalancerProperties], ids: Ids) -> str:
        answer = self._session.call(
            "elbv2",
            "create_load_balancer",
            Name=resource.name,
            Type="application",
            Scheme=resource.properties.scheme,
            Subnets=resource.properties.subnets,
            SecurityGroups=[ids["load balancer security group"]],
            Tags=tags.capital(resource.tags),
        )
        arn = str(answer["LoadBalancers"][0]["LoadBalancerArn"])
        self._set_attributes(arn, resource.properties.attributes)
        return arn

    def change(self, resource: Resource[LoadBalancerProperties], found: Found[LoadBalancerProperties], ids: Ids) -> str:
        before, wanted = found.properties, resource.properties
        if before.subnets != wanted.subnets:
            self._session.call("elbv2", "set_subnets", LoadBalancerArn=found.identifier, Subnets=wanted.subnets)
        if before.attributes != wanted.attributes:
            self._set_attributes(found.identifier, wanted.attributes)
        return found.identifier

    def delete(self, found: Found[Properties]) -> None:
        self._session.delete("elbv2", "delete_load_balancer", LoadBalancerArn=found.identifier)

    def _set_attributes(self, arn: str, attributes: Mapping[str, str | None]) -> None:
        listed = [{"Key": key, "Value": value} for key, value in attributes.items()]
        self._session.call("elbv2", "modify_load_balancer_attributes", LoadBalancerArn=arn, Attributes=listed)


class ListenerType(ResourceType[ListenerProperties]):
    """HTTP on 80, or HTTPS on 443 with a certificate; answers 404 if no rule matches."""

    def observe(self, resource: Resource[ListenerProperties], ids: Ids) -> Found[ListenerProperties] | None:
        listener = find_listener(self._session, ids.get("load balancer"), _port_of(resource))
        certificate = certificate_of(listener) if listener else None
        if (named := resource.properties.certificate) not in (None, OWN_CERTIFICATE, certificate):
            _check_certificate(self._session, named)
        if listener is None:
            return None
        is_own = certificate is not None and certificate == ids.get("certificate")
        return Found(listener["ListenerArn"], ListenerProperties(OWN_CERTIFICATE if is_own else certificate))

    def create(self, resource: Resource[ListenerProperties], ids: Ids) -> str:
        return create_listener(self._session, resource, ids, _NOT_FOUND, _certificate_arn(resource, ids))

    def change(self, resource: Resource[ListenerProperties], found: Found[ListenerProperties], ids: Ids) -> str:
        certificates = [{"CertificateArn": _certificate_arn(resource, ids)}]
        self._session.call("elbv2", "modify_listener", ListenerArn=found.identifier, Certificates=certificates)
        return found.identifier

    def delete(self, found: Found[Properties]) -> None:
        self._session.delete("elbv2", "delete_listener", ListenerArn=found.identifier)


class ListenerCertificateType(ResourceType[Properties]):
    """A further certificate of the listener on 443, for callers who use its domain."""

    def observe(self, resource: Resource[Properties], ids: Ids) -> Found[Properties] | None:
        if "listener" not in ids or "certificate" not in ids:
            return None
        place = {"ListenerArn": ids["listener"]}
        there = self._session.pages("elbv2", "describe_listener_certificates", "Certificates", **place)
        is_there = any(item["CertificateArn"] == ids["certificate"] for item in there)
        return Found(f"{ids['listener']} {ids['certificate']}", Properties()) if is_there else None

    def create(self, resource: Resource[Properties], ids: Ids) -> str:
        added = {"ListenerArn": ids["listener"], "Certificates": [{"CertificateArn": ids["certificate"]}]}
        self._session.call("elbv2", "add_listener_certificates", **added)
        return f"{ids['listener']} {ids['certificate']}"

    def delete(self, found: Found[Properties]) -> None:
        """Does nothing: AWS removes it with its listener, which is deleted in the same plan."""


def find_load_balancer(session: AwsSession, name: str) -> dict[str, Any] | None:
    """Returns the load balancer of that name as ELBv2 describes it; None if there is none."""
    answer = session.find("elbv2", "describe_load_balancers", Names=[name])
    return next(iter(answer["LoadBalancers"]), None) if answer else None  # some emulators of AWS list none


def subnets_of(balancer: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the IDs of a described load balancer's subnets, sorted."""
    return tuple(sorted(zone["SubnetId"] for zone in balancer["AvailabilityZones"]))


def listener_certificate(session: AwsSession, load_balancer: str) -> str | None:
    """Returns the certificate of the load balancer's listener on 443; None if it only has plain HTTP."""
    listener = main_listener(session, load_balancer)
    return certificate_of(listener) if listener else None


def main_listener(session: AwsSession, load_balancer: str) -> dict[str, Any] | None:
    """Returns the load balancer's listener with the deployments' rules: the one on 443, or else on 80."""
    listeners = session.pages("elbv2", "describe_listeners", "Listeners", LoadBalancerArn=load_balancer)
    by_port = {listener["Port"]: listener for listener in listeners}
    return by_port.get(443) or by_port.get(80)


def tags_of(session: AwsSession, arns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Returns the tags of load balancers, target groups or rules, 20 per call.

    One of several that another command deletes meanwhile has no tags: AWS then refuses to describe those of all.
    """
    found: dict[str, dict[str, str]] = {arn: {} for arn in arns}
    for start in range(0, len(arns), 20):
        some = list(arns[start : start + 20])
        answer = (session.call if len(arns) == 1 else session.find)("elbv2", "describe_tags", ResourceArns=some)
        answers = [answer] if answer else [session.find("elbv2", "describe_tags", ResourceArns=[arn]) for arn in some]
        described = (item for each in answers if each for item in each["TagDescriptions"])
        found |= {item["ResourceArn"]: tags.read(item["Tags"]) for item in described}
    return found


def find_listener(session: AwsSession, load_balancer: str | None, port: int) -> dict[str, Any] | None:
    """Returns the load balancer's listener on a port as ELBv2 describes it; None if there is none."""
    if load_balancer is None:
        return None
    listeners = session.pages("elbv2", "describe_listeners", "Listeners", LoadBalancerArn=load_balancer)
    return next((listener for listener in listeners if listener["Port"] == port), None)


def certificate_of(listener: Mapping[str, Any]) -> str | None:
    """Returns the certificate of a described listener; None for plain HTTP."""
    certificate: str | None = (listener.get("Certificates") or [{}])[0].get("CertificateArn")
    return certificate


def _check_certificate(session: AwsSession, arn: str) -> None:
    """Raises InvalidOption, before anything is created, if ACM has no such certificate. IAM can have others."""
    if ":acm:" in arn and session.find("acm", "describe_certificate", CertificateArn=arn) is None:
        raise InvalidOption(
            f"ACM has no certificate {arn} in {session.region}.",
            hint="the certificate must be in the region of the endpoint; check certificate_arn=",
        )


def _certificate_arn(resource: Resource[ListenerProperties], ids: Ids) -> str | None:
    named = resource.properties.certificate
    return ids["certificate"] if named == OWN_CERTIFICATE else named


def create_listener(
    session: AwsSession,
    resource: Resource[Properties],
    ids: Ids,
    default: dict[str, Any],
    certificate: str | None = None,
) -> str:
    """Creates the listener on the port in the resource's name, with the default action; returns its ARN."""
    secure = {"Certificates": [{"CertificateArn": certificate}], "SslPolicy": _TLS_POLICY} if certificate else {}
    answer = session.call(
        "elbv2",
        "create_listener",
        LoadBalancerArn=ids["load balancer"],
        Protocol="HTTPS" if certificate else "HTTP",
        Port=_port_of(resource),
        DefaultActions=[default],
        Tags=tags.capital(resource.tags),
        **secure,
    )
    return str(answer["Listeners"][0]["ListenerArn"])


def _port_of(resource: Resource[Properties]) -> int:
    return int(resource.name.rpartition(":")[2])
