"""The AWS resources of an endpoint, a deployment and the webhook service: from a spec to the desired resources.

Pure functions: they decide names and properties; aws/ makes the calls. Resources are in order of dependency, so that a
plan is applied from first to last and undone from last to first.

    endpoint     cluster · execution role (· infrastructure role) · two security groups · load balancer
                 (· DNS record · certificate) · listener
    deployment   log group · API key · secrets policy · target group (· alternate target group · test rule)
                 · listener rule · host rule · inference log role · task definition (· alarms) · service
                 · autoscaling
                 (a variant: a variant rule instead of both rules; `traffic` are the weights of its deployment's rules)
    webhook      log group · task role · secrets policy · target group · listener rule · host rule
                 · task definition · service

    names, policies, label_changes → properties · balancer_properties → specs → network · endpoint
                                                        → alarms → service · inference_log → deployment → webhook
"""

from mlflow_fargate.resources.deployment import deployment_resources
from mlflow_fargate.resources.endpoint import (
    endpoint_resources,
    execution_policy,
    infrastructure_policy,
)
from mlflow_fargate.resources.label_changes import read_label_text
from mlflow_fargate.resources.names import (
    CONTAINER,
    DEPLOYMENT_TAG,
    ENDPOINT_TAG,
    MANAGED_BY,
    TEST_HEADER,
    VARIANT_TAG,
    WEBHOOK,
    cluster_name,
    log_group_name,
    short_digest,
)
from mlflow_fargate.resources.network import choose_network
from mlflow_fargate.resources.specs import (
    OWN_CERTIFICATE,
    DeploymentSpec,
    Domain,
    EndpointSpec,
    Network,
    WebhookSpec,
    target_group_name,
)
from mlflow_fargate.resources.webhook import webhook_policy, webhook_resources

__all__ = [
    "CONTAINER",
    "DEPLOYMENT_TAG",
    "ENDPOINT_TAG",
    "MANAGED_BY",
    "OWN_CERTIFICATE",
    "TEST_HEADER",
    "VARIANT_TAG",
    "WEBHOOK",
    "DeploymentSpec",
    "Domain",
    "EndpointSpec",
    "Network",
    "WebhookSpec",
    "choose_network",
    "cluster_name",
    "deployment_resources",
    "endpoint_resources",
    "execution_policy",
    "infrastructure_policy",
    "log_group_name",
    "read_label_text",
    "short_digest",
    "target_group_name",
    "webhook_policy",
    "webhook_resources",
]
