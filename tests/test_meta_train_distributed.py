"""Runs of several processes: how they find each other, and that they are one run."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import mulo
from meta_train import distributed, reporting

ROOT = pathlib.Path(__file__).parent.parent
STEP = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08],big1",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
GIVEN = dict(address="a:1", num_processes=4, process_id=0)


def test_a_task_of_a_slurm_step_finds_its_place():
    found = distributed.find(STEP)
    assert found == distributed.Cluster("gpu07:61443", 8, 5, (1,), "Slurm")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n-[3,5-9]", "n-3"),
        ("a[01-02]-ib,b[1-4]", "a01-ib"),
        ("x.y.z,b[1-4]", "x.y.z"),
    ],
)
def test_the_first_host_of_slurms_list_is_the_coordinators(nodes, first):
    found = distributed.find({**STEP, "SLURM_STEP_NODELIST": nodes})
    assert found.address == f"{first}:61443"


@pytest.mark.parametrize(
    ("change", "own"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (1,)),
        ({"CUDA_VISIBLE_DEVICES": "0"}, None),  # --gpus-per-task.
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x8)"}, None),
        ({"SLURM_LOCALID": ""}, None),
    ],
)
def test_a_task_takes_its_gpu_where_it_sees_those_of_others(change, own):
    assert distributed.find({**STEP, **change}).local_device_ids == own


@pytest.mark.parametrize(
    "missing",
    ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST"],
)
def test_a_shell_in_an_allocation_is_one_process(missing):
    allocation = {"SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "gpu[07-08]"}
    step = {k: v for k, v in STEP.items() if k != missing}
    assert distributed.find(allocation | step) is None
    assert distributed.find(allocation | {**STEP, missing: ""}) is None


def test_one_task_is_one_process():
    assert distributed.find({}) is None
    assert distributed.find({**STEP, "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert distributed.find({**STEP, "SLURM_PROCID": "8"}) is None
    assert distributed.find({}, **GIVEN | {"num_processes": 1}) is None


def test_flags_go_before_variables_and_those_before_a_batch_system():
    environ = {
        **STEP,
        "JAX_COORDINATOR_ADDRESS": "b:2",
        "JAX_NUM_PROCESSES": "6",
        "JAX_PROCESS_ID": "3",
    }
    assert distributed.find(environ).address == "b:2"
    assert distributed.find(environ).process_id == 3
    found = distributed.find(environ, **GIVEN, local_device_ids=[0, 1])
    assert found == distributed.Cluster("a:1", 4, 0, (0, 1), "Slurm")


def test_open_mpi_says_all_but_from_version_5_on_the_address():
    uri = {"OMPI_MCA_orte_hnp_uri": "16777216.0;tcp://10.0.0.1,10.1.0.1:33"}
    found = distributed.find(MPI | uri)
    assert found == distributed.Cluster("10.0.0.1:61440", 4, 3, (1,), "Open MPI")
    with pytest.raises(ValueError, match="coordinator_address must be given as well"):
        distributed.find(MPI)
    assert distributed.find(MPI, address="a:1").process_id == 3


def test_a_part_of_the_flags_is_refused_and_the_rest_named():
    with pytest.raises(ValueError, match=r"num_processes, process_id must be given"):
        distributed.find({}, address="a:1")
    with pytest.raises(ValueError, match=r"coordinator_address must be host:port"):
        distributed.find({}, **GIVEN | {"address": "a"})
    with pytest.raises(ValueError, match=r"process_id must lie in \[0, num_processes"):
        distributed.find({}, **GIVEN | {"process_id": 4})


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_a_coordinator_out_of_reach_is_named_with_the_time_it_was_given(capsys):
    address = f"127.0.0.1:{free_port()}"
    cluster = distributed.Cluster(address, 2, 1)
    with pytest.raises(ConnectionError, match=f"{address} within 1 s"):
        distributed.connect(cluster, timeout_secs=1)
    assert f"process 1 of 2 connects to the coordinator at {address}" in (
        capsys.readouterr().err
    )


def test_processes_that_do_not_come_are_named_by_the_coordinator():
    address = f"127.0.0.1:{free_port()}"
    said = {}

    def connect(process):
        try:
            distributed.connect(
                distributed.Cluster(address, 4, process), timeout_secs=2
            )
        except ConnectionError as error:
            said[process] = str(error)

    others = [threading.Thread(target=connect, args=(i,)) for i in (0, 2)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    assert f"process 0 waited 2 s at {address} for process 1, 3: start all 4" in said[0]
    assert f"process 2 of 4 met process 0 at {address}, but not all" in said[2]


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"cannot listen at {address}"):
            distributed.connect(distributed.Cluster(address, 2, 0), timeout_secs=1)


def start(workdir, *arguments, devices):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "meta_train", f"--workdir={workdir}"),
            "--config=configs/mulo_digits.py:smoke",
            "--config.tasks=('mlp-w4-d1-synthetic:4x4x1:3',)",
            "--config.estimator.num_pairs=4",
            "--config.run.meta_steps=8",
            "--config.probes.tasks=('mlp-w4-d1-synthetic:4x4x1:3',)",
            *("--config.probes.steps=5", "--config.probes.every_steps=3"),
            *arguments,
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(workdir, *arguments, own=((), ())):
    address = f"--coordinator_address=127.0.0.1:{free_port()}"
    flags = [address, "--num_processes=2", *arguments]
    return [
        start(workdir, *flags, f"--process_id={i}", *own[i], devices=2)
        for i in range(2)
    ]


def finish(processes):
    ended = [(*p.communicate(timeout=300), p.returncode) for p in processes]
    return [code for *_, code in ended], [err for _, err, _ in ended]


def metrics(workdir):
    rows = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    machine = reporting.OF_THE_MACHINE
    return [{k: v for k, v in row.items() if k not in machine} for row in rows]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run by one process that has four devices."""
    workdir = tmp_path_factory.mktemp("alone")
    codes, errors = finish([start(workdir, devices=4)])
    assert codes == [0], errors
    return workdir


