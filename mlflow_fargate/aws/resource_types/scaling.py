"""Application Auto Scaling: the number of tasks of a service, by load and by schedule.

One scalable target per service, one target-tracking policy per metric, one scheduled action per schedule entry. Their
names start with `mlflow-fargate-`; targets without any of these were created by something else. While a target exists,
the service's count is not set here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from mlflow_fargate.aws.ecs_service import describe_service
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.config.scaling_options import ScheduledCounts
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources.properties import Cooldown, ScalingProperties

_DIMENSION = "ecs:service:DesiredCount"
_PREFIX = "mlflow-fargate-"
_REQUESTS = "ALBRequestCountPerTarget"


class AutoScalingType(ResourceType[ScalingProperties]):
    """All of a service's autoscaling, as one resource."""

    def observe(self, resource: Resource[ScalingProperties], ids: Ids) -> Found[ScalingProperties] | None:
        """Returns the existing autoscaling; bounds set by the desired schedule count as the desired ones."""
        if "cluster" not in ids:
            return None
        service = f"service/{ids['cluster'].rpartition('/')[2]}/{resource.name}"
        target = self._target(service)
        if target is None:
            return None
        policies, actions = list(self._policies(service)), list(self._actions(service))
        counts = (target["MinCapacity"], target["MaxCapacity"])
        wanted = resource.properties
        if counts in [(low, high) for _, low, high in wanted.schedule.values()]:
            counts = wanted.counts
        properties = ScalingProperties(counts, *_read_policies(policies), *_read_actions(actions))
        # A target without any policy or action was left by a killed client of this package.
        is_ours = bool(_ours(policies, "PolicyName") or _ours(actions)) or not (policies or actions)
        return Found(service, properties, is_ours)

    def create(self, resource: Resource[ScalingProperties], ids: Ids) -> str:
        cluster = ids["cluster"].rpartition("/")[2]
        service = f"service/{cluster}/{resource.name}"
        low, high = resource.properties.counts
        # AWS adjusts a count outside of the bounds only when an alarm fires.
        self._bring_inside(cluster, resource.name, low, high)
        self._register(service, low, high, Tags=dict(resource.tags))
        self._put_policies(service, resource.properties, ids)
        self._put_actions(service, resource.properties)
        return service

    def change(self, resource: Resource[ScalingProperties], found: Found[ScalingProperties], ids: Ids) -> str:
        service, before, wanted = found.identifier, found.properties, resource.properties
        if before.counts != wanted.counts:
            self._register(service, *wanted.counts)
        tracking = (wanted.targets, wanted.cooldown_seconds, wanted.requests_of)
        if (before.targets, before.cooldown_seconds, before.requests_of) != tracking:
            self._delete_policies(service, keep=wanted.targets)
            self._put_policies(service, wanted, ids)
        if (before.schedule, before.timezone) != (wanted.schedule, wanted.timezone):
            self._delete_actions(service, keep=wanted.schedule)
            self._put_actions(service, wanted)
        return service

    def delete(self, found: Found[Properties]) -> None:
        self._delete_policies(found.identifier)
        self._delete_actions(found.identifier)
        self._session.delete("application-autoscaling", "deregister_scalable_target", **_of(found.identifier))

    def _target(self, service: str) -> dict[str, Any] | None:
        answer = self._session.call(
            "application-autoscaling",
            "describe_scalable_targets",
            ServiceNamespace="ecs",
            ResourceIds=[service],
            ScalableDimension=_DIMENSION,
        )
        return next(iter(answer["ScalableTargets"]), None)

    def _policies(self, service: str) -> Iterator[dict[str, Any]]:
        yield from self._session.pages(
            "application-autoscaling", "describe_scaling_policies", "ScalingPolicies", **_of(service)
        )

    def _actions(self, service: str) -> Iterator[dict[str, Any]]:
        yield from self._session.pages(
            "application-autoscaling", "describe_scheduled_actions", "ScheduledActions", **_of(service)
        )

    def _bring_inside(self, cluster: str, name: str, low: int, high: int) -> None:
        service = describe_service(self._session, cluster, name)
        count = min(max(service["desiredCount"], low), high) if service else None
        if service and count != service["desiredCount"]:
            self._session.call("ecs", "update_service", cluster=cluster, service=name, desiredCount=count)

    def _register(self, service: str, low: int, high: int, **more: Any) -> None:
        self._session.call(
            "application-autoscaling",
            "register_scalable_target",
            MinCapacity=low,
            MaxCapacity=high,
            **_of(service),
            **more,
        )

    def _put_policies(self, service: str, wanted: ScalingProperties, ids: Ids) -> None:
        for metric, value in wanted.targets.items():
            specification = {"PredefinedMetricType": metric}
            if metric == _REQUESTS:
                specification["ResourceLabel"] = _label(ids["load balancer"], ids["target group"])
            configuration: dict[str, Any] = {
                "TargetValue": value,
                "PredefinedMetricSpecification": specification,
            }
            if cooldown := wanted.cooldown_seconds:
                configuration |= {"ScaleOutCooldown": cooldown["out"], "ScaleInCooldown": cooldown["in"]}
            self._session.call(
                "application-autoscaling",
                "put_scaling_policy",
                PolicyName=f"{_PREFIX}{metric}",
                PolicyType="TargetTrackingScaling",
                TargetTrackingScalingPolicyConfiguration=configuration,
                **_of(service),
            )

    def _put_actions(self, service: str, wanted: ScalingProperties) -> None:
        for name, (when, low, high) in wanted.schedule.items():
            self._session.call(
                "application-autoscaling",
                "put_scheduled_action",
                ScheduledActionName=f"{_PREFIX}{name}",
                Schedule=when,
                Timezone=wanted.timezone,
                ScalableTargetAction={"MinCapacity": low, "MaxCapacity": high},
                **_of(service),
            )

    def _delete_policies(self, service: str, keep: Collection[str] = ()) -> None:
        for name in _ours(self._policies(service), "PolicyName"):
            if name.removeprefix(_PREFIX) not in keep:
                self._session.delete(
                    "application-autoscaling", "delete_scaling_policy", PolicyName=name, **_of(service)
                )

    def _delete_actions(self, service: str, keep: Collection[str] = ()) -> None:
        for name in _ours(self._actions(service)):
            if name.removeprefix(_PREFIX) not in keep:
                self._session.delete(
                    "application-autoscaling", "delete_scheduled_action", ScheduledActionName=name, **_of(service)
                )


