"""The Helm chart: Helm, Kubernetes and the operators accept what it renders, and its values are checked."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner

from millhand.cli.main import cli
from required import missing

sys.path.append(str(Path(__file__).parents[1] / "interop"))
from go_build import built

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
CHART = HERE.parents[1] / "deploy" / "helm" / "millhand"
OLDEST_KUBERNETES = "1.27"
# The definitions of custom resources, in the modules of their operators: the hash of the module, and the files.
OPERATORS = {
    "github.com/kedacore/keda/v2@v2.17.2": (
        "h1:xlrcK5TKABJF9PebK79sgL07s/csGjL3H4m72OkZXxk=",
        (
            "config/crd/bases/keda.sh_scaledobjects.yaml",
            "config/crd/bases/keda.sh_triggerauthentications.yaml",
        ),
    ),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        ("example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",),
    ),
}
NEEDED = ("image.repository=registry.internal/shop", "image.tag=1.4.2", "database.secret=shop-worker")
CONFIG = "config=shop.jobs:config"
VARIANTS = {
    "as few values as possible": (),
    "a module": (CONFIG,),
    "KEDA asks PostgreSQL": (CONFIG, "autoscaling.mode=postgresql", "autoscaling.queues={default,mail}"),
    "KEDA asks Prometheus": (
        CONFIG,
        "autoscaling.mode=prometheus",
        "autoscaling.minReplicas=0",
        "monitoring.podMonitor=true",
    ),
    "all that a pod may have": (
        CONFIG,
        "args={--processes,2}",
        "database.ownerSecret=shop-owner",
        "env[0].name=TZ",
        "env[0].value=UTC",
        "envFrom[0].secretRef.name=more",
        "image.pullSecrets[0].name=registry",
        "nodeSelector.disk=ssd",
        "podAnnotations.note=a",
        "podLabels.team=shop",
        "tolerations[0].operator=Exists",
        "topologySpreadConstraints[0].maxSkew=1",
        "topologySpreadConstraints[0].topologyKey=zone",
        "topologySpreadConstraints[0].whenUnsatisfiable=ScheduleAnyway",
    ),
    "no migration and no budget": (
        "migrate.enabled=false",
        "podDisruptionBudget=false",
        "softStopSeconds=600",
    ),
}


def helm(command: str, *values: str) -> subprocess.CompletedProcess[str]:
    """Run `helm lint --strict` or `helm template` with these values."""
    program = built("helm", HERE / "helm", "helm.sh/helm/v3/cmd/helm")
    words = {
        "lint": [str(program), "lint", "--strict", str(CHART)],
        "template": [str(program), "template", "shop", str(CHART)],
    }[command]
    options = [part for value in values for part in ("--set", value)]
    return subprocess.run(
        [*words, "--kube-version", "1.31.0", *options], capture_output=True, check=False, text=True
    )


@cache
def rendered(*values: str) -> list[dict[str, Any]]:
    """Return the manifests of the chart."""
    done = helm("template", *NEEDED, *values)
    assert done.returncode == 0, done.stderr
    return [one for one in _module("yaml").safe_load_all(done.stdout) if one is not None]


def of_kind(kind: str, *values: str) -> dict[str, Any]:
    """Return the one manifest of a kind."""
    (found,) = [one for one in rendered(*values) if one["kind"] == kind]
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_chart_renders_manifests_without_an_unknown_field(variant: str) -> None:
    """Helm's linter, Kubernetes in its oldest and newest release, KEDA and the Prometheus operator accept each manifest."""
    kubernetes, jsonschema = _module("kubernetes_validate"), _module("jsonschema")
    lint = helm("lint", *NEEDED, *VARIANTS[variant])
    custom = custom_resources()

    assert lint.returncode == 0, lint.stdout
    for manifest in rendered(*VARIANTS[variant]):
        if (schema := custom.get((manifest["apiVersion"], manifest["kind"]))) is not None:
            jsonschema.validate(manifest, schema)
        else:
            for version in (OLDEST_KUBERNETES, kubernetes.latest_version()):
                kubernetes.validate(manifest, version, strict=True)


