"""TensorBoard's events: rounds overlaid in one chart, one entry a run, flags that filter."""

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from helpers import only
from main import main


def events(folder):
    """Every summary value of the event files of a folder itself, in order."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(event.step, value) for value in event.summary.value]
            at += 12 + length + 4
    return found


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    flags = ["--prune_iterations=3", "--end_iter=2", "--prune_percent=60", "--workers=1"]
    assert main([*flags, f"--runs_dir={folder}"]) == 0
    return only(folder) / "tb"


def test_each_round_is_a_curve_of_the_same_charts(board):
    assert [path.name for path in sorted(board.iterdir()) if path.is_dir()] == [
        "round_00", "round_01", "round_02",
    ]  # fmt: skip
    for number in range(3):
        tags = [(step, value.tag) for step, value in events(board / f"round_{number:02}")]
        assert {tag for _, tag in tags} == {
            "epochs/train_loss", "epochs/val_loss", "epochs/val_accuracy",
        }  # fmt: skip
        assert len(tags) == 6 and len({step for step, _ in tags}) == 2


def test_a_run_is_one_entry_with_its_rounds_and_flags(board):
    own = events(board)
    rounds = {(step, v.tag): v.simple_value for step, v in own if v.tag.startswith("rounds/")}
    assert [rounds[n, "rounds/density"] for n in range(3)] == pytest.approx([1, 0.4, 0.16])
    final = {v.tag for step, v in own if v.tag.startswith("final/")}
    assert {"final/test_accuracy", "final/density"} <= final
    (start,) = [v for _, v in own if v.tag == "_hparams_/session_start_info"]
    content = HParamsPluginData.FromString(start.metadata.plugin_data.content)
    flags = content.session_start_info.hparams
    assert flags["lr"].number_value == pytest.approx(1.2e-3)
    assert flags["prune_type"].string_value == "lt" and flags["augment"].bool_value is False
    assert flags["eval_attacks"].string_value == "fgsm"
    assert "attack" not in flags and "surrogate" not in flags  # this run has none
