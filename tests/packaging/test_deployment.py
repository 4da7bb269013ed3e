"""The files for Kubernetes and Slurm: right by their schemas, and the Slurm script starts a worker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from equipot.service.redis_server import RedisServer, connect
from equipot.service.roster import Roster

SBATCH = {
    "job-name", "nodes", "ntasks", "cpus-per-task", "mem", "time", "requeue", "open-mode", "signal", "array", "gres"
}  # fmt: skip


@pytest.fixture
def manifests(repository: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((repository / "deploy/kubernetes/equipot.yaml").read_text()))


def test_every_kubernetes_object_is_valid_by_the_schema_of_its_kind(manifests: list[dict[str, Any]]) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for manifest in manifests:
        validate.validate(manifest, "1.31", strict=True)


def test_every_selector_finds_its_pods_and_every_reference_its_object(manifests: list[dict[str, Any]]) -> None:
    named = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    workloads = [manifest["spec"] for manifest in manifests if "template" in manifest.get("spec", {})]
    labels = [spec["template"]["metadata"]["labels"] for spec in workloads]
    for spec in workloads:
        assert spec["selector"]["matchLabels"] in labels
        pod = spec["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for volume in pod.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in named
        for container in pod["containers"]:
            for source in container.get("envFrom", []):
                assert ("ConfigMap", source["configMapRef"]["name"]) in named
    for manifest in manifests:
        if manifest["kind"] == "Service":
            assert manifest["spec"]["selector"] in labels
            assert manifest["spec"].get("type", "ClusterIP") == "ClusterIP", "published by whoever deploys, not by us"


def test_the_slurm_script_has_known_options_and_is_bash(repository: Path) -> None:
    script = repository / "deploy/slurm/worker.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    options = re.findall(r"^#SBATCH --([a-z-]+)", script.read_text(), re.MULTILINE)
    assert options
    assert set(options) <= SBATCH


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Slurm is")
def test_the_slurm_script_starts_a_worker_that_leaves_when_the_time_is_up(repository: Path, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        environment = {
            **os.environ,
            "EQUIPOT_REDIS_URL": server.url,
            "EQUIPOT_DATA_DIR": str(tmp_path),
            "EQUIPOT_PRELOAD_MODEL": "tiny",
            "SLURM_CPUS_PER_TASK": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        worker = subprocess.Popen(["bash", str(repository / "deploy/slurm/worker.sbatch")], env=environment)
        try:
            roster = Roster(connect(server.url))
            deadline = time.monotonic() + 120
            while not any(found["ready"] for found in roster.alive()):
                assert worker.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0
            assert roster.alive() == []
        finally:
            worker.kill()
            worker.wait()