def test_check_finds_an_unknown_field_of_a_custom_resource() -> None:
    """A misspelt field of a ScaledObject or a PodMonitor is an error."""
    jsonschema = _module("jsonschema")
    scaled = of_kind("ScaledObject", *VARIANTS["KEDA asks Prometheus"])
    monitor = of_kind("PodMonitor", *VARIANTS["KEDA asks Prometheus"])

    for manifest, path in ((scaled, scaled["spec"]), (monitor, monitor["spec"]["podMetricsEndpoints"][0])):
        path["intervall"] = "15s"
        with pytest.raises(jsonschema.ValidationError, match="intervall"):
            jsonschema.validate(manifest, custom_resources()[manifest["apiVersion"], manifest["kind"]])
        del path["intervall"]


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (("image.repository=",), "image"),
        (("image.tag=",), "image"),
        (("database.secret=",), "secret"),
        (("config=shop.jobs",), "config"),
        (("autoscaling.mode=cpu",), "mode"),
        (("replica=3",), "replica"),
        (("autoscaling.mode=postgresql", "autoscaling.queues={it's}"), "queues"),
        (("softStopSeconds=0",), "softStopSeconds"),
    ],
)
def test_chart_names_a_value_that_it_cannot_use(values: tuple[str, ...], fault: str) -> None:
    """A value that is missing, misspelt or out of range ends Helm with an error that names it."""
    done = helm("template", *NEEDED, *values)

    assert done.returncode != 0
    assert fault in done.stderr


def test_chart_migrates_before_it_checks_and_deploys() -> None:
    """The hook migrates as the owner, and then checks the queued jobs against the new image."""
    job = of_kind("Job", *VARIANTS["all that a pod may have"])
    pod = job["spec"]["template"]["spec"]
    (first,), (second,) = pod["initContainers"], pod["containers"]

    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert (first["args"][1:3], second["args"][1:]) == (
        ["migrate", "up"],
        ["kinds", "check", "shop.jobs:config"],
    )
    assert {one["env"][0]["valueFrom"]["secretKeyRef"]["name"] for one in (first, second)} == {"shop-owner"}
    assert "initContainers" not in of_kind("Job")["spec"]["template"]["spec"]


def test_pod_has_time_for_its_jobs() -> None:
    """The grace period of a pod is longer than the soft stop, by what the rest of a stop takes."""
    values = VARIANTS["no migration and no budget"]
    pod = of_kind("Deployment", *values)["spec"]["template"]["spec"]

    assert _environment(*values)["MILLHAND_WORKER_SOFT_STOP_TIMEOUT"] == "600s"
    assert pod["terminationGracePeriodSeconds"] == 630


def test_pod_without_any_setting_has_no_orphan_cleanup() -> None:
    """The cleanup cannot make its default directory in the pod, so it runs only if settings may name a store."""
    name = "MILLHAND_ORPHANS_ENABLED"
    others = [
        (CONFIG,),
        ("env[0].name=MILLHAND_STORAGE_URL", "env[0].value=s3://shop"),
        ("envFrom[0].secretRef.name=more",),
    ]

    assert _environment()[name] == "false"
    assert [values for values in others if name in _environment(*values)] == []


