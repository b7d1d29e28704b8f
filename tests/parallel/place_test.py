"""A process finds its place by the variables of its cluster, and by nothing else."""

import pytest

from mmjax.parallel.place import Place, find_place, note

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "node[07,09-12]",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
PLAIN = {"MMJAX_COORDINATOR": "host:1234", "MMJAX_PROCESSES": "4", "MMJAX_PROCESS": "2"}


def place(environ, tpu=False):
    return find_place(environ, tpu)


def test_an_environment_that_says_nothing_is_a_job_of_one_process():
    assert place({}) is None
    assert place({"MMJAX_PROCESS": ""}) is None


def test_our_own_variables_come_first():
    found = place({**SLURM, **OPEN_MPI, **PLAIN}, tpu=True)
    assert found == Place("MMJAX_PROCESSES", "deactivate", "host:1234", 4, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"MMJAX_PROCESS": "4"},
        {"MMJAX_PROCESS": "-1"},
        {"MMJAX_PROCESSES": ""},
        {"MMJAX_PROCESSES": "many"},
        {"MMJAX_COORDINATOR": ""},
        {"MMJAX_COORDINATOR": "host"},
    ],
)
def test_own_variables_that_are_half_set_are_refused_in_one_line(wrong):
    with pytest.raises(ValueError, match=r"set all of MMJAX_COORDINATOR.*given") as error:
        place({**PLAIN, **wrong})
    assert "\n" not in str(error.value)


def test_slurm_tells_the_number_and_jax_the_coordinator():
    found = place(SLURM)
    assert (found.how, found.detection) == ("Slurm", "slurm")
    assert (found.coordinator, found.processes, found.process) == (None, 8, 5)


@pytest.mark.parametrize("name", [name for name in SLURM if name != "SLURM_STEP_NODELIST"])
def test_a_slurm_step_with_a_variable_missing_is_refused(name):
    with pytest.raises(ValueError, match=f"Slurm has set only some of .*{name}.*srun"):
        place({k: v for k, v in SLURM.items() if k != name})


def test_one_slurm_task_and_an_interactive_shell_in_a_larger_job_are_one_process():
    assert place({**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) is None
    assert place({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None


def test_a_slurm_script_without_srun_is_one_process_and_says_so():
    script = {k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}
    assert place(script) is None
    assert "1 process, though Slurm gave 8 tasks" in note(script)
    assert note({}) == note(SLURM) == note({**script, "SLURM_NTASKS": "1"}) == ""


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        ({}, (1,)),  # nothing known of the node: one GPU a process, as JAX does
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x8)"}, ()),  # alone on its node: all of its GPUs
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (1,)),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x4)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (2, 3)),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "3"}, ()),  # bound by Slurm
        ({"SLURM_STEP_TASKS_PER_NODE": "7,1", "SLURM_NODEID": "1"}, ()),
    ],
)
def test_a_slurm_process_takes_its_share_of_the_nodes_gpus(variables, gpus):
    assert place({**SLURM, **variables}).gpus == gpus


def test_open_mpi_tells_the_number_and_jax_the_coordinator():
    found = place(OPEN_MPI)
    assert (found.how, found.detection) == ("Open MPI", "ompi")
    assert (found.coordinator, found.processes, found.process, found.gpus) == (None, 4, 3, (1,))
    assert place({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}) is None


def test_an_open_mpi_that_hides_its_launcher_is_told_what_to_give():
    without = {k: v for k, v in OPEN_MPI.items() if k != "OMPI_MCA_orte_hnp_uri"}
    with pytest.raises(ValueError, match=r"does not tell where process 0 is; .*MMJAX_COORDINATOR"):
        place(without)
    with pytest.raises(ValueError, match=r"Open MPI has set only some of .*mpirun"):
        place({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"})


def test_a_machine_without_tpus_asks_nobody_whatever_the_variables_say():
    pod = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "MEGASCALE_NUM_SLICES": "2"}
    assert place(pod, tpu=False) is None


def test_tpu_slices_are_left_to_jax():
    assert place({"TPU_WORKER_HOSTNAMES": "a,b"}, tpu=True).detection == "gketpu"
    assert place({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, tpu=True).detection == "gketpu"
    one_host = {"TPU_WORKER_HOSTNAMES": "localhost"}
    assert place(one_host, tpu=True) is None
    assert place({**one_host, "MEGASCALE_NUM_SLICES": "2"}, tpu=True).detection == "gketpu"
    assert place({}, tpu=True).detection == "gcetpu"
    assert place({"TPU_SKIP_MDS_QUERY": "1"}, tpu=True) is None
    assert place({}, tpu=True).processes is None


def test_platforms_without_tpu_look_for_none(monkeypatch):
    monkeypatch.setattr("glob.glob", lambda pattern: ["/dev/accel0"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert find_place({"JAX_PLATFORMS": "cpu"}) is None
    assert find_place({"JAX_PLATFORMS": "tpu,cpu"}).detection == "gcetpu"
    assert find_place({}).detection == "gcetpu"
