"""Controls, criteria and transferred tickets: what each round starts from, on digits through the
command line's own function.
"""

import json
import shutil

import numpy as np
import pytest
import torch

import experiment
import main
import pruning
from config import own_ticket
from helpers import only as one
from store.checkpoint import total
from store.files import load_tensors, read_csv, save_tensors
from study import request
from study.request import parse_runs

SHORT = [
    "--prune_iterations=3",
    "--end_iter=2",
    "--prune_percent=50",
    "--dataset=digits",
    "--val_fraction=0.1",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cache):
    """A folder of runs: each prune type under one seed."""
    folder = tmp_path_factory.mktemp("runs")
    flags = [
        "--prune_type",
        "lt",
        "reinit",
        "shuffle",
        "random",
        "finetune",
        "--workers=1",
        "--save_weights=last",
    ]
    assert main.main([f"--runs_dir={folder}", f"--cache_dir={cache}", *flags, *SHORT]) == 0
    return folder


def masks(run, number):
    return load_tensors(run / "masks" / f"round_{number:02}.safetensors")


def weights(run, number):
    return load_tensors(run / "weights" / f"round_{number:02}.safetensors")


def go(folder, *flags):
    return main.main(
        [
            f"--runs_dir={folder}",
            "--workers=1",
            *flags,
            *[f for f in SHORT if "prune_percent" not in f and "iterations" not in f],
        ]
    )


def test_every_prune_type_has_the_same_densities_and_dense_round(runs):
    kinds = [one(runs, f"*-{kind}-*") for kind in ("lt", "reinit", "shuffle", "random", "finetune")]
    assert [[row["kept"] for row in read_csv(kind / "rounds.csv")] for kind in kinds] == [
        [266200, 133100, 66550]
    ] * 5
    dense = weights(kinds[0], 0)
    assert all(
        torch.equal(value, weights(kind, 0)[name])
        for kind in kinds
        for name, value in dense.items()
    )


def test_shuffle_permutes_within_layers_and_random_removes_at_random(runs):
    lt, shuffle, random = (one(runs, f"*-{kind}-*") for kind in ("lt", "shuffle", "random"))
    for name, mask in masks(lt, 1).items():
        moved, drawn = masks(shuffle, 1)[name], masks(random, 1)[name]
        n, kept = mask.numel(), int(mask.sum())
        assert moved.sum() == drawn.sum() == kept  # round 0 is the same net, so the same counts
        for other in (moved, drawn):
            mean, deviation = kept * kept / n, kept * (n - kept) / n / (n - 1) ** 0.5
            assert abs(int((mask & other).sum()) - mean) < 4.5 * deviation + 1, name
    after = masks(random, 2)
    assert all(not (after[name] & ~mask).any() for name, mask in masks(random, 1).items())  # nested


def test_shuffled_masks_of_two_rounds_and_seeds_differ():
    mask = {"w": torch.arange(1000).reshape(10, 100) < 500}
    draws = [
        pruning.shuffled_within_layers(mask, seed, number)["w"]
        for seed, number in ((0, 1), (0, 2), (1, 1))
    ]
    assert all(draw.shape == (10, 100) and draw.sum() == 500 for draw in draws)
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_finetune_starts_from_the_trained_weights(runs, monkeypatch):
    lt, finetune = one(runs, "*-lt-*"), one(runs, "*-finetune-*")
    seen = []
    monkeypatch.setattr(
        "experiment.fit",
        lambda cohort, *rest: (
            seen.append(cohort.unstack(cohort.state())[0])
            or (_ for _ in ()).throw(KeyboardInterrupt)
        ),
    )
    for kind, source in (
        (finetune, weights(finetune, 1)),
        (lt, load_tensors(lt / "theta0.safetensors")),
    ):
        # as after round 1: the checkpoint there is what a stopped run has
        state = torch.load(kind / "checkpoint.pt", weights_only=True)
        copy = kind.parent.parent / f"copy-{kind.name}"
        shutil.copytree(kind, copy)
        (copy / "DONE").unlink()
        state["rounds"], state["epochs"] = (
            state["rounds"][:2],
            [e for e in state["epochs"] if e["round"] < 2],
        )
        if kind is finetune:
            state["trained"] = weights(finetune, 1)
        del state["digest"]  # as what older versions wrote
        torch.save(state, copy / "checkpoint.pt")
        assert main.main([f"--resume={copy}"]) == 130
        start, mask = seen.pop(), masks(kind, 2)
        for name, value in source.items():
            assert torch.equal(start[name], value * mask[name] if name in mask else value), name


