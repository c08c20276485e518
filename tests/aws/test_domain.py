"""HTTPS for a domain, on moto's ACM and Route 53: with the hosted zone in the account, and with it elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import moto.settings
import pytest
from botocore.exceptions import ClientError

from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.resource_types.domain.hosted_zone import find_zone
from mlflow_fargate.config import NamedOptions, parse_config
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import ForeignResource, InvalidOption
from support.deployer import count_writes, create

DOMAIN = "churn.example.com"
OURS = {"managed-by": "mlflow-fargate", "mlflow-fargate:endpoint": "team"}


@dataclass
class Dns:
    """An account with the endpoint `team`, whose certificates are issued after a second."""

    deployer: Deployer

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        return self.deployer.account.session.call(service, operation, **parameters)

    def create_zone(self, name: str, **more: Any) -> str:
        made = self.call("route53", "create_hosted_zone", Name=name, CallerReference=str(time.monotonic()), **more)
        return str(made["HostedZone"]["Id"])

    def records(self, zone: str) -> dict[tuple[str, str], str]:
        """(name, type) → value, without those that every zone has."""
        sets = self.call("route53", "list_resource_record_sets", HostedZoneId=zone)["ResourceRecordSets"]
        return {
            (it["Name"], it["Type"]): it["AliasTarget"]["DNSName"]
            if "AliasTarget" in it
            else it["ResourceRecords"][0]["Value"]
            for it in sets
            if it["Type"] not in ("NS", "SOA")
        }

    def certificates(self) -> dict[str, dict[str, Any]]:
        listed = self.call("acm", "list_certificates")["CertificateSummaryList"]
        arns = [item["CertificateArn"] for item in listed]
        found = (self.call("acm", "describe_certificate", CertificateArn=arn)["Certificate"] for arn in arns)
        return {certificate["DomainName"]: certificate for certificate in found}

    def balancer(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call("elbv2", "describe_load_balancers", Names=["mlflow-fargate-team"])
        return dict(found["LoadBalancers"][0])

    def address(self, name: str) -> str:
        """The deployment's URL, without the port of the local load balancer."""
        parts = urlsplit(self.deployer.get(name).url)
        return f"{parts.scheme}://{parts.hostname}{parts.path}"

    def listeners(self) -> dict[int, dict[str, Any]]:
        arn = self.balancer()["LoadBalancerArn"]
        return {it["Port"]: it for it in self.call("elbv2", "describe_listeners", LoadBalancerArn=arn)["Listeners"]}

    def rules(self, port: int) -> dict[str, tuple[Any, Any]]:
        """First path, header or host of each rule → where it forwards to, and its tags."""
        listener = self.listeners()[port]["ListenerArn"]
        found = self.call("elbv2", "describe_rules", ListenerArn=listener)["Rules"]
        return {
            " ".join(value for it in rule["Conditions"] for value in _values(it)): (
                rule["Actions"],
                self.call("elbv2", "describe_tags", ResourceArns=[rule["RuleArn"]])["TagDescriptions"][0]["Tags"],
            )
            for rule in found
            if not rule["IsDefault"]
        }

    def add_rule(self, port: int, path: str) -> None:
        """As a user would."""
        self.call(
            "elbv2",
            "create_rule",
            ListenerArn=self.listeners()[port]["ListenerArn"],
            Priority=7,
            Conditions=[{"Field": "path-pattern", "Values": [path]}],
            Actions=[{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "200"}}],
        )

    def issue(self, domain: str) -> str:
        return str(self.call("acm", "request_certificate", DomainName=domain)["CertificateArn"])


def _values(condition: dict[str, Any]) -> list[str]:
    config = next((condition[key] for key in condition if key.endswith("Config")), condition)
    return [*config["Values"]]


@pytest.fixture
def dns(deployer: Deployer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dns]:
    monkeypatch.setattr(moto.settings, "ACM_VALIDATION_WAIT", 1)
    account = Account(deployer.target, sleep=lambda seconds: time.sleep(min(seconds, 0.3)))
    deployer = replace(deployer, target=replace(deployer.target, endpoint="team"), account=account)
    made = Dns(deployer)
    try:
        yield made
    finally:
        for status in list(deployer.list()):
            deployer.delete(status.name)
        deployer.delete_endpoint("team")
        for zone in made.call("route53", "list_hosted_zones")["HostedZones"]:
            for (name, kind), value in made.records(zone["Id"]).items():
                record = {"Name": name, "Type": kind, "TTL": 300, "ResourceRecords": [{"Value": value}]}
                batch = {"Changes": [{"Action": "DELETE", "ResourceRecordSet": record}]}
                made.call("route53", "change_resource_record_sets", HostedZoneId=zone["Id"], ChangeBatch=batch)
            made.call("route53", "delete_hosted_zone", Id=zone["Id"])


