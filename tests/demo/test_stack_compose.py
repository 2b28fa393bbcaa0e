"""The container files and the guide, without a container engine: everything they name exists in this version."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import prefect.settings
import pytest
import yaml
from prefect.cli._app import _app
from prefect_redis.client import RedisMessagingSettings

from api.settings import Settings as ApiSettings
from deployments import catalogue, prefect_yaml
from deployments.stack.settings import StackSettings
from worker.settings import Settings as WorkerSettings

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "deployments" / "docker"
GUIDE = REPOSITORY / "docs" / "operating.md"
SOURCES = ("poorwill", "tasks", "blocks", "flows", "worker", "deployments", "api")
VARIABLE = re.compile(r"\b(?:POORWILL|PREFECT)_[A-Z0-9_]*(?:[A-Z0-9]\b|_\*)")
COMPOSED = {"POORWILL_WEBHOOK_ALLOW", "POORWILL_NOTIFY_WEBHOOK_ALLOW"}
"""Made from parts in the sources."""
IMAGES_OWN = {
    "POSTGRES_PASSWORD",
    "POSTGRES_USER",
    "POSTGRES_DB",
    "REDIS_PASSWORD",
    "PREFECT_AUTH",
    "POORWILL_ENV_FILE",
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Every variable that Poorwill's sources or Prefect's settings know."""
    python = [path.read_text() for folder in SOURCES for path in (REPOSITORY / folder).rglob("*.py")]
    files = [path.read_text() for path in (REPOSITORY / "deployments" / "automations").glob("*.yaml")]
    found = {name for text in (*python, *files) for name in re.findall(r"\bPOORWILL_[A-Z0-9_]*[A-Z0-9]\b", text)}
    for settings in (ApiSettings, StackSettings, WorkerSettings):
        prefix = settings.model_config["env_prefix"]
        fields = settings.model_fields.items()
        found |= {str(field.validation_alias or f"{prefix}{name.upper()}") for name, field in fields}
    found |= {f"PREFECT_REDIS_MESSAGING_{name.upper()}" for name in RedisMessagingSettings.model_fields}
    return found | IMAGES_OWN | COMPOSED


def is_known(name: str, known: set[str]) -> bool:
    if name.endswith("*"):
        return any(other.startswith(name[:-1]) for other in known)
    if name in known:
        return True
    return name.startswith("PREFECT_") and hasattr(prefect.settings, name)


def test_prefect_yaml_is_the_catalogue() -> None:
    """What `prefect deploy` reads is what `python -m deployments.prefect_yaml` writes."""
    assert (REPOSITORY / "prefect.yaml").read_text() == prefect_yaml.text()


def test_the_catalogue_is_complete() -> None:
    """Each flow is there, as a module's path, with parameters that it has; slugs are given once."""
    modules = [deployment.module for deployment in catalogue.CATALOGUE]
    assert [module for module in modules if importlib.util.find_spec(f"flows.{module}") is None] == []
    for deployment in catalogue.CATALOGUE:
        flow = getattr(importlib.import_module(f"flows.{deployment.module}"), deployment.module)
        assert flow.name == deployment.flow_name
        properties = flow.parameters.properties
        given = [deployment.parameters, *(schedule.parameters for schedule in deployment.schedules)]
        assert {name for parameters in given for name in parameters} <= set(properties)
    slugs = catalogue.schedule_slugs()
    assert len(set(slugs)) == len(slugs)


def test_every_command_exists(compose: dict[str, Any]) -> None:
    """Commands of our images are commands of Prefect's program, or modules that exist."""
    ours = {name: service for name, service in compose["services"].items() if "build" in service}
    assert {"migrate", "prefect-api", "prefect-services", "register", "worker", "gateway", "gpu-worker"} == set(ours)
    for service in ours.values():
        program, *arguments = service["command"]
        if program == "prefect":
            _app.parse_args(arguments, exit_on_error=False, print_error=False)
        else:
            assert (program, arguments[0]) == ("python", "-m")
            assert importlib.util.find_spec(arguments[1]) is not None


def test_images_are_built_from_files_of_the_repository(compose: dict[str, Any]) -> None:
    """Targets are stages of the Dockerfile; the files it copies are in the repository and not ignored."""
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    stages = {line.split()[-1] for line in lines if line.startswith("FROM ")}
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed and all((REPOSITORY / name).exists() for name in copied)
    for service in compose["services"].values():
        if build := service.get("build"):
            assert build["target"] in stages
            assert (DOCKER / build["context"] / build["dockerfile"]).samefile(DOCKER / "Dockerfile")


def test_every_variable_exists(compose: dict[str, Any], known: set[str]) -> None:
    """Those of the containers, of the example of an env file, of the Dockerfile, and of the operator's guide."""
    named = {name for service in compose["services"].values() for name in service.get("environment", {})}
    named = {name for name in named if name.startswith(("POORWILL_", "PREFECT_"))}
    texts = [path.read_text() for path in (DOCKER / "poorwill.env.example", DOCKER / "Dockerfile", GUIDE)]
    named |= {name for text in texts for name in VARIABLE.findall(text)}
    assert [name for name in sorted(named) if not is_known(name, known)] == []
    asked = set(re.findall(r"\$\{([A-Z0-9_]+):\?", (DOCKER / "compose.yaml").read_text()))
    given = set(re.findall(r"^([A-Z0-9_]+)=", texts[0], re.MULTILINE))
    assert asked <= given


def test_the_guide_lists_every_setting(known: set[str]) -> None:
    """Each variable that an operator can set is in the guide's table."""
    guide = GUIDE.read_text()
    internal = {"POORWILL_MODEL_STAND_IN", "POORWILL_ENV_FILE", "POORWILL_STATE"}
    patterns = [name[:-1] for name in VARIABLE.findall(guide) if name.endswith("*")]
    shortened = {f"POORWILL_API{name}" for name in re.findall(r"`(_[A-Z]+)`", guide)}
    missing = {
        name
        for name in known - internal - shortened
        if name.startswith("POORWILL_") and name not in guide and not name.startswith(tuple(patterns))
    }
    assert missing == set()


def test_nothing_is_published_to_the_network(compose: dict[str, Any]) -> None:
    """Ports are bound to loopback, and no password is written in the file."""
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
    secret = re.findall(
        r"^\s*\w*(?:PASSWORD|SECRET|TOKENS|AUTH_STRING)\w*: *(\S.*)$", (DOCKER / "compose.yaml").read_text(), re.M
    )
    assert secret and all(value.strip('"').startswith("${") for value in secret)