def test_a_ticket_is_transferred_bit_for_bit(runs, tmp_path):
    source = one(runs, "*-lt-*")
    assert (
        go(
            tmp_path,
            f"--ticket={runs}/*-lt-s{{seed}}-*",
            "--attack=noise",
            "--mix_ratio=0.5",
            "--surrogate=fc1",
            f"--cache_dir={tmp_path}",
        )
        == 0
    )
    run = one(tmp_path, "digits-fc1-noise0.5-lt_ticket-s0-*")
    theta0 = load_tensors(source / "theta0.safetensors")
    assert all(
        torch.equal(value, load_tensors(run / "theta0.safetensors")[name])
        for name, value in theta0.items()
    )
    for number in range(3):
        assert all(
            torch.equal(mask, masks(run, number)[name])
            for name, mask in masks(source, number).items()
        )
    saved = json.loads((run / "config.json").read_text())["flags"]
    assert (
        saved["prune_percent"] == 50
        and saved["ticket_seed"] == 0
        and saved["ticket_arm"].startswith("digits-fc1-clean-lt-")
    )


def test_a_ticket_on_its_own_data_trains_to_what_it_did(runs, tmp_path):
    source = one(runs, "*-lt-*")
    assert go(tmp_path, f"--ticket={source}", "--save_weights=last") == 0
    run = one(tmp_path, "*")
    for number in range(3):
        assert all(
            torch.equal(value, weights(run, number)[name])
            for name, value in weights(source, number).items()
        )


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    """A folder of runs that rewind to epoch 1 of 3, and what is asked of them."""
    folder = tmp_path_factory.mktemp("late")
    flags = ["--end_iter=3", "--warmup_steps=15", "--save_weights=last", "--workers=1"]
    flags += ["--dataset=digits", "--val_fraction=0.1"]
    shape = ["--prune_iterations=3", "--prune_percent=50", "--rewind_epoch=1"]
    wanted = [f"--runs_dir={folder}", "--prune_type", "lt", "reinit", *shape, *flags]
    assert main.main(wanted) == 0
    return folder, flags


def epochs(run, number):
    return [row["epoch"] for row in read_csv(run / "epochs.csv") if row["round"] == number]


def test_a_rewound_ticket_on_its_own_data_trains_to_what_it_did(late, tmp_path, monkeypatch):
    """Defect: from its later weights all epochs were trained again, which fresh weights have not
    had: 88 % where the ticket itself came to 77 %.
    """
    folder, flags = late
    source, reinit = one(folder, "*-lt-*"), one(folder, "*-reinit-*")
    wanted = ["--prune_type", "lt", "shuffle", f"--ticket={source}", *flags]
    assert main.main([f"--runs_dir={tmp_path / 'all'}", *wanted]) == 0
    run, shuffle = one(tmp_path / "all", "*-lt_*"), one(tmp_path / "all", "*-shuffle-*")
    for number in range(3):
        assert epochs(run, number) == epochs(source, number) == epochs(shuffle, number)
        for name, value in weights(source, number).items():
            assert torch.equal(value, weights(run, number)[name]), (number, name)
    for name in ("theta0", "rewind"):
        states = (load_tensors(path / f"{name}.safetensors") for path in (source, run))
        assert total(next(states)) == total(next(states))
    fit, starts = experiment.fit, []

    def noting(cohort, *rest):
        starts.extend(cohort.unstack(cohort.state()))
        return fit(cohort, *rest)

    monkeypatch.setattr("experiment.fit", noting)
    wanted = ["--prune_type", "lt", "reinit", f"--ticket={source}@2", *flags]
    assert main.main([f"--runs_dir={tmp_path / 'one'}", *wanted]) == 0
    run, fresh = one(tmp_path / "one", "*-lt_*"), one(tmp_path / "one", "*-reinit_*")
    assert epochs(run, 0) == [2, 3] and epochs(fresh, 0) == epochs(reinit, 2) == [1, 2, 3]
    mask, rewound = masks(source, 2), load_tensors(source / "rewind.safetensors")
    for name, value in starts[0].items():
        expected = rewound[name] * mask[name] if name in mask else rewound[name]
        assert torch.equal(value, expected), name


