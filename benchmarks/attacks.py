"""Attacks beside foolbox, DeepRobust and torchattacks.

    OMP_NUM_THREADS=1 python benchmarks/attacks.py --data_dir=data  # 300 images, CW on 1,000, FGSM
                                                                    # over 60,000
    python benchmarks/attacks.py --data_dir=data --device=cuda      # CW, PGD and FGSM over 60,000
    python benchmarks/attacks.py --data_dir=data --images=10 --cw_images=0 --all_images=0 --quick

Robust accuracy, mean L2, seconds and network evaluations an image. The network is the CNN surrogate
on MNIST, the same weights for all. L2 is the mean over the images that were classified correctly.
Libraries that are not installed are left out. Saved as benchmarks/attacks.json (attacks-cuda.json).
"""

import argparse
import functools
import json
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch

import attacks
import data
from attacked.cache import surrogate
from attacked.levels import to_float
from config import attack_settings
from store.files import write_json
from study.request import parse
from utils import prepare_deeprobust


def main():
    """Measure, print a table, save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--cache_dir", default="cache")
    names = ["fgsm", "pgd", "pgd_l2", "cw", "deepfool", "ddn"]
    parser.add_argument(
        "--attacks", nargs="+", default=names, help="of the table beside other libraries"
    )
    parser.add_argument(
        "--merge", action="store_true",
        help="keep the rows of the last table that are not measured again",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="saves nothing")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--cw_images", type=int, default=1000)
    parser.add_argument("--all_images", type=int, default=60_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    device = torch.device(args.device)
    folders = [f"--data_dir={args.data_dir}", f"--cache_dir={args.cache_dir}"]
    config = parse(["--dataset=mnist_fgsm_attack", *folders])[0]
    dataset = data.load("mnist", args.data_dir)
    bench = Bench(surrogate(config, dataset, device), dataset, device)
    title = f"{'attack':22}{'made by':16}{'images':>8}{'robust %':>10}{'mean L2':>9}{'seconds':>9}"
    print(f"{title}{'images/s':>10}{'evaluations':>13}", flush=True)
    beside_others(bench, args.images, args.attacks)
    if args.cw_images:
        cw_beside_foolbox(bench, args.cw_images)
    if args.all_images:
        whole_set(
            bench, args.all_images, ["fgsm"] if args.device == "cpu" else ["fgsm", "pgd", "cw"]
        )
    if not args.quick:
        save(bench.rows, args)


def save(rows, args):
    """Write the table, over the rows of the last one that are not measured again if asked to."""

    def key(row):
        return row["attack"], row.get("made_by"), row.get("images")

    machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine()
    path = ROOT / "benchmarks" / ("attacks.json" if args.device == "cpu" else "attacks-cuda.json")
    if args.merge:
        again = {key(row) for row in rows}
        before = json.loads(path.read_text())["rows"]
        rows = [row for row in before if key(row) not in again] + rows
    made_on = {"machine": f"{machine}, torch {torch.__version__}", "threads": args.threads}
    write_json(path, made_on | {"rows": rows})


class Bench:
    """A network, test images, and the rows measured so far."""

    def __init__(self, model, dataset, device):
        self.model, self.dataset, self.device, self.rows = model, dataset, device, []
        self.evaluations = 0
        model.register_forward_hook(self._count)

    def _count(self, module, inputs, logits):
        self.evaluations += len(logits)

    def batch(self, count, part="test"):
        """The first `count` images and labels of a part of the data set, on the device."""
        images = getattr(self.dataset, f"{part}_images")[:count]
        labels = getattr(self.dataset, f"{part}_labels")[:count]
        return to_float(images, self.device), torch.from_numpy(labels).to(self.device)

    def correct(self, images, labels):
        """Whether each image is classified as its label, (N,) bool."""
        parts = zip(images.split(1000), labels.split(1000), strict=True)
        return torch.cat([attacks.is_correct(self.model, *part) for part in parts])

    def measure(self, attack, maker, images, labels, make):
        """Time make() -> adversarial images, and keep and print a row.

        An error of a library is a row too.
        """
        self.evaluations = 0
        began = time.perf_counter()
        try:
            adversarial = make()
        except Exception as error:  # whatever a library raises in its own code
            fails = f"{type(error).__name__}: {error}"
            print(f"{attack:22}{maker:16}   fails: {fails}", flush=True)
            self.rows.append({"attack": attack, "made_by": maker, "fails": fails})
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds, count = time.perf_counter() - began, self.evaluations
        l2 = attacks.l2_norm(adversarial - images)[self.correct(images, labels)]
        robust = self.correct(adversarial, labels).float().mean()
        row = {
            "attack": attack,
            "made_by": maker,
            "images": len(images),
            "robust": round(100 * robust.item(), 2),
            "mean_l2": round(l2.mean().item(), 4),
            "seconds": round(seconds, 2),
            "images_per_second": round(len(images) / seconds, 1),
            "evaluations": round(count / len(images), 1),
        }
        self.rows.append(row)
        line = f"{attack:22}{maker:16}{row['images']:>8}{row['robust']:>10.2f}"
        line += f"{row['mean_l2']:>9.4f}{row['seconds']:>9.2f}"
        print(f"{line}{row['images_per_second']:>10.1f}{row['evaluations']:>13.1f}", flush=True)

    def ours(self, attack, settings, images, labels, part="test", batch=None):
        """Measure an attack of this project, in batches as the program makes them."""
        batch = batch or attacks.eval_batch(self.device, settings.iterative())
        make = settings.entry().make

        def run():
            done = []
            for start in range(0, len(images), batch):
                x, y = images[start : start + batch], labels[start : start + batch]
                starts = attacks.starts_for(0, part, range(start, start + len(x)), x)
                done.append(make(self.model, x, y, settings, starts))
            return torch.cat(done)

        self.measure(attack, "attacks.py", images, labels, run)


def settings_of(name, *flags):
    """AttackSettings of `name`, at its defaults but for the flags."""
    return attack_settings(parse([f"--attack={name}", *flags])[0], name, colour=False)


def beside_others(bench, count, names):
    """Every attack on the same images by every library at hand.

    With the same parameters where they have them.
    """
    x, y = bench.batch(count)
    libraries = {"foolbox": foolbox_attacks(bench, x, y)}
    libraries["DeepRobust"] = deeprobust_attacks(bench, x, y)
    libraries["torchattacks"] = torchattacks_attacks(bench, x, y)
    for name, (label, settings) in table().items():
        if name in names:
            bench.ours(label, settings, x, y)
            for maker, makes in libraries.items():
                if name in makes:
                    bench.measure(label, maker, x, y, makes[name])
    bench.ours("noise linf 0.3", settings_of("noise"), x, y)


def table():
    """{name: (label, AttackSettings)} of what is compared."""
    return {
        "fgsm": ("fgsm linf 0.1", settings_of("fgsm", "--epsilon=0.1")),
        "pgd": ("pgd linf 0.1 20x0.01", settings_of("pgd", "--epsilon=0.1", "--attack_steps=20")),
        "pgd_l2": ("pgd l2 2 40x0.1", settings_of("pgd", "--norm=l2", "--epsilon=2")),
        "cw": ("cw", settings_of("cw")),
        "deepfool": ("deepfool", settings_of("deepfool")),
        "ddn": ("ddn", settings_of("ddn")),
    }


def foolbox_attacks(bench, x, y):
    """{name: make} of foolbox; empty where it is not installed."""
    try:
        import foolbox
    except ImportError:
        print("foolbox is not installed: its rows are left out")
        return {}
    model, their = foolbox.PyTorchModel(bench.model, (0, 1), bench.device), foolbox.attacks
    made = {
        "fgsm": (their.FGSM(random_start=False), 0.1),
        "pgd": (their.LinfPGD(steps=20, abs_stepsize=0.01), 0.1),
        "pgd_l2": (their.L2PGD(steps=40, abs_stepsize=0.1), 2.0),
        "cw": (foolbox_cw(), None),
        "deepfool": (their.L2DeepFoolAttack(), None),
        "ddn": (their.DDNAttack(), None),
    }
    return {
        name: (lambda attack=attack, epsilon=epsilon: attack(model, x, y, epsilons=epsilon)[1])
        for name, (attack, epsilon) in made.items()
    }


def foolbox_cw():
    """foolbox's CW at the parameters at which its mean L2 comes nearest to ours."""
    from foolbox.attacks import L2CarliniWagnerAttack

    return L2CarliniWagnerAttack(binary_search_steps=9, steps=200, stepsize=0.05, initial_const=1)


