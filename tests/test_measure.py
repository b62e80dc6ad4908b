"""How many runs train together is measured once for a network, not assumed."""

import json

import pytest
import torch

from helpers import CPU, only
from study import cohorts as cohorts_module
from study import measure
from study.cohorts import cohorts, new_run

SMALL = ("--dataset=digits", "--arch_type=fc1", "--batch_size=20")


@pytest.fixture
def on_a_gpu(monkeypatch):
    """As if there were one; what is measured is measured on the CPU."""
    monkeypatch.setattr(cohorts_module, "gpus", lambda config: 1)


@pytest.fixture
def measured(monkeypatch):
    """Let a measurement find these seconds; the list of what was measured since."""

    def set_to(seconds):
        asked = []

        def find(config):
            asked.append(config)
            return seconds

        monkeypatch.setattr(measure, "in_its_own_process", find)
        return asked

    return set_to


def sizes(make_config, *flags, count=10):
    """The cohorts' sizes of so many seeds."""
    runs = [new_run(make_config(*SMALL, *flags, f"--seed={seed}")) for seed in range(count)]
    return [len(cohort) for cohort in cohorts(runs)]


@pytest.fixture
def own_cache(tmp_path):
    return f"--cache_dir={tmp_path / 'own'}"


@pytest.mark.slow
def test_a_study_on_a_gpu_measures_once_and_keeps_it(
    make_config, on_a_gpu, own_cache, tmp_path, monkeypatch, capsys
):
    first = sizes(make_config, own_cache)
    path = only(tmp_path / "own" / "cohorts", "*/seconds.json")
    found = json.loads(path.read_text())
    assert "1" in found["seconds"] and set(found["seconds"]) <= {"1", "4", "16", "64"}
    assert all(value > 0 for value in found["seconds"].values())
    assert found["recipe"]["device"] and found["recipe"]["arch_type"] == "fc1"
    assert capsys.readouterr().out.count("measuring") == 1
    monkeypatch.setattr(measure, "in_its_own_process", None)  # it is not asked again
    assert sizes(make_config, own_cache) == first


def test_the_fastest_size_is_taken_and_of_equals_the_smallest(
    make_config, on_a_gpu, own_cache, measured, tmp_path
):
    asked = measured({"1": 1.0, "4": 0.5, "16": 0.48, "64": 0.7})
    assert sizes(make_config, own_cache) == [4, 4, 2]
    assert sizes(make_config, own_cache, "--prune_type=reinit") == [4, 4, 2] and len(asked) == 1
    assert sizes(make_config, own_cache, "--cohort_size=3") == [3, 3, 3, 1]
    # another network, batch or attack is another measurement
    asked = measured({"1": 1.0, "4": 2.0})
    assert sizes(make_config, own_cache, "--batch_size=30") == [1] * 10
    assert sizes(make_config, own_cache, "--arch_type=fc1_nobias") == [1] * 10
    online = ("--attack=fgsm", "--attack_mode=online")
    assert sizes(make_config, own_cache, *online) == [1] * 10
    assert sizes(make_config, own_cache, *online, "--mix_ratio=0.5") == [1] * 10
    pgd = ("--attack=pgd", "--order_seed=0")  # its runs share the random starts' order
    assert sizes(make_config, own_cache, *pgd, "--attack_mode=online") == [1] * 10
    assert sizes(make_config, own_cache, *pgd, "--attack_mode=trades") == [1] * 10
    assert len(asked) == 6
    for path in (tmp_path / "own" / "cohorts").glob("*/seconds.json"):
        path.write_text("{}")
    asked = measured({"1": 1.0, "16": 0.1})
    assert sizes(make_config, own_cache) == [10] and len(asked) == 1


@pytest.mark.parametrize("damage", ["{", "[]", '{"seconds": {"x": 1}}', '{"seconds": [1]}', ""])
def test_a_damaged_file_is_measured_anew(damage, tmp_path):
    path = tmp_path / "seconds.json"
    path.write_text(damage)
    assert measure.kept(path) == {} == measure.kept(tmp_path / "none")


def test_one_run_and_a_cpu_are_not_measured(
    make_config, on_a_gpu, own_cache, measured, tmp_path, monkeypatch
):
    asked = measured({"1": 1.0})
    assert sizes(make_config, own_cache, count=1) == [1]
    monkeypatch.setattr(cohorts_module, "gpus", lambda config: 0)
    assert sizes(make_config, own_cache) == [1] * 10
    assert not asked and not (tmp_path / "own").exists()


@pytest.mark.slow
def test_what_cannot_be_measured_trains_alone_and_says_so(
    make_config, on_a_gpu, own_cache, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(measure, "what_counts", lambda config: {"device": "none"})
    runs = [new_run(make_config(*SMALL, own_cache)).config for _ in range(2)]
    broken = runs[0].replace(arch_type="no such network")
    assert measure.fastest_size(broken) == 1
    out = capsys.readouterr().out
    assert "note: that cannot be measured" in out and "no such network" in out
    assert not list((tmp_path / "own" / "cohorts").glob("*/seconds.json"))


def test_sizes_end_where_memory_does_or_it_only_gets_slower(make_config, monkeypatch):
    config, tried = make_config(*SMALL), []

    def seconds(stepper):
        tried.append(stepper.cohort.size)
        if stepper.cohort.size == full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stepper.cohort.size**power

    monkeypatch.setattr(measure, "step_seconds", seconds)
    full, power = 16, 0.5
    assert measure.seconds_by_size(config, CPU) == {"1": 1.0, "4": 0.5} and tried == [1, 4, 16]
    full, power = None, 1.5
    assert measure.seconds_by_size(config, CPU) == {"1": 1.0, "4": 2.0}
    full = 1
    with pytest.raises(torch.OutOfMemoryError):
        measure.seconds_by_size(config, CPU)


@pytest.mark.parametrize("mode", ["online", "trades"])
@pytest.mark.parametrize("runs", [1, 4])
def test_what_is_timed_is_training_steps(make_config, runs, mode):
    config = make_config(*SMALL, "--attack=pgd", f"--attack_mode={mode}", "--attack_steps=1")
    model = measure.archs.build("fc1", (1, 28, 28), 10, ([0.5], [0.3]))
    stepper = measure.random_stepper(config, model, runs, (1, 28, 28), 10, CPU)
    before = stepper.cohort.state()
    assert measure.step_seconds(stepper) > 0
    assert stepper.done > 60 and (stepper.losses[: stepper.done] > 0).all()
    assert not torch.equal(before["net.fc1.weight"], stepper.cohort.state()["net.fc1.weight"])
