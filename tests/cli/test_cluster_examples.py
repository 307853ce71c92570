"""The cluster scripts of the examples do what docs/scaling.md says, with SLURM played by a stub."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.running import read, tiny
from tests.ranks import ROOT, SOURCES

SRUN = """#!/bin/bash
# two tasks, and the largest exit code of theirs
shift
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & first=$!
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & second=$!
wait $first; a=$?
wait $second; b=$?
exit $(( a > b ? a : b ))
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Environment of a SLURM job of two tasks on this machine."""
    commands = {
        "srun": SRUN,
        "scontrol": '#!/bin/bash\necho "$@" >> requeued\n',
        "lit-offrl": f"#!{sys.executable}\nfrom lit_offrl.cli import main\nmain()\n",
    }
    (folder := tmp_path / "bin").mkdir()
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "lit-offrl", "SLURM_NODELIST": "127.0.0.1"}
    job |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0"}
    job |= {"SLURM_NNODES": "1", "SLURM_JOB_NUM_NODES": "1"}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **job, "PATH": path, "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_slurm_job_that_is_stopped_requeues_itself_and_goes_on(cluster: dict[str, str]) -> None:
    sender = "{class_path: tests.cli.test_ranks.SignalSecondRank, init_args: {update: 12}}"
    command = ["bash", str(ROOT / "examples" / "slurm.sbatch"), *tiny("IQL", {})]
    stop = ["--trainer.callbacks", f"[{sender}]", "--data.updates_per_step", "3"]

    def run(arguments: list[str]) -> tuple[int, str]:
        done = subprocess.run(
            arguments, env=cluster, check=False, timeout=200, stderr=subprocess.PIPE, text=True
        )
        return done.returncode, done.stderr

    code, err = run([*command, *stop])
    assert code == 143, err
    assert err.count("Interrupted after update 16") == 1
    assert Path("requeued").read_text() == "requeue 4711\n"
    assert read("runs/slurm-4711")["global_step"] == 16

    code, err = run(command)
    assert code == 0, err
    assert Path("requeued").read_text() == "requeue 4711\n"
    assert read("runs/slurm-4711")["global_step"] == 20


def test_the_kubernetes_job_asks_for_as_many_processes_as_it_has_gpus() -> None:
    text = (ROOT / "examples" / "kubernetes.yaml").read_text()
    service, job = yaml.safe_load_all(text)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (script,) = container["args"]
    gpus, nodes = container["resources"]["limits"]["nvidia.com/gpu"], job["spec"]["completions"]
    assert job["spec"]["parallelism"] == nodes
    for option in (
        f"--nnodes={nodes}",
        f"--nproc_per_node={gpus}",
        f"--trainer.devices {gpus}",
        f"--trainer.num_nodes {nodes}",
        f"--master_addr={job['metadata']['name']}-0.{service['metadata']['name']}",
        f"--master_port={service['spec']['ports'][0]['port']}",
    ):
        assert option in script
    assert pod["subdomain"] == service["metadata"]["name"]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
