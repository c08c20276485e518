"""CloudWatch: alarms on the requests of a deployment, which end a rollout; and the state of any alarm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.ecs_service import describe_service
from mlflow_fargate.aws.resource_types.resource_type import IdName, Ids, ResourceType
from mlflow_fargate.aws.resource_types.strategy import LIMITS_TAG
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.deployment import Alarm
from mlflow_fargate.errors import AwsError, InvalidOption
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources import DEPLOYMENT_TAG
from mlflow_fargate.resources.properties import AlarmProperties

_NUMBERED: dict[str, IdName] = {"1": "target group", "2": "alternate target group"}
# Two bad minutes of three: one bad minute is not enough, and two are, even with a good or silent one between them.
_EVALUATION = {
    "ComparisonOperator": "GreaterThanThreshold",
    "EvaluationPeriods": 3,
    "DatapointsToAlarm": 2,
    "TreatMissingData": "notBreaching",  # ELB reports nothing while there are no requests
}


class AlarmType(ResourceType[AlarmProperties]):
    """An alarm of this package. It has no actions: ECS reads its state."""

    def observe(self, resource: Resource[AlarmProperties], ids: Ids) -> Found[AlarmProperties] | None:
        if not resource.is_wanted and not self._could_exist(resource, ids):
            return None
        try:
            # Deployment names have no '.', so these are all of this deployment, read in one call.
            prefix = f"{resource.name.partition('.')[0]}."
            alarms = self._session.call("cloudwatch", "describe_alarms", AlarmNamePrefix=prefix)["MetricAlarms"]
        except AwsError as error:
            # Policies of earlier releases do not allow this; who cannot look has created no alarm.
            if error.code.startswith("AccessDenied") and not resource.is_wanted:
                return None
            raise
        alarm, wanted = next((item for item in alarms if item["AlarmName"] == resource.name), None), resource.properties
        if alarm is None:
            return None
        their_tags = self._session.call("cloudwatch", "list_tags_for_resource", ResourceARN=alarm["AlarmArn"])["Tags"]
        is_current = _comparable(alarm.get("Metrics", ())) == _comparable(_queries(wanted, ids))
        is_current &= all(alarm.get(key) == value for key, value in _EVALUATION.items())
        formula = wanted.formula if is_current else "outdated"
        found = AlarmProperties(alarm.get("Threshold", 0.0), formula, wanted.metrics)
        return Found(alarm["AlarmArn"], found, tags.are_ours(tags.read(their_tags)))

    def _could_exist(self, resource: Resource[AlarmProperties], ids: Ids) -> bool:
        """False for a service that never had limits, which its tag keeps; the service is read once for a whole plan."""
        cluster = ids.get("cluster")
        service = describe_service(self._session, cluster, resource.tags[DEPLOYMENT_TAG]) if cluster else None
        return service is None or service["status"] != "ACTIVE" or LIMITS_TAG in tags.read(service.get("tags"))

    def create(self, resource: Resource[AlarmProperties], ids: Ids) -> str:
        self._put(resource, ids, Tags=tags.capital(resource.tags))
        return resource.name

    def change(self, resource: Resource[AlarmProperties], found: Found[AlarmProperties], ids: Ids) -> str:
        self._put(resource, ids)
        return found.identifier

    def delete(self, found: Found[Properties]) -> None:
        self._session.delete("cloudwatch", "delete_alarms", AlarmNames=[found.identifier.partition(":alarm:")[2]])

    def _put(self, resource: Resource[AlarmProperties], ids: Ids, **more: Any) -> None:
        self._session.call(
            "cloudwatch",
            "put_metric_alarm",
            AlarmName=resource.name,
            AlarmDescription="Created by mlflow-fargate: ends a rollout",
            Threshold=resource.properties.threshold,
            Metrics=_queries(resource.properties, ids),
            **_EVALUATION,
            **more,
        )


def read_alarms(session: AwsSession, names: Sequence[str]) -> list[Alarm]:
    """Returns those of the alarms that exist, also composite ones, with their states."""
    if not names:
        return []
    kinds = ["MetricAlarm", "CompositeAlarm"]
    answer = session.call("cloudwatch", "describe_alarms", AlarmNames=list(names), AlarmTypes=kinds)
    found = [*answer.get("MetricAlarms", ()), *answer.get("CompositeAlarms", ())]
    return [Alarm(item["AlarmName"], item["StateValue"], item.get("StateReason", "")) for item in found]


def check_alarms(session: AwsSession, names: Sequence[str]) -> None:
    """Raises InvalidOption if one of the user's alarms does not exist."""
    missing = sorted(set(names) - {alarm.name for alarm in read_alarms(session, names)})
    if missing:
        raise InvalidOption(
            f"Option alarms: there is no alarm '{missing[0]}' in {session.region}.",
            hint="list the alarms of the region with: aws cloudwatch describe-alarms --query MetricAlarms[].AlarmName",
        )


def _queries(wanted: AlarmProperties, ids: Ids) -> list[dict[str, Any]]:
    """The metrics of each target group that the formula names, and the formula."""
    queries: list[dict[str, Any]] = []
    for prefix, (metric, statistic) in wanted.metrics.items():
        for number, group in _NUMBERED.items():
            if f"{prefix}{number}" in wanted.formula:
                of_group = dimensions(ids.get("load balancer", ""), ids.get(group, ""))
                named = {"Namespace": "AWS/ApplicationELB", "MetricName": metric, "Dimensions": of_group}
                stat = {"Metric": named, "Period": 60, "Stat": statistic}
                queries.append({"Id": f"{prefix}{number}", "MetricStat": stat, "ReturnData": False})
    return [*queries, {"Id": "result", "Expression": wanted.formula, "ReturnData": True}]


def dimensions(balancer: str, group: str) -> list[dict[str, str]]:
    """CloudWatch identifies both by the ends of their ARNs: app/NAME/ID and targetgroup/NAME/ID."""
    return [
        {"Name": "LoadBalancer", "Value": balancer.partition(":loadbalancer/")[2]},
        {"Name": "TargetGroup", "Value": group.rpartition(":")[2]},
    ]


def _comparable(queries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a query yields, by its ID."""
    return {query["Id"]: query.get("Expression") or _metric(query["MetricStat"]) for query in queries}


def _metric(statistic: Mapping[str, Any]) -> list[Any]:
    metric = statistic["Metric"]
    values = sorted(dimension["Value"] for dimension in metric.get("Dimensions", ()))
    return [metric["MetricName"], *values, statistic["Period"], statistic["Stat"]]
