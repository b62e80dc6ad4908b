"""Attacks beside foolbox, DeepRobust and torchattacks: robust accuracy, mean L2, seconds and network evaluations an image.

    OMP_NUM_THREADS=1 python benchmarks/attacks.py --data_dir=data            # 300 images, CW on 1,000, FGSM over 60,000
    python benchmarks/attacks.py --data_dir=data --device=cuda                # CW, PGD and FGSM over all 60,000 as well

The network is the CNN surrogate on MNIST, the same weights for all. L2 is the mean over the images that were classified
correctly. Libraries that are not installed are left out. Saved as benchmarks/attacks.json (attacks-cuda.json).
"""

import argparse
import dataclasses
import json
import pkgutil
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

import attacks
import config as config_module
import data
import pool
import train
from commandline import parse
from utils import prepare_deeprobust


def main():
    """Measure, print a table, save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--cache_dir", default="cache")
    parser.add_argument("--attacks", nargs="+", default=["fgsm", "pgd", "pgd_l2", "cw", "deepfool", "ddn"], help="of the table beside other libraries")
    parser.add_argument("--merge", action="store_true", help="keep the rows of the last table that are not measured again")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--cw_images", type=int, default=1000)
    parser.add_argument("--all_images", type=int, default=60_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    device = torch.device(args.device)
    config = parse(["--dataset=mnist_fgsm_attack", f"--data_dir={args.data_dir}", f"--cache_dir={args.cache_dir}"])[0]
    dataset = data.load("mnist", args.data_dir)
    bench = Bench(pool.surrogate(config, dataset, device), config, dataset, device)
    print(f"{'attack':22}{'made by':16}{'images':>8}{'robust %':>10}{'mean L2':>9}{'seconds':>9}{'images/s':>10}{'evaluations':>13}", flush=True)
    beside_others(bench, args.images, args.attacks)
    if args.cw_images:
        cw_beside_foolbox(bench, args.cw_images)
    if args.all_images:
        whole_set(bench, args.all_images, ["fgsm"] if args.device == "cpu" else ["fgsm", "pgd", "cw"])
    machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine()
    result = {"machine": f"{machine}, torch {torch.__version__}", "threads": args.threads, "rows": bench.rows}
    path = ROOT / "benchmarks" / ("attacks.json" if args.device == "cpu" else "attacks-cuda.json")
    if args.merge:
        again = {(row["attack"], row.get("made_by"), row.get("images")) for row in bench.rows}
        old = json.loads(path.read_text())["rows"]
        result["rows"] = [row for row in old if (row["attack"], row.get("made_by"), row.get("images")) not in again] + bench.rows
    path.write_text(json.dumps(result, indent=2) + "\n")


class Bench:
    """A network, test images, and the rows measured so far."""

    def __init__(self, model, config, dataset, device):
        self.model, self.config, self.dataset, self.device, self.rows = model, config, dataset, device, []
        self.evaluations = 0
        model.register_forward_hook(self._count)

    def _count(self, module, inputs, logits):
        self.evaluations += len(logits)

    def batch(self, count, part="test"):
        """The first `count` images and labels of a part of the data set, on the device."""
        images, labels = getattr(self.dataset, f"{part}_images")[:count], getattr(self.dataset, f"{part}_labels")[:count]
        return pool.to_float(images, self.device), torch.from_numpy(labels).to(self.device)

    def settings(self, name, norm=None, **changes):
        """AttackSettings of `name` at its defaults."""
        flags = [f"--attack={name}", *([f"--norm={norm}"] if norm else [])]
        config = parse(flags)[0]
        return dataclasses.replace(config_module.attack_settings(config, name, (1, 28, 28)), **changes)

    def measure(self, attack, maker, images, labels, make):
        """Time make() -> adversarial images, and keep and print a row; an error of a library is a row too."""
        self.evaluations = 0
        began = time.perf_counter()
        try:
            adversarial = make()
        except Exception as error:  # whatever a library raises in its own code
            print(f"{attack:22}{maker:16}   fails: {type(error).__name__}: {error}", flush=True)
            self.rows.append({"attack": attack, "made_by": maker, "fails": f"{type(error).__name__}: {error}"})
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds, count = time.perf_counter() - began, self.evaluations
        correct = torch.cat([attacks.is_correct(self.model, *part) for part in zip(images.split(1000), labels.split(1000), strict=True)])
        still = torch.cat([attacks.is_correct(self.model, *part) for part in zip(adversarial.split(1000), labels.split(1000), strict=True)])
        row = {
            "attack": attack, "made_by": maker, "images": len(images), "robust": round(100 * still.float().mean().item(), 2),
            "mean_l2": round(attacks.l2_norm(adversarial - images)[correct].mean().item(), 4), "seconds": round(seconds, 2),
            "images_per_second": round(len(images) / seconds, 1), "evaluations": round(count / len(images), 1),
        }  # fmt: skip
        self.rows.append(row)
        print(
            f"{attack:22}{maker:16}{row['images']:>8}{row['robust']:>10.2f}{row['mean_l2']:>9.4f}{row['seconds']:>9.2f}"
            f"{row['images_per_second']:>10.1f}{row['evaluations']:>13.1f}", flush=True,
        )  # fmt: skip

    def ours(self, attack, settings, images, labels, part="test", batch=None):
        """Measure an attack of this project, in batches as the program makes them."""
        batch = batch or (train.ATTACK_BATCH if settings.steps > 1 and self.device.type == "cpu" else train.EVAL_BATCH)
        make = pkgutil.resolve_name(settings.line.batched)

        def run():
            done = []
            for start in range(0, len(images), batch):
                x, y = images[start : start + batch], labels[start : start + batch]
                done.append(make(self.model, x, y, settings, attacks.starts_for(0, part, range(start, start + len(x)), x)))
            return torch.cat(done)

        self.measure(attack, "attacks.py", images, labels, run)


def beside_others(bench, count, names):
    """Every attack on the same images by every library at hand, with the same parameters where they have them."""
    x, y = bench.batch(count)
    linf, l2 = {"epsilon": 0.1}, {"epsilon": 2.0}
    foolbox_, theirs = foolbox_attacks(bench, x, y)
    for name, settings, label in [
        ("fgsm", bench.settings("fgsm", **linf), "fgsm linf 0.1"),
        ("pgd", bench.settings("pgd", **linf, steps=20), "pgd linf 0.1 20x0.01"),
        ("pgd_l2", bench.settings("pgd", "l2", **l2), "pgd l2 2 40x0.1"),
        ("cw", bench.settings("cw"), "cw"),
        ("deepfool", bench.settings("deepfool"), "deepfool"),
        ("ddn", bench.settings("ddn"), "ddn"),
    ]:
        if name not in names:
            continue
        bench.ours(label, settings, x, y)
        if name in foolbox_:
            bench.measure(label, "foolbox", x, y, foolbox_[name])
        for maker, make in deeprobust_attacks(bench, x, y, settings).get(name, {}).items():
            bench.measure(label, maker, x, y, make)
        if name in theirs:
            bench.measure(label, "torchattacks", x, y, theirs[name])
    bench.ours("noise linf 0.3", bench.settings("noise"), x, y)


def foolbox_attacks(bench, x, y):
    """({name: make}, {name: make}) of foolbox and of torchattacks; empty where one is not installed."""
    found = [{}, {}]
    try:
        import foolbox

        model = foolbox.PyTorchModel(bench.model, bounds=(0, 1), device=bench.device)
        fa = foolbox.attacks
        table = {
            "fgsm": (fa.FGSM(random_start=False), 0.1),
            "pgd": (fa.LinfPGD(steps=20, abs_stepsize=0.01), 0.1),
            "pgd_l2": (fa.L2PGD(steps=40, abs_stepsize=0.1), 2.0),
            "cw": (fa.L2CarliniWagnerAttack(binary_search_steps=9, steps=200, stepsize=0.05, initial_const=1), None),
            "deepfool": (fa.L2DeepFoolAttack(), None),
            "ddn": (fa.DDNAttack(), None),
        }
        found[0] = {name: (lambda a=attack, e=epsilon: a(model, x, y, epsilons=e)[1]) for name, (attack, epsilon) in table.items()}
    except ImportError:
        print("foolbox is not installed: its rows are left out")
    try:
        import torchattacks

        table = {
            "fgsm": torchattacks.FGSM(bench.model, eps=0.1),
            "pgd": torchattacks.PGD(bench.model, eps=0.1, alpha=0.01, steps=20),
            "pgd_l2": torchattacks.PGDL2(bench.model, eps=2.0, alpha=0.1, steps=40),
            "cw": torchattacks.CW(bench.model, c=1, steps=500, lr=0.01),
            "deepfool": torchattacks.DeepFool(bench.model, steps=50),
        }
        found[1] = {name: (lambda a=attack: a(x, y)) for name, attack in table.items()}
    except ImportError:
        print("torchattacks is not installed: its rows are left out")
    return found


def deeprobust_attacks(bench, x, y, settings):
    """{name: {maker: make}} of DeepRobust's own attacks, as they come but for clipping."""
    prepare_deeprobust()
    from deeprobust.image.attack.cw import CarliniWagner
    from deeprobust.image.attack.deepfool import DeepFool
    from deeprobust.image.attack.pgd import PGD

    device = bench.device.type

    def one_by_one(generate):
        return lambda: torch.cat([torch.as_tensor(generate(x[i : i + 1], y[i : i + 1])).to(bench.device).float().reshape(1, 1, 28, 28) for i in range(len(x))])

    starts = attacks.starts_for(0, "test", range(len(x)), x)
    return {
        "fgsm": {"DeepRobust": lambda: attacks.deeprobust_fgsm(bench.model, x, y, settings)},
        "pgd": {"DeepRobust": lambda: attacks.deeprobust_pgd(bench.model, x, y, settings, starts)},
        "pgd_l2": {"DeepRobust": lambda: PGD(bench.model, device).generate(x, y, epsilon=2.0, num_steps=40, step_size=0.1, clip_max=1.0, bound="l2").detach()},
        "cw": {"DeepRobust": one_by_one(lambda a, b: CarliniWagner(bench.model, device).generate(a, b, (b + 1) % 10))},
        "deepfool": {"DeepRobust": one_by_one(lambda a, b: DeepFool(bench.model, device).generate(a, b))},
    }


