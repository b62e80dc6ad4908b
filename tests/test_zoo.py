"""Tickets that travel with the code: packed, unpacked bit for bit, trained to what they state."""

import json
import os

import pytest
import torch

import main
import results
from experiments import make_zoo
from helpers import ROOT, only
from store import zoo
from store.files import load_tensors, read_csv
from utils import UserError

SHORT = ["--prune_percent=60", "--prune_iterations=3", "--end_iter=3", "--workers=1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert main.main([f"--runs_dir={folder}", *SHORT, "--seed=4"]) == 0
    return only(folder)


@pytest.fixture
def mine(run, tmp_path, monkeypatch):
    """A zoo with one entry, `mine`."""
    monkeypatch.setattr(zoo, "ZOO", tmp_path / "zoo")
    for function in (zoo.pack, zoo.unpack, zoo.names):
        defaults = [tmp_path / "zoo" if d == ROOT / "zoo" else d for d in function.__defaults__]
        monkeypatch.setattr(function, "__defaults__", tuple(defaults))
    assert make_zoo.main([f"mine={run}"]) == 0
    return tmp_path


def test_an_entry_is_its_run_bit_for_bit(run, mine):
    place = zoo.unpack("mine", mine / "cache")
    assert zoo.unpack("mine", mine / "cache") == place and zoo.names() == ["mine"]
    assert read_csv(place / "rounds.csv") == read_csv(run / "rounds.csv")
    for name in ("theta0.safetensors", *(f"masks/round_0{n}.safetensors" for n in range(3))):
        there, here = load_tensors(run / name), load_tensors(place / name)
        assert there.keys() == here.keys()
        assert all(torch.equal(tensor, here[key]) for key, tensor in there.items())
    assert (mine / "zoo" / "mine.xz").stat().st_size < 2 * 266_200 / 8


def test_a_ticket_of_the_zoo_trains_as_its_run_did(run, mine):
    flags = ["--ticket=zoo:mine@2", f"--runs_dir={mine / 'runs'}", f"--cache_dir={mine / 'cache'}"]
    assert main.main([*flags, "--seed=4", "--end_iter=3", "--workers=1"]) == 0
    (row,) = read_csv(only(mine / "runs") / "rounds.csv")
    there = read_csv(run / "rounds.csv")[2]
    assert row["kept"] == there["kept"]
    # the order of the batches is that of another round
    assert abs(row["test_accuracy"] - there["test_accuracy"]) < 4


def test_a_ticket_of_the_zoo_in_python(run, mine):
    net, masks, flags = results.load_ticket(
        "zoo:mine", 2, weights="theta0", cache_dir=mine / "cache"
    )
    there = results.load_ticket(run, 2, weights="theta0")
    assert flags["seed"] == 4
    assert all(torch.equal(mask, there[1][name]) for name, mask in masks.items())
    pairs = zip(net.state_dict().values(), there[0].state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(UserError, match='ask for weights="theta0"'):
        results.load_ticket("zoo:mine", 2, cache_dir=mine / "cache")


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--ticket=zoo:mien", "did you mean 'mine'"),
        ("--ticket=zoo:mine@7", "has rounds 0 to 2"),
        ("--ticket=zoo:", "unknown zoo entry"),
    ],
)
def test_what_is_not_there(mine, capsys, flag, says):
    where = [f"--runs_dir={mine / 'no'}", f"--cache_dir={mine / 'cache'}"]
    assert main.main([flag, *where]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (mine / "no").exists()


def test_a_damaged_entry(mine):
    path = mine / "zoo" / "mine.json"
    entry = json.loads(path.read_text())
    for change, says in (
        ({"theta0": "0" * 16}, "draws another theta_0"),
        ({"shapes": {"net.fc1.weight": [3, 4]}}, "its masks are not those of its table"),
        ({"rounds": 5}, "is damaged"),
    ):
        path.write_text(json.dumps(entry | change))
        with pytest.raises(UserError, match=says):
            zoo.unpack("mine", mine / "cache")
    assert not list((mine / "cache").rglob("*.safetensors"))


def test_a_run_that_no_zoo_can_keep(run, mine, capsys):
    (run / "DONE").rename(run / "gone")
    assert make_zoo.main([f"other={run}"]) == 2
    (run / "gone").rename(run / "DONE")
    assert "is unfinished" in capsys.readouterr().err and zoo.names() == ["mine"]
    assert make_zoo.main(["nothing"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_an_entry_reaches_what_it_states(name, mnist, tmp_path):
    """The sparsest ticket of each, trained again; within what another order of batches makes."""
    entry = json.loads((zoo.ZOO / f"{name}.json").read_text())
    row, flags = entry["rounds"][-1], entry["flags"]
    if flags["mix_ratio"]:
        pytest.skip("its attacked set takes minutes to make")
    where = [f"--data_dir={os.environ.get('LTH_DATA_DIR', 'data')}", f"--runs_dir={tmp_path}"]
    where += [f"--cache_dir={tmp_path / 'cache'}", f"--ticket=zoo:{name}@{row['round']}"]
    where += [f"--{key}={flags[key]}" for key in ("dataset", "seed", "end_iter")]
    assert main.main([*where, "--workers=1"]) == 0
    (again,) = read_csv(only(tmp_path, "*-lt*") / "rounds.csv")
    assert again["kept"] == row["kept"]
    assert abs(again["test_accuracy"] - row["test_accuracy"]) < 0.5


def test_a_run_that_rewinds_to_a_later_epoch_is_not_for_the_zoo(tmp_path, capsys):
    """Defect: its ticket started from theta_0 there, under the name of the true one."""
    flags = [f"--runs_dir={tmp_path / 'runs'}", *SHORT, "--rewind_epoch=1"]
    assert main.main(flags) == 0
    folder = only(tmp_path / "runs")
    assert make_zoo.main([f"late={folder}"]) == 2
    assert "rewinds to a later epoch" in capsys.readouterr().err
    (folder / "rewind.safetensors").unlink()
    assert main.main([f"--ticket={folder}", f"--runs_dir={tmp_path / 'more'}", "--workers=1"]) == 2
    assert "which its rounds start from, is lost" in capsys.readouterr().err