def test_two_processes_do_bit_for_bit_what_one_with_their_devices_does(alone, tmp_path):
    codes, errors = finish(start_two(tmp_path))
    assert codes == [0, 0], errors
    for process, error in enumerate(errors):
        assert f"process {process} of 2 connects to the coordinator at 127." in error
    for theta in ("theta", "theta_best"):
        file = f"{theta}/model.safetensors"
        assert (tmp_path / file).read_bytes() == (alone / file).read_bytes()
    assert metrics(tmp_path) == metrics(alone)


def test_a_signal_to_one_process_saves_and_stops_all_and_fewer_devices_go_on(
    alone, tmp_path
):
    processes = start_two(tmp_path, "--config.run.checkpoint_steps=1000")
    path, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 240
    while not path.exists() or len(path.read_bytes().splitlines()) < 3:
        assert time.monotonic() < deadline
        assert processes[0].poll() is None
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    codes, errors = finish(processes)
    assert codes == [130, 130], errors
    for error in errors:
        assert "SIGTERM at meta-step" in error
    before = metrics(tmp_path)
    done = mulo.load(tmp_path / "theta").card["meta_step"]
    # The line of a step is written after its probes, which a signal leaves for later.
    assert done - before[-1]["meta_step"] in (0, 1)
    (told,) = finish([start(tmp_path, "--config.run.meta_steps=9", devices=2)])[1]
    assert f"goes on at meta-step {done} on 2 devices, before on 4" in told
    got, want = metrics(tmp_path), metrics(alone)
    assert [row["meta_step"] for row in got] == [*range(10)]
    assert before == want[: len(before)] == got[: len(before)]
    losses = [[row["meta_loss"] for row in rows[1:9]] for rows in (got, want)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_processes_that_disagree_on_the_config_are_told_the_keys(tmp_path):
    own = ((), ("--config.estimator.sigma=0.5",))
    codes, errors = finish(start_two(tmp_path / "run", own=own))
    assert codes == [2, 2]
    for error in errors:
        assert "estimator.sigma: 0.01 in process 0, 0.5 in process 1" in error
        assert "Traceback" not in error
    assert not (tmp_path / "run").exists()