def torchattacks_attacks(bench, x, y):
    """{name: make} of torchattacks; empty where it is not installed."""
    try:
        import torchattacks
    except ImportError:
        print("torchattacks is not installed: its rows are left out")
        return {}
    made = {
        "fgsm": torchattacks.FGSM(bench.model, eps=0.1),
        "pgd": torchattacks.PGD(bench.model, eps=0.1, alpha=0.01, steps=20),
        "pgd_l2": torchattacks.PGDL2(bench.model, eps=2.0, alpha=0.1, steps=40),
        "cw": torchattacks.CW(bench.model, c=1, steps=500, lr=0.01),
        "deepfool": torchattacks.DeepFool(bench.model, steps=50),
    }
    return {name: (lambda attack=attack: attack(x, y)) for name, attack in made.items()}


def deeprobust_attacks(bench, x, y):
    """{name: make} of DeepRobust's own attacks, as they come but for clipping."""
    prepare_deeprobust()
    from deeprobust.image.attack.cw import CarliniWagner
    from deeprobust.image.attack.deepfool import DeepFool
    from deeprobust.image.attack.pgd import PGD

    model, device, settings = bench.model, bench.device.type, table()

    def one_by_one(generate):
        def run():
            made = [
                torch.as_tensor(generate(*one)) for one in zip(x.split(1), y.split(1), strict=True)
            ]
            return torch.cat([image.to(x).reshape(1, *x.shape[1:]) for image in made])

        return run

    def l2_pgd():
        strength = {"epsilon": 2.0, "num_steps": 40, "step_size": 0.1, "clip_max": 1.0}
        return PGD(model, device).generate(x, y, **strength, bound="l2").detach()

    def cw(image, label):
        return CarliniWagner(model, device).generate(image, label, (label + 1) % 10)

    starts = attacks.starts_for(0, "test", range(len(x)), x)
    return {
        "fgsm": lambda: attacks.deeprobust_fgsm(model, x, y, settings["fgsm"][1]),
        "pgd": lambda: attacks.deeprobust_pgd(model, x, y, settings["pgd"][1], starts),
        "pgd_l2": l2_pgd,
        "cw": one_by_one(cw),
        "deepfool": one_by_one(DeepFool(model, device).generate),
    }


