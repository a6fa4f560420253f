"""Spreading work: the same figures bit for bit in this process, in several, and on a local Ray."""

import os
import time

import numpy as np
import pytest
import torch

from lab.evaluation import parallel
from lab.evaluation.cache import JsonlTable
from lab.evaluation.parallel import check_workers, count_of, spread
from lab.experiments.method_comparison import study
from lab.experiments.registry import changed, plan_of
from lab.experiments.retrieval_sweep import measure
from lab.experiments.sweep import Sampling
from semlink.errors import InvalidField, NotFound, Unavailable


def product(seed: int) -> tuple[int, bytes, int]:
    """A sum whose last bits depend on how many threads add it up."""
    torch.manual_seed(seed)
    found = torch.randn(300, 4000) @ torch.randn(4000, 300)
    return os.getpid(), found.numpy().tobytes(), torch.get_num_threads()


def slow_first(task: int) -> tuple[int, int]:
    if task == 0:
        time.sleep(1.5)
    return os.getpid(), task


def fails(task: int) -> int:
    if task == 2:
        raise ValueError("task 2")
    return task


def _by_number(found):
    return [result for _, result in sorted(found)]


def test_every_task_is_done_once_and_numbers_are_equal_whoever_computes() -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    here = _by_number(spread(product, range(6), "1"))
    there = _by_number(spread(product, range(6), "2"))
    assert [h[1] for h in here] == [t[1] for t in there]
    assert {h[0] for h in here} == {os.getpid()}
    assert len({t[0] for t in there}) == 2
    assert os.getpid() not in {t[0] for t in there}
    assert {one[2] for one in here + there} == {1}
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_one_thread_ends_with_the_work() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(spread(fails, range(2), "1"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_worker_that_is_done_takes_over_from_the_longest_run() -> None:
    done = list(spread(slow_first, range(8), "2"))
    assert sorted(number for number, _ in done) == list(range(8))
    slow = next(pid for number, (pid, _) in done if number == 0)
    # Its run was tasks 0…3; while it slept the other one took most of them.
    assert sum(pid == slow for _, (pid, _) in done) < 4


def test_what_a_task_raises_is_raised() -> None:
    for count in ("1", "2"):
        with pytest.raises(ValueError, match="task 2"):
            list(spread(fails, range(6), count))
    assert list(spread(fails, [], "2")) == []


def test_workers_are_a_number_auto_or_ray(monkeypatch) -> None:
    assert count_of("3") == 3
    assert 1 <= count_of("auto") <= (os.cpu_count() or 1)
    for wrong in ("0", "-1", "many", ""):
        with pytest.raises(InvalidField) as caught:
            check_workers(wrong)
        assert caught.value.field == "workers"
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(NotFound, match="semlink\\[cluster\\]"):
        check_workers("ray")


def test_a_figure_is_the_same_bit_for_bit_in_processes_and_on_a_local_ray(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    few = {"methods": ("sc-lmkb-wo-sdg", "deepsc-mimo"), "snrs_db": (0.0, 15.0)}
    plan = changed(plan_of("fig6", quick=True), few)
    sampling = Sampling("person", seeds=2, queries=6, links=3)
    points = study(plan).points
    found = []
    for asked in ("1", "2", "ray"):
        kept = JsonlTable(tmp_path / asked)
        outcomes = measure(points, sampling, kept, asked, workers=asked)
        found.append(
            np.stack([[o.per_query(m) for m in ("map", "r_at_1")] for o in outcomes.values()])
        )
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert 0 < found[0].mean() < 1


def test_a_cluster_of_another_program_is_refused(monkeypatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(parallel, "program_hash", lambda: "another")
    with pytest.raises(Unavailable, match="another semlink"):
        list(spread(fails, range(2), "ray"))


def test_a_cluster_that_does_not_answer_is_named(monkeypatch) -> None:
    """Ray waits half a minute for a cluster; what it then says does not name the setting."""
    import ray

    def refuse(address, **_):
        raise ConnectionError(f"Failed to connect to Ray cluster at {address}")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(Unavailable, match="no Ray cluster answers") as caught:
        list(spread(fails, range(2), "ray"))
    assert caught.value.field == "workers"