def said(deployer: Deployer) -> str:
    return "\n".join(deployer.progress.lines)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_domain_in_the_account_has_https_for_a_whole_life(dns: Dns) -> None:
    zone = dns.create_zone("example.com")

    create(dns.deployer, domain=DOMAIN, wait=False)

    certificate = dns.certificates()[DOMAIN]
    assert certificate["Status"] == "ISSUED"
    tagged = dns.call("acm", "list_tags_for_certificate", CertificateArn=certificate["CertificateArn"])["Tags"]
    assert OURS.items() <= {tag["Key"]: tag["Value"] for tag in tagged}.items()
    validation = certificate["DomainValidationOptions"][0]["ResourceRecord"]
    records = dns.records(zone)
    assert records[validation["Name"], "CNAME"] == validation["Value"]
    assert records[f"{DOMAIN}.", "A"].rstrip(".") == dns.balancer()["DNSName"]
    listeners = dns.listeners()
    assert listeners[443]["Certificates"] == [{"CertificateArn": certificate["CertificateArn"]}]
    assert listeners[80]["DefaultActions"][0]["RedirectConfig"]["Protocol"] == "HTTPS"
    rules = dns.call("elbv2", "describe_rules", ListenerArn=listeners[443]["ListenerArn"])["Rules"]
    hosts = [
        it["HostHeaderConfig"]["Values"] for rule in rules for it in rule["Conditions"] if "HostHeaderConfig" in it
    ]
    assert hosts == [[DOMAIN]]
    assert dns.address("churn") == f"https://{DOMAIN}/churn"
    assert "Create these two records" not in said(dns.deployer)
    assert f"waiting until ACM sees {validation['Name']} in hosted zone {zone}" in said(dns.deployer)
    # Repeated, nothing is written; a later deployment has its own name on the same listener.
    assert not count_writes(
        dns.deployer, lambda it: it.update("churn", None, None, NamedOptions({"domain": DOMAIN, "wait": False}))
    )
    create(dns.deployer, "fraud", domain="fraud.example.com", wait=False)
    assert set(dns.certificates()) == {DOMAIN, "fraud.example.com"}
    place = {"ListenerArn": dns.listeners()[443]["ListenerArn"]}
    attached = dns.call("elbv2", "describe_listener_certificates", **place)["Certificates"]
    assert dns.certificates()["fraud.example.com"]["CertificateArn"] in [it["CertificateArn"] for it in attached]
    assert dns.address("churn") == f"https://{DOMAIN}/churn"

    for name in ("churn", "fraud"):
        dns.deployer.delete(name)
    assert set(dns.certificates()) == {DOMAIN, "fraud.example.com"}  # they are the endpoint's
    dns.deployer.delete_endpoint("team")
    assert dns.certificates() == {}
    assert dns.records(zone) == {}


@pytest.mark.slow
def test_a_validation_record_of_another_certificate_is_used_and_stays(dns: Dns) -> None:
    """ACM has one record for all certificates of a name; moto has one for each, so it is created while ACM waits."""
    zone = dns.create_zone("example.com")
    theirs: dict[str, Any] = {}

    def create_theirs(**_: Any) -> None:
        if not theirs and (found := dns.certificates().get(DOMAIN)):
            value = found["DomainValidationOptions"][0]["ResourceRecord"]
            theirs.update(Name=value["Name"], Type="CNAME", TTL=60, ResourceRecords=[{"Value": value["Value"]}])
            batch = {"Changes": [{"Action": "CREATE", "ResourceRecordSet": theirs}]}
            dns.call("route53", "change_resource_record_sets", HostedZoneId=zone, ChangeBatch=batch)

    client = replace(dns.deployer, account=Account(dns.deployer.target, sleep=lambda seconds: time.sleep(0.3)))
    client.account.session._session.events.register("after-call.acm.RequestCertificate", create_theirs)
    client.create_endpoint("team", parse_config({"domain": DOMAIN}))
    dns.deployer.delete_endpoint("team")

    sets = dns.call("route53", "list_resource_record_sets", HostedZoneId=zone)["ResourceRecordSets"]
    assert [(it["Name"], it["TTL"]) for it in sets if it["Type"] == "CNAME"] == [(theirs["Name"], 60)]
    batch = {"Changes": [{"Action": "DELETE", "ResourceRecordSet": theirs}]}
    dns.call("route53", "change_resource_record_sets", HostedZoneId=zone, ChangeBatch=batch)