def cw_beside_foolbox(bench, count):
    """CW on more images, beside foolbox's."""
    x, y = bench.batch(count)
    bench.ours("cw", settings_of("cw"), x, y)
    try:
        import foolbox
    except ImportError:
        return
    model, attack = foolbox.PyTorchModel(bench.model, (0, 1), bench.device), foolbox_cw()

    def in_parts():
        parts = zip(x.split(250), y.split(250), strict=True)
        return torch.cat([attack(model, *part, epsilons=None)[1] for part in parts])

    bench.measure("cw 9x200 0.05 c=1", "foolbox", x, y, in_parts)


def whole_set(bench, count, names):
    """The training set, by the data set generator and by the batched attack.

    In bf16 too, with the images it would change.
    """
    x, y = bench.batch(count, "train")
    batch, settings = 256 if bench.device.type == "cpu" else 4096, settings_of("fgsm")

    def in_parts(attack, images, labels):
        parts = zip(images.split(256), labels.split(256), strict=True)
        return torch.cat([attack(bench.model, *part, settings) for part in parts])

    for name in names:
        bench.ours(f"{name} all", settings_of(name), x, y, "train", batch)
        if name == "fgsm":
            theirs = functools.partial(in_parts, attacks.deeprobust_fgsm, x, y)
            bench.measure("fgsm all", "DeepRobust", x, y, theirs)
    x, y = x[:5000], y[:5000]

    def in_bf16():
        with torch.autocast(bench.device.type, torch.bfloat16):
            return in_parts(attacks.fgsm, x, y)

    bench.measure("fgsm bf16, 5,000", "attacks.py", x, y, in_bf16)
    bench.ours("fgsm fp32, 5,000", settings, x, y, "train", batch=256)
    full = attacks.fgsm(bench.model, x, y, settings)
    changed = 100 * (in_bf16() != full).float().mean().item()
    print(f"bf16 changes {changed:.1f} % of the pixels of the FGSM images")
    bench.rows.append({"attack": "fgsm bf16", "pixels_changed_percent": round(changed, 2)})


if __name__ == "__main__":
    main()