def _of(service: str) -> dict[str, str]:
    return {"ServiceNamespace": "ecs", "ResourceId": service, "ScalableDimension": _DIMENSION}


def _ours(described: Iterable[dict[str, Any]], key: str = "ScheduledActionName") -> list[str]:
    return [item[key] for item in described if item[key].startswith(_PREFIX)]


def _label(load_balancer: str, target_group: str) -> str:
    """app/NAME/ID/targetgroup/NAME/ID: the ends of both ARNs.

    Source: https://docs.aws.amazon.com/autoscaling/application/APIReference/API_PredefinedMetricSpecification.html
    """
    return f"{load_balancer.partition(':loadbalancer/')[2]}/{target_group.rpartition(':')[2]}"


def _read_policies(policies: list[dict[str, Any]]) -> tuple[dict[str, float], Cooldown | None, str | None]:
    """Targets, cooldown and target group; no cooldown if the policies differ in it."""
    targets: dict[str, float] = {}
    cooldowns: list[Cooldown] = []
    requests_of = None
    for policy in (item for item in policies if item["PolicyName"].startswith(_PREFIX)):
        configuration = policy["TargetTrackingScalingPolicyConfiguration"]
        specification = configuration["PredefinedMetricSpecification"]
        targets[specification["PredefinedMetricType"]] = configuration["TargetValue"]
        cooldowns.append({"out": configuration.get("ScaleOutCooldown"), "in": configuration.get("ScaleInCooldown")})
        if "ResourceLabel" in specification:
            requests_of = specification["ResourceLabel"].split("/")[-2]
    is_same = cooldowns and all(cooldown == cooldowns[0] for cooldown in cooldowns)
    return dict(sorted(targets.items())), cooldowns[0] if is_same else None, requests_of


def _read_actions(actions: list[dict[str, Any]]) -> tuple[dict[str, ScheduledCounts], str | None]:
    """The schedule and its time zone; None if the entries differ in it."""
    schedule, zones = {}, set()
    for action in actions:
        name, counts = action["ScheduledActionName"], action["ScalableTargetAction"]
        if name.startswith(_PREFIX):
            zones.add(action.get("Timezone", "UTC"))
            entry = ScheduledCounts(action["Schedule"], counts.get("MinCapacity"), counts.get("MaxCapacity"))
            schedule[name.removeprefix(_PREFIX)] = entry
    return dict(sorted(schedule.items())), zones.pop() if len(zones) == 1 else None