@pytest.mark.slow
def test_for_a_domain_elsewhere_the_two_records_are_shown(dns: Dns) -> None:
    dns.create_zone("example.org")

    create(dns.deployer, domain=DOMAIN, wait=False)

    certificate = dns.certificates()[DOMAIN]
    validation = certificate["DomainValidationOptions"][0]["ResourceRecord"]
    assert certificate["Status"] == "ISSUED"
    assert f"CNAME {validation['Name']} → {validation['Value']}" in said(dns.deployer)
    assert f"CNAME {DOMAIN} → {dns.balancer()['DNSName']}" in said(dns.deployer)
    assert dns.address("churn") == f"https://{DOMAIN}/churn"


@pytest.mark.slow
@pytest.mark.parametrize(("option", "ended_at"), [("certificate_arn", None), ("domain", 1)])
def test_an_endpoint_that_gets_https_redirects_and_its_other_deployments_answer_with_it(
    dns: Dns, option: str, ended_at: int | None
) -> None:
    dns.create_zone("example.com")
    create(dns.deployer, "churn", auth="api_key", wait=False)
    create(dns.deployer, "fraud", strategy="blue_green", test_green=False, bake_time_minutes=0)
    own, theirs = dns.rules(80), {"/theirs"}
    dns.add_rule(80, "/theirs")
    assert dns.address("churn").startswith("http://")
    value = DOMAIN if option == "domain" else dns.issue("other.example.com")
    options = NamedOptions({option: value, "wait": False})

    if ended_at:
        end_client_at_deletion(dns.deployer, ended_at, lambda it: it.update("churn", None, None, options))
        assert dns.rules(80).keys() & own.keys()
    dns.deployer.update("churn", None, None, options)

    assert "port_80: answers → redirects to HTTPS" in said(dns.deployer)
    redirect = dns.listeners()[80]["DefaultActions"][0]
    assert (redirect["RedirectConfig"]["Protocol"], redirect["RedirectConfig"]["StatusCode"]) == ("HTTPS", "HTTP_301")
    assert dns.rules(80).keys() == theirs
    assert {path: dns.rules(443)[path] for path in own} == own
    assert dns.address("churn").startswith("https://")
    assert dns.address("fraud").startswith("https://")
    again = NamedOptions({"wait": False})
    assert not count_writes(dns.deployer, lambda it: it.update("churn", None, None, again))

    # ECS shifts the traffic of the other one with the rules that it has now.
    dns.deployer.update("fraud", None, None, NamedOptions({"environment.MODE": "new", "wait": False}))
    until = time.monotonic() + 60
    while (state := dns.deployer.get("fraud").state) == "IN_PROGRESS" and time.monotonic() < until:
        time.sleep(0.3)
    assert state == "COMPLETED"
    cluster = dns.deployer.endpoint.cluster
    (fraud,) = dns.call("ecs", "describe_services", cluster=cluster, services=["fraud"])["services"]
    used = fraud["loadBalancers"][0]["advancedConfiguration"]
    listener = dns.listeners()[443]["ListenerArn"].replace(":listener/", ":listener-rule/")
    assert all(used[key].startswith(listener) for key in ("productionListenerRule", "testListenerRule"))

    for name in ("churn", "fraud"):
        dns.deployer.delete(name)
    assert dns.rules(80).keys() | dns.rules(443).keys() == theirs


def end_client_at_deletion(deployer: Deployer, at: int, act: Callable[[Deployer], object]) -> None:
    """Runs `act` with a client that dies before it deletes rule number `at`."""
    account, seen = Account(deployer.target, sleep=time.sleep), []

    def die(**_: Any) -> None:
        seen.append(1)
        if len(seen) == at:
            raise KeyboardInterrupt

    account.session._session.events.register("before-call.elastic-load-balancing-v2.DeleteRule", die)
    with pytest.raises(KeyboardInterrupt):
        act(replace(deployer, account=account))