def cw_beside_foolbox(bench, count):
    """CW on more images, beside foolbox at the parameters at which its mean L2 comes nearest."""
    x, y = bench.batch(count)
    bench.ours("cw", bench.settings("cw"), x, y)
    try:
        import foolbox
    except ImportError:
        return
    model = foolbox.PyTorchModel(bench.model, bounds=(0, 1), device=bench.device)
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=200, stepsize=0.05, initial_const=1)
    parts = list(zip(x.split(250), y.split(250), strict=True))
    bench.measure("cw 9x200 0.05 c=1", "foolbox", x, y, lambda: torch.cat([attack(model, *part, epsilons=None)[1] for part in parts]))


def whole_set(bench, count, names):
    """The training set, by the data set generator and by the batched attack; in bf16 too, with the images it would change."""
    x, y = bench.batch(count, "train")
    for name in names:
        settings = bench.settings(name)
        bench.ours(f"{name} all", settings, x, y, "train", batch=256 if bench.device.type == "cpu" else 4096)
        if name == "fgsm":
            parts = list(zip(x.split(256), y.split(256), strict=True))
            bench.measure("fgsm all", "DeepRobust", x, y, lambda p=parts, s=settings: torch.cat([attacks.deeprobust_fgsm(bench.model, *part, s) for part in p]))
    part = slice(0, min(count, 5000))
    half = bench.settings("fgsm")
    full = attacks.fgsm(bench.model, x[part], y[part], half)

    def in_bf16():
        with torch.autocast(bench.device.type, torch.bfloat16):
            return torch.cat([attacks.fgsm(bench.model, *p, half) for p in zip(x[part].split(256), y[part].split(256), strict=True)])

    bench.measure("fgsm bf16, 5,000", "attacks.py", x[part], y[part], in_bf16)
    bench.ours("fgsm fp32, 5,000", half, x[part], y[part], "train", batch=256)
    changed = float(np.mean((in_bf16() != full).float().mean().item()))
    print(f"bf16 changes {100 * changed:.1f} % of the pixels of the FGSM images")
    bench.rows.append({"attack": "fgsm bf16", "pixels_changed_percent": round(100 * changed, 2)})


if __name__ == "__main__":
    main()