def test_a_stopped_run_of_a_rewound_ticket_goes_on_bit_for_bit(late, tmp_path, monkeypatch):
    folder, flags = late
    source, fit, calls = one(folder, "*-lt-*"), experiment.fit, []

    def stopped(*args):
        calls.append(args)
        return fit(*args) if len(calls) != 2 else (_ for _ in ()).throw(KeyboardInterrupt)

    monkeypatch.setattr("experiment.fit", stopped)
    wanted = [f"--runs_dir={tmp_path}", f"--ticket={source}", *flags]
    assert main.main(wanted) == 130 and main.main(wanted) == 0
    run = one(tmp_path, "*")
    for number in range(3):
        for name, value in weights(source, number).items():
            assert torch.equal(value, weights(run, number)[name]), (number, name)


def test_flags_that_do_not_fit_a_rewound_ticket(late, tmp_path, capsys):
    folder, flags = late
    source = one(folder, "*-lt-*")
    where = [f"--runs_dir={tmp_path}", *flags]
    for given, says in (
        (["--rewind_epoch=2"], "rewinds to epoch 1; leave it out"),
        (["--rewind_epoch=0"], "leave it out, and train anew what an older version began"),
        (["--end_iter=1"], "--end_iter=1: --ticket="),
        (["--prune_type=finetune"], "makes masks of its own"),
    ):
        assert main.main([*where, f"--ticket={source}", *given]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
    assert main.main([*where, f"--ticket={source}@2", "--rewind_epoch=1"]) == 0
    again = one(tmp_path, "*")
    assert main.main([*where, f"--ticket={again}", f"--runs_dir={tmp_path / 'b'}"]) == 2
    assert "begins with a rewound round of" in capsys.readouterr().err


def test_one_round_of_a_ticket_and_its_controls(runs, tmp_path):
    source = one(runs, "*-lt-*")
    assert go(tmp_path, "--prune_type", "lt", "reinit", "shuffle", f"--ticket={source}@2") == 0
    lt, reinit, shuffle = (
        one(tmp_path, f"*-{kind}_ticket-*") for kind in ("lt", "reinit", "shuffle")
    )
    for run in (lt, reinit, shuffle):
        assert [row["kept"] for row in read_csv(run / "rounds.csv")] == [66550]
    theta0 = load_tensors(source / "theta0.safetensors")
    for name, mask in masks(source, 2).items():
        assert torch.equal(mask, masks(lt, 0)[name]) and torch.equal(mask, masks(reinit, 0)[name])
        assert (
            not torch.equal(mask, masks(shuffle, 0)[name])
            and mask.sum() == masks(shuffle, 0)[name].sum()
        )
        assert torch.equal(load_tensors(shuffle / "theta0.safetensors")[name], theta0[name])
        assert not torch.equal(
            load_tensors(reinit / "theta0.safetensors")[name], theta0[name]
        )  # also with the ticket's seed


def test_a_preset_leaves_how_a_ticket_was_pruned_to_it(runs, capsys):
    """Defect: one round of a ticket was refused for the preset's 21."""
    flags = ["--preset=frankle", f"--ticket={one(runs, '*-lt-*')}@2"]
    config = request.parse(flags)[0]
    assert (config.prune_iterations, config.prune_percent, config.lr) == (1, 50.0, 1.2e-3)
    assert main.main([*flags, "--prune_iterations=21"]) == 2
    assert "has one round" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_criteria_prune_theta0_to_the_same_counts(criterion, scope, tmp_path):
    # lt and reinit share their masks: the criterion looks at theta_0
    number, kinds = (2, ["lt"]) if criterion == "synflow" else (3, ["lt", "reinit"])
    flags = [f"--runs_dir={tmp_path}", f"--criterion={criterion}", f"--prune_scope={scope}"]
    flags += ["--workers=1", *SHORT, f"--prune_iterations={number}", "--prune_type", *kinds]
    assert main.main(flags) == 0
    lt, other = (one(tmp_path, f"*-{kind}_{criterion}-*") for kind in (kinds[0], kinds[-1]))
    counts = [row["kept"] for row in read_csv(lt / "rounds.csv")]
    assert counts == [266200, 133100, 66550][:number]
    for round_number in range(number):
        for name, mask in masks(lt, round_number).items():
            assert torch.equal(mask, masks(other, round_number)[name])
    if scope == "layer":
        assert [pruning.counts({n: m})[0] for n, m in masks(lt, 1).items()] == [117600, 15000, 500]


def test_global_pruning_by_a_criterion_differs_from_magnitudes(tmp_path, runs):
    assert main.main([f"--runs_dir={tmp_path}", "--criterion=snip", *SHORT]) == 0
    snip, magnitude = masks(one(tmp_path, "*"), 2), masks(one(runs, "*-lt-*"), 2)
    assert any(not torch.equal(mask, magnitude[name]) for name, mask in snip.items())


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--ticket=nowhere/*"], "no run folders match nowhere/*"),
        (["--ticket={runs}/*"], "5 run folders match"),
        (["--ticket={lt}@7"], "has rounds 0 to 2"),
        (["--ticket={lt}", "--prune_iterations=9"], "has 3 rounds"),
        (["--ticket={lt}", "--arch_type=lenet5"], "is a ticket of fc1"),
        (["--ticket={lt}", "--prune_percent=20"], "where it is 50"),
        (["--ticket={lt}", "--prune_type=random"], "makes masks of its own"),
        (["--ticket={lt}", "--rewind_epoch=1"], "rewinds to theta_0; leave it out"),
        (["--criterion=snip", "--prune_type=finetune"], "makes masks of its own"),
        (["--prune_type=reinit_chain", "--rewind_epoch=1"], "rewinds to nothing"),
        (["--prune_type=reinit_chain", "--ticket={lt}"], "makes masks of its own"),
        (["--prune_type=reinit", "--reinit_draws=0"], "from 1 to 1000 is needed"),
        (["--prune_type=reinit", "--reinit_draw=-1"], "0 or more is needed"),
        (["--criterion=snap"], "did you mean 'snip'"),
    ],
)
def test_flags_that_make_no_sense(flags, says, runs, tmp_path, capsys):
    flags = [
        flag.replace("{runs}", str(runs)).replace("{lt}", str(one(runs, "*-lt-*")))
        for flag in flags
    ]
    assert main.main([f"--runs_dir={tmp_path / 'none'}", *flags]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (tmp_path / "none").exists()


def test_a_ticket_whose_mask_does_not_fit(runs, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(one(runs, "*-lt-*"), copy)
    broken = masks(copy, 1)
    broken["net.fc2.weight"] = broken["net.fc2.weight"].T.contiguous()
    save_tensors(copy / "masks" / "round_01.safetensors", broken)
    assert go(tmp_path / "runs", f"--ticket={copy}") == 2
    assert (
        "its mask of net.fc2.weight has shape 300x100 where this network has 100x300"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_a_criterion_looks_at_the_whole_net_whatever_the_output_layers_rate(criterion, tmp_path):
    """As the papers have it: one list of all weights, as many as magnitude pruning would leave."""
    flags = [f"--runs_dir={tmp_path}", f"--criterion={criterion}", "--prune_scope=global"]
    assert main.main([*flags, "--output_prune_percent=10", *SHORT, "--prune_iterations=2"]) == 0
    run = one(tmp_path, "*")
    kept = read_csv(run / "rounds.csv")[1]["kept"]
    assert kept == round(0.5 * 265200) + 900
    assert int(masks(run, 1)["net.fc3.weight"].sum()) != 900


def test_a_ticket_of_other_data_is_normalised_by_this_runs_data(tmp_path, cache):
    """Defect: theta_0 brought the normalisation of the ticket's data, fresh weights their own, so
    that lt - reinit was one of normalisation.
    """
    rng = np.random.default_rng(0)
    dark = {
        f"{part}_{what}": values
        for part, count in (("train", 300), ("test", 50))
        for what, values in (
            ("images", rng.integers(0, 60, (count, 28, 28), np.uint8)),
            ("labels", np.arange(count) % 10),
        )
    }
    np.savez(tmp_path / "dark.npz", **dark)
    few = ["--prune_iterations=1", "--end_iter=1", "--val_fraction=0.1", "--workers=1"]
    few += [f"--cache_dir={cache}", f"--data_dir={tmp_path}"]
    assert main.main([*few, "--dataset=digits", f"--runs_dir={tmp_path / 'source'}"]) == 0
    ticket = f"--ticket={one(tmp_path / 'source', '*')}"
    there = [f"--runs_dir={tmp_path / 'there'}", ticket, "--prune_type", "lt", "reinit"]
    assert main.main([*few, "--dataset=dark", *there]) == 0
    scales = [
        weights(one(tmp_path / "there", f"*-{kind}_ticket-*"), 0)["normalise.scale"]
        for kind in ("lt", "reinit")
    ]
    own = 1 / (dark["train_images"] / 255).std()
    assert torch.equal(*scales) and scales[0].item() == pytest.approx(own, rel=0.05)


def test_tickets_of_two_orders_have_two_names(tmp_path):
    """Defect: a ticket of another --order_seed was served as the run that had the first one's."""
    assert go(tmp_path, *SHORT, "--order_seed", "5", "6") == 0
    named = {}
    for kind in ("lt", "reinit", "shuffle"):
        for folder in tmp_path.glob("*-lt-*"):
            (config,) = parse_runs([f"--ticket={folder}", f"--prune_type={kind}"]).configs
            named[config.run_name] = config.ticket_draw
        # whose own ticket is of no other order
        (config,) = parse_runs([*SHORT, f"--prune_type={kind}"]).configs
        named[config.run_name] = config.ticket_draw
    assert sorted(named.values()) == sorted(["", "order 5", "order 6"] * 3)


def test_a_control_of_another_order_has_the_ticket_of_that_order():
    (config,) = parse_runs([*SHORT, "--prune_type=reinit", "--order_seed=5"]).configs
    # and the name that it always had
    assert own_ticket(config).order_seed == 5 and not config.ticket_draw


def test_fresh_weights_of_a_ticket_that_begins_pruned_are_not_its_own(tmp_path):
    """Defect: reinit of --ticket=Y, Y being a run of X@1, was Y bit for bit."""
    few = ["--end_iter=1", "--prune_iterations=2", "--prune_percent=50"]
    assert go(tmp_path / "x", *few) == 0
    x = one(tmp_path / "x", "*")
    few = ["--end_iter=1", "--prune_iterations=1"]
    assert go(tmp_path / "y", *few, f"--ticket={x}@1") == 0
    y = one(tmp_path / "y", "*")
    assert go(tmp_path / "z", *few, f"--ticket={y}", "--prune_type=reinit") == 0
    z = one(tmp_path / "z", "*")
    assert masks(y, 0).keys() == masks(z, 0).keys()
    theirs, own = (load_tensors(run / "theta0.safetensors") for run in (y, z))
    assert all(torch.equal(masks(y, 0)[n], masks(z, 0)[n]) for n in masks(y, 0))
    assert not any(torch.equal(theirs[n], own[n]) for n in masks(y, 0))