@pytest.mark.slow
def test_an_interrupted_command_is_finished_with_the_same_certificate(
    dns: Dns, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(moto.settings, "ACM_VALIDATION_WAIT", 3600)
    impatient = replace(dns.deployer, account=Account(dns.deployer.target, sleep=interrupt))
    with pytest.raises(KeyboardInterrupt):
        impatient.create_endpoint("team", parse_config({"domain": DOMAIN}))
    begun = dns.certificates()[DOMAIN]
    assert begun["Status"] == "PENDING_VALIDATION"
    assert set(dns.listeners()) == set()

    monkeypatch.setattr(moto.settings, "ACM_VALIDATION_WAIT", 0)
    assert dns.deployer.create_endpoint("team", parse_config({"domain": DOMAIN}))["url"].startswith("https://")

    finished = dns.certificates()[DOMAIN]
    assert finished["CertificateArn"] == begun["CertificateArn"]
    assert set(dns.listeners()) == {80, 443}


@pytest.mark.slow
def test_what_was_created_a_moment_ago_may_not_be_visible_yet(dns: Dns) -> None:
    dns.create_zone("example.com")
    refused: set[str] = set()

    def refuse_once(service: str, operation: str, code: str) -> None:
        def refuse(**_: Any) -> None:
            if operation not in refused:
                refused.add(operation)
                raise ClientError({"Error": {"Code": code, "Message": "It does not exist."}}, operation)

        dns.deployer.account.session._session.events.register(f"before-call.{service}.{operation}", refuse)

    refuse_once("acm", "DescribeCertificate", "ResourceNotFoundException")
    refuse_once("elastic-load-balancing-v2", "CreateListener", "CertificateNotFound")
    refuse_once("elastic-load-balancing-v2", "DescribeRules", "ListenerNotFound")

    create(dns.deployer, domain=DOMAIN, wait=False)

    assert refused == {"DescribeCertificate", "CreateListener", "DescribeRules"}
    assert dns.address("churn") == f"https://{DOMAIN}/churn"


@pytest.mark.slow
def test_a_certificate_that_does_not_exist_is_refused_before_the_first_write(dns: Dns) -> None:
    absent = "arn:aws:acm:us-east-1:123456789012:certificate/0123"

    def refused(counted: Deployer) -> None:
        with pytest.raises(InvalidOption, match="ACM has no certificate arn:aws:acm"):
            create(counted, certificate_arn=absent, host=DOMAIN, wait=False)

    assert not count_writes(dns.deployer, refused)


@pytest.mark.slow
def test_a_record_that_leads_elsewhere_is_refused_before_the_first_write(dns: Dns) -> None:
    zone = dns.create_zone("example.com")
    theirs = {"Name": DOMAIN, "Type": "A", "TTL": 300, "ResourceRecords": [{"Value": "192.0.2.1"}]}
    batch = {"Changes": [{"Action": "CREATE", "ResourceRecordSet": theirs}]}
    dns.call("route53", "change_resource_record_sets", HostedZoneId=zone, ChangeBatch=batch)

    def refused(counted: Deployer) -> None:
        with pytest.raises(ForeignResource, match=f"DNS record '{DOMAIN}'"):
            create(counted, domain=DOMAIN, wait=False)

    assert not count_writes(dns.deployer, refused)
    assert dns.records(zone) == {(f"{DOMAIN}.", "A"): "192.0.2.1"}


@pytest.mark.slow
def test_the_most_specific_public_zone_of_a_domain_is_used(dns: Dns) -> None:
    zones = {name: dns.create_zone(name) for name in ("com", "example.com", "ample.com", "b.example.com")}
    vpc = dns.call("ec2", "describe_vpcs")["Vpcs"][0]["VpcId"]
    dns.create_zone(
        "churn.example.com", HostedZoneConfig={"PrivateZone": True}, VPC={"VPCRegion": "us-east-1", "VPCId": vpc}
    )
    session = dns.deployer.account.session

    found: Callable[[str], str | None] = lambda name: find_zone(session, name)  # noqa: E731
    assert found(DOMAIN) == zones["example.com"]
    assert found("a.b.example.com") == zones["b.example.com"]
    assert found("example.net") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": DOMAIN, "host": DOMAIN}, "domain implies host"),
        ({"domain": DOMAIN, "certificate_arn": "arn:aws:acm:us-east-1:1:certificate/1"}, "use host instead"),
        ({"domain": DOMAIN, "strategy": "canary"}, "domain cannot be used with strategy=canary"),
        ({"domain": DOMAIN, "listener_arn": "arn:l", "security_groups": "sg-1"}, "not to an existing one"),
        ({"domain": "*.example.com"}, "must be a domain of at most 64 characters"),
        ({"domain": "https://example.com"}, "must be a domain"),
        ({"domain": "a" * 60 + ".example.com"}, "at most 64 characters"),
    ],
)
def test_options_that_contradict_a_domain_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidOption, match=message.replace("*", r"\*")):
        parse_config(options)
