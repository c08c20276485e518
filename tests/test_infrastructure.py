"""The templates in infrastructure/: two outside judges, and rules that the decoded templates keep.

test_tracking_server.py runs what the instance runs, and deploys from the outputs.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cfnlint
import pytest

from support.checkov import judge
from support.templates import FOLDER, NETWORK, TRACKING_SERVER, accepts, decoded, inside, of_type

SERVER = decoded(TRACKING_SERVER)
PAGE = (FOLDER.parent / "docs" / "from-an-empty-account.md").read_text("utf-8")
TEMPLATES = [NETWORK, TRACKING_SERVER]
# Parts of the templates exist only with these values.
OTHER_CHOICES = (
    (TRACKING_SERVER, "Default: volume", "Default: postgres"),
    (NETWORK, "Default: none", "Default: endpoints"),
    (NETWORK, 'Default: "0"', 'Default: "30"'),
)
KEEPS_DATA = {"Bucket": "Retain", "BucketPolicy": "Retain", "Volume": "Snapshot", "Postgres": "Snapshot"}
KEEPS_SECRETS = {"AdminSecret": "Retain", "KeySecret": "Retain"}  # which a restored database is opened with


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_cfn_lint_finds_nothing(template: Path) -> None:
    assert [str(one) for one in cfnlint.lint_file(template)] == []


@pytest.mark.exhaustive
@pytest.mark.slow
def test_checkov_finds_nothing_but_exceptions_that_give_a_reason(tmp_path: Path) -> None:
    others = {path: tmp_path / path.name for path in TEMPLATES}
    for path, other in others.items():
        text = path.read_text("utf-8")
        for of, default, choice in OTHER_CHOICES:
            assert of != path or text.count(default) == 1
            text = text.replace(default, choice) if of == path else text
        other.write_text(text, "utf-8")
    results = [judge(TEMPLATES), judge(others.values())]

    assert [(one["check_id"], one["resource"]) for result in results for one in result["failed_checks"]] == []
    assert all(len(result["passed_checks"]) > 50 for result in results)
    used = {
        (one["check_id"], one["resource"].rpartition(".")[2]) for result in results for one in result["skipped_checks"]
    }
    written = {
        (skip["id"], name): skip["comment"]
        for path in TEMPLATES
        for name, one in decoded(path)["Resources"].items()
        for skip in one.get("Metadata", {}).get("checkov", {}).get("skip", ())
    }
    assert used == written.keys() and all(len(reason) > 40 for reason in written.values())


def statements(resource: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in inside(resource) if isinstance(one, dict) and "Effect" in one]


def test_nothing_in_the_templates_is_a_macro_or_a_nested_stack() -> None:
    for path in TEMPLATES:
        template = decoded(path)
        assert "Transform" not in template
        assert not [one for one in inside(template) if isinstance(one, dict) and "Fn::Transform" in one]
        assert not of_type(template, "CloudFormation::Stack")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_can_be_passed_to_cloudformation_as_a_file(path: Path) -> None:
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
    assert len(path.read_bytes()) <= 51_200


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_parameter_that_can_be_wrong_says_what_it_must_be(path: Path) -> None:
    for name, one in decoded(path)["Parameters"].items():
        assert one["Description"], name
        if one["Type"] in ("String", "Number"):
            assert one["ConstraintDescription"].startswith("must be "), name
            assert {"AllowedPattern", "AllowedValues", "MinValue"} & one.keys(), name


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        ("AllowedCidr", ["", "10.20.0.0/16", "10.0.0.0/8"], ["0.0.0.0/0", "10.0.0.0/7", "::/0", "10.0.0.1"]),
        (
            "ServerUrl",
            ["", "https://mlflow.example.com", "http://10.0.0.5:5000"],
            ["mlflow.example.com", "https://a/b"],
        ),
        (
            "ServerUrl",
            [],
            ["https://u:p@mlflow.example.com", "https://*", "https://a,b", "https://a b", "https://$(id)"],
        ),
        ("MlflowVersion", ["3.17.2"], ["3.4.0", "3", "latest", "3.17.2; id"]),
        (
            "PluginPackage",
            ["", "s3://b/plugin/x.whl", "https://example.com/x-1.0+b%2B1-py3-none-any.whl"],
            ["x", "mlflow-fargate", "s3://b/x.whl; id", "s3://b/$(id).whl", "http://example.com/x.whl", "a b"],
        ),
        (
            "DatabaseSubnetIds",
            ["", "subnet-0123456789abcdef0,subnet-0123abcd"],
            ["subnet-0123abcd", "subnet-0123abcd, subnet-0123abce", "vpc-0123abcd,vpc-0123abce"],
        ),
        ("VolumeSnapshotId", ["", "snap-0123456789abcdef0"], ["vol-0123456789abcdef0"]),
        ("ExistingBucket", ["", "models"], ["s3://models", "Models"]),
        (
            "GitHubRepository",
            ["", "acme/churn:ref:refs/heads/main", "acme/churn:environment:prod"],
            ["acme/churn", "acme/*:ref:refs/heads/main", "acme/churn:*", "acme/churn:pull_request"],
        ),
    ],
)
def test_a_parameter_takes_good_values_and_refuses_bad_ones(parameter: str, good: list[str], bad: list[str]) -> None:
    assert [value for value in good if not accepts(SERVER, parameter, value)] == []
    assert [value for value in bad if accepts(SERVER, parameter, value)] == []


def test_people_and_ci_open_tunnels_to_the_server_but_no_shells() -> None:
    sessions = [one for one in statements(SERVER["Resources"]["Access"]) if one["Action"] == "ssm:StartSession"]

    assert len(sessions) == 2
    assert [one["Sid"] for one in sessions if not checks_documents(one)] == []


def test_a_tunnel_can_be_opened_and_ended_by_who_started_it() -> None:
    (own,) = (one for one in statements(SERVER["Resources"]["Access"]) if one["Sid"] == "OwnTunnels")

    assert {*own["Action"]} == {"ssm:TerminateSession", "ssm:ResumeSession", "ssmmessages:OpenDataChannel"}
    assert own["Resource"]["Fn::Sub"].endswith(":session/${!aws:userid}-*")


def checks_documents(statement: dict[str, Any]) -> bool:
    """Returns whether a session without a document is refused, which would be a shell."""
    return bool(statement["Condition"]["BoolIfExists"] == {"ssm:SessionDocumentAccessCheck": "true"})


def test_only_the_tasks_and_one_private_range_reach_the_server_and_only_the_server_its_database() -> None:
    groups, rules = of_type(SERVER, "EC2::SecurityGroup"), of_type(SERVER, "EC2::SecurityGroupIngress")
    ingress = [
        *({**one["Properties"], "to": one["Properties"]["GroupId"]["Ref"]} for one in rules.values()),
        *(
            {**rule, "to": name}
            for name, one in groups.items()
            for rule in one["Properties"].get("SecurityGroupIngress", ())
        ),
    ]

    assert {
        (
            rule["to"],
            rule["FromPort"],
            rule["ToPort"],
            json.dumps(rule.get("SourceSecurityGroupId", rule.get("CidrIp"))),
        )
        for rule in ingress
    } == {
        ("ServerSecurityGroup", 5000, 5000, '{"Ref": "TaskSecurityGroup"}'),
        ("ServerSecurityGroup", 5000, 5000, '{"Ref": "AllowedCidr"}'),
        ("DatabaseSecurityGroup", 5432, 5432, '{"Ref": "InstanceSecurityGroup"}'),
    }
    assert rules["FromAllowedCidr"]["Condition"] == "HasAllowedCidr"
    assert SERVER["Parameters"]["AllowedCidr"]["Default"] == ""
    assert SERVER["Resources"]["Postgres"]["Properties"]["PubliclyAccessible"] is False


def test_the_network_opens_only_its_own_endpoints_to_itself() -> None:
    network = decoded(NETWORK)
    (group,) = of_type(network, "EC2::SecurityGroup").values()
    (rule,) = group["Properties"]["SecurityGroupIngress"]

    assert (rule["FromPort"], rule["ToPort"], rule["CidrIp"]) == (443, 443, {"Fn::Sub": "${AddressPrefix}.0.0/16"})
    assert not [one for one in of_type(network, "EC2::Subnet").values() if one["Properties"].get("MapPublicIpOnLaunch")]


def test_everything_that_holds_data_is_encrypted() -> None:
    resources = SERVER["Resources"]
    (disk,) = resources["ServerTemplate"]["Properties"]["LaunchTemplateData"]["BlockDeviceMappings"]
    (rule,) = resources["Bucket"]["Properties"]["BucketEncryption"]["ServerSideEncryptionConfiguration"]

    assert resources["Volume"]["Properties"]["Encrypted"] is disk["Ebs"]["Encrypted"] is True
    # A snapshot's encryption is the database's: AWS takes no other value with it.
    encrypted = resources["Postgres"]["Properties"]["StorageEncrypted"]
    assert encrypted == {"Fn::If": ["FromDatabaseSnapshot", {"Ref": "AWS::NoValue"}, True]}
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"


def test_the_bucket_is_private_versioned_and_answers_over_tls_only() -> None:
    properties = SERVER["Resources"]["Bucket"]["Properties"]
    (statement,) = statements(SERVER["Resources"]["BucketPolicy"])

    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(properties["PublicAccessBlockConfiguration"]) == 4
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    assert properties["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert "BucketName" not in properties  # a fixed name would block the second stack
    assert statement["Effect"] == "Deny" and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert (statement["Principal"], statement["Action"], len(statement["Resource"])) == ("*", "s3:*", 2)
    assert all(
        "Prefix" in rule or "ExpirationInDays" not in rule for rule in properties["LifecycleConfiguration"]["Rules"]
    )


def test_deleting_the_stack_keeps_the_data_and_what_opens_it() -> None:
    stateful = {
        name
        for kind in ("S3::Bucket", "S3::BucketPolicy", "EC2::Volume", "RDS::DBInstance")
        for name in of_type(SERVER, kind)
    }
    for name, policy in {**KEEPS_DATA, **KEEPS_SECRETS}.items():
        one = SERVER["Resources"][name]
        assert one["DeletionPolicy"] == one["UpdateReplacePolicy"] == policy
    assert stateful == KEEPS_DATA.keys()
    assert SERVER["Parameters"]["DeletionProtection"]["Default"] == "true"
    assert SERVER["Resources"]["Postgres"]["Properties"]["BackupRetentionPeriod"] == 7


def test_the_instance_is_disposable_and_has_no_ssh() -> None:
    properties = SERVER["Resources"]["ServerTemplate"]["Properties"]["LaunchTemplateData"]
    group = SERVER["Resources"]["Server"]

    assert properties["MetadataOptions"]["HttpTokens"] == "required" and "KeyName" not in properties
    assert not of_type(SERVER, "EC2::Instance") and not of_type(SERVER, "EC2::VolumeAttachment")
    # A new version of the template starts a new instance after the old one has ended: one process migrates.
    assert group["UpdatePolicy"]["AutoScalingRollingUpdate"]["MinInstancesInService"] == 0
    assert group["Properties"]["MaxSize"] == "1"
    # The group names the subnet; a template that also does may be refused.
    assert [one for one in properties["NetworkInterfaces"] if "SubnetId" in one] == []
    assert group["Properties"]["LaunchTemplate"]["Version"] == {"Fn::GetAtt": ["ServerTemplate", "LatestVersionNumber"]}


def test_no_password_is_a_parameter_or_an_output() -> None:
    assert not [name for name in SERVER["Parameters"] if "Password" in name or "Secret" in name]
    assert {name for name in SERVER["Outputs"] if "Secret" in name} == {
        "AdminSecretArn",
        "WebhookSecretArn",
        "CiSecretArn",
    }
    assert "resolve:secretsmanager" not in json.dumps(SERVER["Resources"]["ServerTemplate"])


def test_a_role_reads_its_own_secrets_and_writes_its_own_prefixes() -> None:
    def of(name: str, action: str) -> list[Any]:
        found = [one["Resource"] for one in statements(SERVER["Resources"][name]) if action in one["Action"]]
        return [one for resource in found for one in (resource if isinstance(resource, list) else [resource])]

    secrets = {
        role: json.dumps(of(role, "secretsmanager:GetSecretValue")) for role in ("PeopleRole", "CiRole", "ServerRole")
    }
    assert "AdminSecret" in secrets["PeopleRole"] and "KeySecret" not in secrets["PeopleRole"]
    assert "CiSecret" in secrets["CiRole"] and "AdminSecret" not in secrets["CiRole"]
    assert "WebhookSecret" not in secrets["ServerRole"]
    for name in ("Access", "PeopleRole", "CiRole", "ServerRole"):
        for statement in statements(SERVER["Resources"][name]):
            actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
            assert not [action for action in actions if "*" in action]
            assert statement.get("Resource") != "*" or all(":Describe" in action for action in actions)
    assert all(
        "/artifacts/*" in json.dumps(one) or "/backups/*" in json.dumps(one) for one in of("ServerRole", "s3:PutObject")
    )


def test_both_security_flags_come_from_one_parameter() -> None:
    script, values = SERVER["Resources"]["ServerTemplate"]["Properties"]["LaunchTemplateData"]["UserData"][
        "Fn::Base64"
    ]["Fn::Sub"]

    assert "--allowed-hosts ${UrlHost},${Ip}:5000,localhost:5000,127.0.0.1:5000" in script
    assert "--cors-allowed-origins ${Url},http://${Ip}:5000," in script
    assert values["UrlHost"] == {"Fn::Select": [1, {"Fn::Split": ["//", values["Url"]]}]}
    assert {"Ref": "ServerUrl"} in inside(values["Url"])
    assert (
        SERVER["Parameters"]["JobExecution"]["Default"] == "false" and SERVER["Parameters"]["Workers"]["Default"] == 1
    )
    assert len(script.encode()) < 12_000  # EC2 takes 16 KiB; the longest values are added


def test_the_page_names_parameters_and_outputs_that_the_templates_have() -> None:
    network = decoded(NETWORK)
    parameters = {*network["Parameters"], *SERVER["Parameters"]}
    outputs = {"network": network["Outputs"], "mlflow": SERVER["Outputs"]}

    assert {*re.findall(r"\b([A-Z][A-Za-z]+)=[^=']", PAGE)} - {"Key", "Values", "SecretId"} <= parameters
    assert [one for one in re.findall(r"\$\(output (\w+) (\w+)\)", PAGE) if one[1] not in outputs[one[0]]] == []
    assert {*re.findall(r"OutputKey=='(\w+)'", PAGE)} <= {*SERVER["Outputs"]}


def test_terraforms_users_give_every_parameter_that_has_no_default() -> None:
    (code,) = re.findall(r"^```hcl\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    given = dict(re.findall(r"(\w+) += aws_cloudformation_stack\.network\.outputs\.(\w+)", code))
    needed = {name for name, one in SERVER["Parameters"].items() if "Default" not in one}

    assert needed <= given.keys() <= SERVER["Parameters"].keys()
    assert {*given.values()} <= decoded(NETWORK)["Outputs"].keys()
    assert [name for name in re.findall(r'file\("(.*?)"\)', code) if not (FOLDER.parent / name).is_file()] == []


def test_the_costs_on_the_page_are_sums_of_list_prices() -> None:
    hours, address, secret = 730, 0.005, 0.40
    disks, volume = 0.08 * (16 + 20), 0.08 * 20
    server = hours * (0.0208 + address) + disks + 3 * secret
    postgres = hours * 0.016 + 0.115 * 20

    assert f"about USD {server:.0f}: instance {hours * 0.0208:.1f}0, disks {disks:.1f}0" in PAGE
    assert f"about USD {server + postgres + secret - volume:.0f}: {postgres:.0f} more" in PAGE
    assert f"USD {hours * (0.045 + address):.2f} (gateway {hours * 0.045:.2f}, its public address 3.65)" in PAGE
    assert f"USD {6 * 2 * hours * 0.01:.0f} in two zones (six endpoints" in PAGE


def test_the_folder_has_nothing_but_templates() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == ["network.yaml", "tracking-server.yaml"]