def pod_templates(*values: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the kind of each manifest with pods, and their template."""
    return [
        (manifest["kind"], manifest["spec"]["template"])
        for manifest in rendered(*values)
        if "template" in manifest["spec"]
    ]


def test_no_selector_of_the_chart_matches_pods_of_the_migration() -> None:
    """
    The budget, the PodMonitor and the Deployment choose pods of workers alone.

    A Job has no scale subresource: beside one of its pods, the budget would let no node be drained.
    """
    values = VARIANTS["KEDA asks Prometheus"]
    selectors = [
        (manifest["kind"], manifest["spec"]["selector"]["matchLabels"])
        for manifest in rendered(*values)
        if "selector" in manifest["spec"]
    ]

    found = {
        (kind, of_pods)
        for kind, labels in selectors
        for of_pods, template in pod_templates(*values)
        if labels.items() <= template["metadata"]["labels"].items()
    }

    assert found == {
        ("Deployment", "Deployment"),
        ("PodDisruptionBudget", "Deployment"),
        ("PodMonitor", "Deployment"),
    }


def test_pods_have_no_variables_of_services() -> None:
    """Kubernetes adds no variables for Services to a pod, which could look like Millhand's settings."""
    links = [(kind, one["spec"].get("enableServiceLinks")) for kind, one in pod_templates()]

    assert sorted(links) == [("Deployment", False), ("Job", False)]


@pytest.mark.parametrize(
    ("values", "selector"),
    [
        ((), ""),
        (("monitoring.podMonitor=true",), 'namespace="default", '),
        (("monitoring.podMonitor=true", 'autoscaling.prometheusSelector=job="shop"'), 'job="shop", '),
    ],
)
def test_scaler_asks_prometheus_for_the_jobs_of_its_database(values: tuple[str, ...], selector: str) -> None:
    """KEDA counts no jobs of another release: its query has the labels of the values, or the PodMonitor's namespace."""
    scaled = of_kind("ScaledObject", "autoscaling.mode=prometheus", *values)

    assert scaled["spec"]["triggers"][0]["metadata"]["query"] == (
        f'sum(max by (database, queue, state) (millhand_queue_jobs{{{selector}queue=~"default", '
        'state=~"available|running"}))'
    )


def test_commands_of_the_chart_exist() -> None:
    """Each command that a container runs is one of Millhand's, with its options."""
    commands = [
        container["args"]
        for manifest in rendered(*VARIANTS["all that a pod may have"])
        if manifest["kind"] in ("Deployment", "Job")
        for part in ("initContainers", "containers")
        for container in manifest["spec"]["template"]["spec"].get(part, [])
    ]

    for command in commands:
        result = CliRunner().invoke(cli, [*command[1:], "--help"], prog_name="millhand")
        assert (result.exit_code, "Usage: millhand" in result.output) == (0, True), shlex.join(command)
    assert {command[1] for command in commands} == {"worker", "migrate", "kinds"}


async def test_scaler_of_the_chart_counts_jobs_that_wait_and_run(connection: asyncpg.Connection) -> None:
    """The query of KEDA counts the jobs of its queues that are due or running, and no others."""
    scaled = of_kind("ScaledObject", *VARIANTS["KEDA asks PostgreSQL"])
    jobs = [
        ("available", "default", "-1 minute"),
        ("running", "mail", "-1 minute"),
        ("available", "default", "1 hour"),
        ("available", "reports", "-1 minute"),
        ("scheduled", "default", "1 hour"),
    ]

    await connection.executemany(
        "INSERT INTO river_job (kind, args, max_attempts, state, queue, scheduled_at) "
        "VALUES ('k', '{}', 25, $1, $2, now() + $3::text::interval)",
        jobs,
    )

    assert await connection.fetchval(scaled["spec"]["triggers"][0]["metadata"]["query"]) == 2


@cache
def custom_resources() -> dict[tuple[str, str], dict[str, Any]]:
    """Return the schema of each custom resource, by API version and kind. Unknown fields are errors."""
    found = {}
    for module, (digest, files) in OPERATORS.items():
        done = subprocess.run(
            ["go", "mod", "download", "-json", module], capture_output=True, check=False, cwd="/", text=True
        )
        if done.returncode:
            missing("go", f"{module} cannot be downloaded: {done.stderr.strip()}")
        downloaded = json.loads(done.stdout)
        assert downloaded["Sum"] == digest
        for file in files:
            definition = _module("yaml").safe_load(Path(downloaded["Dir"], file).read_text())
            spec = definition["spec"]
            for version in spec["versions"]:
                schema = _strict(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"type": "object"}
                found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def _environment(*values: str) -> dict[str, str | None]:
    """Return the variables of the workers."""
    pod = of_kind("Deployment", *values)["spec"]["template"]["spec"]
    return {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    is_closed = (
        schema.get("type") == "object" and "properties" in schema and "additionalProperties" not in schema
    )
    # Some patterns are of RE2, which Python cannot read.
    return {
        key: _strict(one) for key, one in schema.items() if key != "pattern" or not isinstance(one, str)
    } | ({"additionalProperties": False} if is_closed else {})


def _module(name: str) -> Any:
    if find_spec(name) is None:
        missing("schemas", f"{name} is not installed; run ./just check")
    return __import__(name)
