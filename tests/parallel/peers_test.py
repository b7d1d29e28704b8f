"""Processes that tell each other that they live: who falls silent or fails is named to all."""

import json
import time

import pytest

from mmjax.parallel.peers import Peers
from mmjax.parallel.watchdog import Witness

BEAT = 0.05


class Service:
    """JAX's store of keys, in one process; refuses where it is gone."""

    def __init__(self):
        self.values, self.gone, self.reads = {}, False, 0

    def key_value_set(self, key, value, allow_overwrite=False):
        if self.gone:
            raise RuntimeError("UNAVAILABLE")
        self.values[key] = value

    def key_value_dir_get(self, directory):
        if self.gone:
            raise RuntimeError("UNAVAILABLE")
        found = [item for item in self.values.items() if item[0].startswith(directory + "/")]
        self.reads += len(found)
        return found


class Told(Witness):
    """A witness that writes down what it is told."""

    def __init__(self, process):
        self.name, self.facts = f"process {process} of 3 (host, pid {process})", {}

    def tell(self, **facts):
        self.facts.update(facts)


@pytest.fixture
def job():
    service = Service()
    made = [Peers(service, n, 3, BEAT, Told(n)) for n in range(3)]
    for peers in made:
        peers.start()
    yield service, made
    for peers in made:
        peers.stop()


def until(seen, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_while_all_live_nobody_is_named(job):
    _, made = job
    time.sleep(12 * BEAT)
    assert [peers._witness.facts.get("gone") for peers in made] == [None] * 3
    assert all(peers._witness.facts["heard"] for peers in made)
    assert made[1].gone() == ""


def test_one_that_falls_silent_is_named_to_all_others(job):
    _, made = job
    made[1].stop()
    for other in (made[0], made[2]):
        until(lambda other=other: other._witness.facts.get("gone"))
        assert other.gone().startswith("process 1 of 3 (host, pid 1) is gone: nothing was heard")
        assert other._witness.facts["gone"][0].startswith("process 1 of 3")


def test_one_that_fails_is_named_with_its_reason_before_those_that_follow_it(job):
    _, made = job
    made[2].stop("no disk")
    made[1].stop("since process 2 is gone")
    until(lambda: len(made[0]._witness.facts.get("gone", ())) == 2)
    assert "process 2 of 3 (host, pid 2) failed (no disk)" in made[0].gone()


def test_the_first_names_itself_when_it_fails(job):
    service, made = job
    made[0].stop("no memory")
    until(lambda: made[1]._witness.facts.get("gone"))
    assert made[1].gone() == "process 0 of 3 (host, pid 0) failed (no memory)"
    assert json.loads(service.values["mmjax/gone/list"])


def test_where_the_service_is_gone_the_first_process_is(job):
    service, made = job
    until(lambda: "process 0 of 3" in made[2]._witness.facts.get("leader", ""))
    service.gone = True
    assert made[2].gone() == "process 0 of 3 (host, pid 0) is gone"
