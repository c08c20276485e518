"""ACM: the certificate of a domain, requested with DNS validation and used once it is issued.

Where the account has the domain's hosted zone, the validation record is created there; otherwise the command prints
which records to create, and waits. It can be interrupted and repeated: a certificate is found by its tags.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.existing_load_balancer import describe_balancer
from mlflow_fargate.aws.resource_types.domain.hosted_zone import change_record, delete_record, find_record, find_zone
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError, RolloutTimeout
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources.balancer_properties import CertificateProperties

# ACM validates minutes after the record is visible, and gives up after 72 hours.
# https://docs.aws.amazon.com/acm/latest/userguide/dns-validation.html
_VALIDATION_SECONDS = 3600
_POLL_SECONDS = 5
# Until a deleted listener no longer uses it: as long as Terraform's provider waits.
# https://github.com/hashicorp/terraform-provider-aws/blob/main/internal/service/acm/certificate.go
_RELEASE_SECONDS = 20 * 60
# Marks validation records of this package: ACM has one record for all certificates of a name in an account, in any
# region, so one that is there may be needed to renew others. https://github.com/hashicorp/terraform-provider-aws/issues/13653
_OUR_TTL_SECONDS = 301
_USABLE = ["PENDING_VALIDATION", "ISSUED"]


class CertificateType(ResourceType[CertificateProperties]):
    """The certificate of one domain."""

    def __init__(self, session: AwsSession, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        super().__init__(session)
        self._clock = clock
        self._sleep = sleep
        self.tell: Callable[[str], None] = lambda text: None  # shows which records to create, and what is awaited

    def observe(self, resource: Resource[CertificateProperties], ids: Ids) -> Found[CertificateProperties] | None:
        found = dict(find_certificates(self._session, resource.tags))
        arn = found.get(resource.name)
        certificate = self._describe(arn) if arn else {}
        return Found(arn, CertificateProperties(certificate["Status"])) if arn and certificate else None

    def create(self, resource: Resource[CertificateProperties], ids: Ids) -> str:
        answer = self._session.call(
            "acm",
            "request_certificate",
            DomainName=resource.name,
            ValidationMethod="DNS",
            IdempotencyToken=uuid.uuid4().hex,
            Tags=tags.capital(resource.tags),
        )
        return self._validate(str(answer["CertificateArn"]), resource.name, ids)

    def change(self, resource: Resource[CertificateProperties], found: Found[CertificateProperties], ids: Ids) -> str:
        return self._validate(found.identifier, resource.name, ids)

    def delete(self, found: Found[Properties]) -> None:
        """Deletes it, once no listener uses it, and the validation record if it was created here."""
        if record := self._validation_record(self._describe(found.identifier)):
            zone = find_zone(self._session, record["Name"].rstrip("."))
            standing = find_record(self._session, zone, record["Name"]) if zone else None
            if zone and standing and standing.get("TTL") == _OUR_TTL_SECONDS:
                delete_record(self._session, zone, standing)
        deadline, is_told = self._clock() + _RELEASE_SECONDS, False
        while True:
            try:
                self._session.delete("acm", "delete_certificate", CertificateArn=found.identifier)
            except AwsError as error:
                if error.code != "ResourceInUseException" or self._clock() > deadline:
                    raise
                if not is_told:
                    up_to = f"for up to {_RELEASE_SECONDS // 60} minutes; Ctrl-C is safe"
                    self.tell(f"waiting for AWS to release certificate {found.identifier} from its listener, {up_to}")
                    is_told = True
                self._sleep(_POLL_SECONDS)
            else:
                return

    def _validate(self, arn: str, domain: str, ids: Ids) -> str:
        """Creates the validation record, or says which records are needed, and waits until ACM has seen it."""
        deadline, is_told = self._clock() + _VALIDATION_SECONDS, False
        # A certificate that was requested a moment ago may not be visible yet.
        while not (certificate := self._describe(arn)) or certificate["Status"] == "PENDING_VALIDATION":
            record = self._validation_record(certificate)
            if record and not is_told:
                self._publish(record, domain, ids)
                is_told = True
            if self._clock() > deadline:
                raise RolloutTimeout(
                    f"ACM has not validated the certificate of {domain} within {_VALIDATION_SECONDS // 60} minutes.",
                    hint="check that the record that was shown resolves (with Route 53, the domain's name servers "
                    "must be those of the hosted zone); then run the same command again to finish",
                )
            self._sleep(_POLL_SECONDS)
        if certificate["Status"] != "ISSUED":
            raise RolloutTimeout(
                f"ACM did not issue the certificate of {domain}: {certificate['Status']} "
                f"{certificate.get('FailureReason', '')}".rstrip(),
                hint="see https://docs.aws.amazon.com/acm/latest/userguide/certificate-validation.html; "
                "then run the same command again",
            )
        return arn

    def _publish(self, record: Mapping[str, Any], domain: str, ids: Ids) -> None:
        if zone := find_zone(self._session, domain):
            if not find_record(self._session, zone, record["Name"]):
                change_record(self._session, zone, "UPSERT", dict(record))
            self.tell(
                f"waiting until ACM sees {record['Name']} in hosted zone {zone}: minutes, if DNS leads to that zone"
            )
            return
        target = describe_balancer(self._session, ids["load balancer"])["DNSName"]
        value = record["ResourceRecords"][0]["Value"]
        self.tell(
            f"{domain} is in no public hosted zone of this account. Create these two records where its DNS is; this "
            f"command waits for the first:\n    CNAME {record['Name']} → {value}\n    CNAME {domain} → {target}"
        )

    def _describe(self, arn: str) -> dict[str, Any]:
        """The certificate; empty if it does not exist (yet, or any more)."""
        answer = self._session.find("acm", "describe_certificate", CertificateArn=arn)
        return dict(answer["Certificate"]) if answer else {}

    def _validation_record(self, certificate: Mapping[str, Any]) -> dict[str, Any] | None:
        """As Route 53 takes it; None for the first seconds, until ACM has made it up."""
        options = certificate.get("DomainValidationOptions") or [{}]
        record = options[0].get("ResourceRecord")
        if record is None:
            return None
        return {
            "Name": record["Name"],
            "Type": "CNAME",
            "TTL": _OUR_TTL_SECONDS,
            "ResourceRecords": [{"Value": record["Value"]}],
        }


def find_certificates(session: AwsSession, wanted_tags: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yields (domain, ARN) of each usable certificate that carries the tags."""
    for item in session.pages("acm", "list_certificates", "CertificateSummaryList", CertificateStatuses=_USABLE):
        arn = item["CertificateArn"]
        answer = session.find("acm", "list_tags_for_certificate", CertificateArn=arn)
        if answer and wanted_tags.items() <= tags.read(answer["Tags"]).items():
            yield item["DomainName"], arn
