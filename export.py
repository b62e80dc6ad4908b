# PYTHON_ARGCOMPLETE_OK: docs/runs.md says how a shell completes flags
"""A ticket leaves: a round of a run as a file that torch, torchvision or an ONNX runtime reads.

python export.py runs/NAME@5 -o ticket.pt                        # state_dict, zeros where pruned
python export.py runs/NAME@5 -o ticket.pt --format=masked        # as torch.nn.utils.prune has it
python export.py runs/NAME@5 -o ticket.onnx --format=onnx        # takes pixels from 0 to 1
python export.py zoo:mnist-fc1-clean@13 -o zoo.pt --weights=theta0
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pruning
from store import zoo
from store.files import check_writable, save_state, save_tensors, write_atomic, write_json
from store.runfolder import RunFolder
from store.saved import saved_run
from store.ticket import ticket_place
from utils import OneLineParser, UserError, nonempty

CHUNK = 2**20  # bytes compressed at once

# Formats -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """One line of FORMATS."""

    help: str
    suffixes: tuple  # that its files may have; none: a folder
    make: Callable | None = None  # a Leaving -> (state or bytes, lines to print)


@dataclass(frozen=True)
class Leaving:
    """A ticket on its way out."""

    run: str  # as the command line names it
    folder: RunFolder
    config: object
    rows: list = field(repr=False)  # of rounds.csv
    number: int
    net: object = field(repr=False)
    masks: dict = field(repr=False)
    size: tuple  # (in_shape, classes)

    @property
    def row(self):
        """The round's row of rounds.csv."""
        return self.rows[self.number]


def own_network(ticket):
    """The lines of Python that make the network which the dense format fits."""
    in_shape, classes = ticket.size
    stats = [0.0] * in_shape[0], [1.0] * in_shape[0]
    made = f"net = archs.build({ticket.config.arch_type!r}, {in_shape}, {classes}, {stats})"
    where = "this project's networks: PYTHONPATH has its folder (onnx and torchvision need none)"
    return [f"import archs  # {where}", made]


def as_dense(ticket):
    """A state_dict with zeros, and the network that it fits."""
    from results.formats import dense

    return dense(ticket.net, ticket.masks), own_network(ticket)


def as_masked(ticket):
    """NAME_orig and NAME_mask, and what makes the network have them."""
    from results.formats import masked

    lines = ["import torch.nn.utils.prune", *own_network(ticket), "for module in net.modules():"]
    lines.append("    if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):")
    lines.append("        torch.nn.utils.prune.identity(module, 'weight')")
    return masked(ticket.net, ticket.masks), lines


def as_onnx(ticket):
    """The bytes of an ONNX file."""
    from results.formats import to_onnx

    told = "takes images (batch, {}, {}, {}) from 0 to 1 and normalises them; returns logits"
    return to_onnx(ticket.net, ticket.size[0]), [told.format(*ticket.size[0])]


def as_torchvision(ticket):
    """Torchvision's names, the network that they fit, and how its images are normalised."""
    from results.formats import TORCHVISION, for_torchvision, normalisation

    arch, (_, classes) = ticket.config.arch_type, ticket.size
    state, lines = for_torchvision(arch, ticket.net, classes)
    other = ", ".join(line.split(" = ")[0].removeprefix("net.") for line in lines[1:])
    lines = ["import torch", "import torchvision", *lines]
    if other:
        what = f"torchvision's own {TORCHVISION[arch][0]}, of large images, differs in {other}"
        lines.insert(0, f"# {what} and does not take it; so changed it does:")
    mean, std = ([round(value, 6) for value in values] for values in normalisation(ticket.net))
    lines.append("# the tool's networks normalise inside, torchvision's do not: give it")
    lines.append(f"# torchvision.transforms.Normalize({mean}, {std}) of pixels from 0 to 1")
    return state, lines


STATES = (".pt", ".pth", ".safetensors")
FORMATS = {
    "dense": Format("a state_dict with zeros where it is pruned", STATES, as_dense),
    "masked": Format("weight_orig and weight_mask, as torch.nn.utils.prune", STATES, as_masked),
    "onnx": Format("for ONNX runtimes; needs the package onnx", (".onnx",), as_onnx),
    "torchvision": Format("a state_dict under torchvision's names", STATES, as_torchvision),
    "benchmark": Format("an entry of the Adversarial Pruning Benchmark", ()),
}

# What leaves -------------------------------------------------------------------------------------


def place_of(text):
    """(run, round or None) of RUN[@ROUND]. What is a run folder as it stands is no round of
    another.
    """
    if (Path(text) / "config.json").exists():
        return text, None
    head, _, tail = text.rpartition("@")
    if head and not tail.isdigit() and (Path(head) / "config.json").exists():
        raise UserError(f"{text}: @{tail} is no round: a number is needed")
    if inside := next(Path(text).glob("*/config.json"), None):
        raise UserError(f"{text} is no run but holds runs: name one, such as {inside.parent}")
    return ticket_place(text)


def open_leaving(args):
    """The Leaving that the command line names; UserError if it is not there."""
    import data
    from results.ticket import finished_rounds, load_ticket

    run, number = place_of(args.run)
    path = run
    if run.startswith(zoo.PREFIX):
        path = zoo.unpack(run.removeprefix(zoo.PREFIX), args.cache_dir)
        if args.weights == "trained":
            raise UserError(f"{run}: a zoo keeps no trained weights: add --weights=theta0")
    folder, config = RunFolder(path), saved_run(path)
    rows = finished_rounds(folder)
    last = len(rows) - 1
    number = last if number is None else number
    if number > last:
        raise UserError(f"{run} has rounds 0 to {last}, and no round {number}")
    if args.weights == "trained":
        check_kept(folder, run, number)
    if not folder.done:
        print(f"note: {run} is unfinished: {len(rows)} of {config.prune_iterations} rounds")
    size = data.describe(config.dataset, args.data_dir or config.data_dir)
    net, masks, _ = load_ticket(path, number, args.data_dir, args.weights)
    return Leaving(run, folder, config, rows, number, net, masks, size)


def check_kept(folder, run, number):
    """UserError unless a run keeps a round's trained weights."""
    if not folder.weights(number).exists():
        right = "train it with --save_weights=best, or add --weights=theta0"
        raise UserError(f"{run} keeps no trained weights of round {number}: {right}")


def check_output(args):
    """UserError unless the output is of the format's kind, new, and in a place to write to."""
    path, suffixes = Path(args.output), FORMATS[args.format].suffixes
    if suffixes and path.suffix not in suffixes:
        others = [name for name, form in FORMATS.items() if path.suffix in form.suffixes]
        right = f"or add --format={others[0]}" if others else "or name another --format"
        wanted = f"a --format={args.format} ends in {' or '.join(suffixes)}"
        raise UserError(f"-o {path}: the name of {wanted}: name it so, {right}")
    if path.exists() and path.is_dir() == bool(suffixes):
        raise UserError(f"-o {path} is {'a folder' if suffixes else 'a file'}: name another")
    full = path.exists() if suffixes else path.is_dir() and any(path.iterdir())
    if full and not args.force:
        raise UserError(f"-o {path} is there already: name another, or add --force")
    check_writable(path, f"-o {path}")


def write(path, content):
    """Write a state or bytes to `path`, whole or not at all."""
    if isinstance(content, bytes):
        write_atomic(path, lambda temporary: Path(temporary).write_bytes(content))
    elif path.suffix == ".safetensors":
        save_tensors(path, content)
    else:
        save_state(path, {name: value.detach().clone() for name, value in content.items()})


# What is said of it ------------------------------------------------------------------------------


def describe(ticket, weights):
    """The ticket in two lines: its round, density and accuracies."""
    row, config = ticket.row, ticket.config
    named = f"{config.arch_type} on {config.dataset}, {config.prune_type}, seed {config.seed}"
    head = f"{ticket.run} round {row['round']} ({named}): {row['kept']:,} of {row['total']:,}"
    columns = [name for name in row if name.endswith("_accuracy")]
    if config.save_weights == "last" and weights == "trained":
        columns = ["test_accuracy_last"]  # the others are of the best epoch's weights
    found = [f"{name.removesuffix('_accuracy')} {row[name]:.4g} %" for name in columns]
    what = "accuracy:"
    if weights == "theta0":
        rewound = not row["round"] or pruning.PRUNE_TYPES[config.prune_type].rewinds
        own = "which trained to"
        if not rewound or config.first_epoch(row["round"]):
            own = "from which this round did not start; from where it did it trained to"
        what = f"theta_0 under the mask, {own}"
    return [f"{head} weights, density {row['density']:.4f}", f"  {what} {', '.join(found)}"]


def compressed(path):
    """{name: bytes of a file once compressed}."""
    import lzma
    import zlib

    # xz's usual level takes a minute for a ResNet
    makers = {"gzip": zlib.compressobj(wbits=31), "xz -1": lzma.LZMACompressor(preset=1)}
    sizes = dict.fromkeys(makers, 0)
    with open(path, "rb") as file:
        while part := file.read(CHUNK):
            for name, maker in makers.items():
                sizes[name] += len(maker.compress(part))
    return {name: sizes[name] + len(maker.flush()) for name, maker in makers.items()}


def sizes_of(path):
    """A file's size in a line, as it is and compressed."""
    packed = ", ".join(f"{size:,} with {name}" for name, size in compressed(path).items())
    return f"{path}: {path.stat().st_size:,} bytes; {packed}"


def say_masks(ticket, args):
    """Print what a mask is worth, and how fast the compiled forward pass is where there is one."""
    from engine.forward import forward_ratio

    print("masks alone make nothing smaller or faster: zeros are kept and multiplied as others are")
    ratio = forward_ratio(ticket.net, ticket.masks, ticket.size[0], args.cache_dir)
    if ratio:
        what = f"a forward pass over the alive weights alone (engine/) is {ratio:.2f} times as fast"
        print(f"{what} as torch's dense one, here and now on one thread")


# The command -------------------------------------------------------------------------------------


def export(args):
    """Write what the parsed command line asks for; UserError, and no file, if it cannot be."""
    check_output(args)
    if args.format == "benchmark":
        return export_entry(args)
    if args.format == "onnx":
        from results.formats import need_onnx

        need_onnx()
    ticket, path = open_leaving(args), Path(args.output)
    content, lines = FORMATS[args.format].make(ticket)
    write(path, content)
    print(*describe(ticket, args.weights), sizes_of(path), sep="\n")
    say_masks(ticket, args)
    if args.format != "onnx":
        safe = path.suffix == ".safetensors"
        wanted = f"import {'safetensors.torch' if safe else 'torch'}"
        lines[:0] = [wanted] if wanted not in lines else []
        reader = "safetensors.torch.load_file" if safe else "torch.load"
        lines.append(f"net.load_state_dict({reader}({str(path)!r}))")
    print(*(f"  {line}" for line in lines), sep="\n")


def export_entry(args):
    """Write an entry of the benchmark: three checkpoints and entry.json."""
    from dataclasses import replace

    from results import entry as entries
    from results.ticket import load_ticket

    if place_of(args.run)[1] is not None:
        what = "its rounds are those nearest to 90, 95 and 99 % of the weights pruned"
        raise UserError(f"--format=benchmark: {what}: leave @ROUND out")
    if args.weights != "trained":
        raise UserError("--format=benchmark: its checkpoints are trained: leave --weights out")
    ticket, chosen, contents = open_leaving(args), {}, {}
    for target, row in entries.nearest_rounds(ticket.rows, ticket.run).items():
        check_kept(ticket.folder, ticket.run, row["round"])
        net, masks, _ = load_ticket(ticket.folder.path, row["round"], args.data_dir)
        one = replace(ticket, number=row["round"], net=net, masks=masks)
        state, *fits = entries.checkpoint(ticket.config.arch_type, net, *ticket.size)
        chosen[target] = f"{ticket.config.arch_type}-{ticket.config.dataset}-{target}.pt", row
        contents[chosen[target][0]] = state
        print(*describe(one, args.weights), sep="\n")
    colour = ticket.size[0][0] > 1
    attacked = entries.autoattacked(ticket.folder.path, ticket.config, colour)
    made = entries.entry(ticket.config, ticket.run, chosen, attacked, ticket.net, fits, colour)
    folder = Path(args.output)
    write_folder(folder, contents, {"entry.json": made})
    print(*(sizes_of(folder / name) for name in contents), sep="\n")
    for line in entries.notes(ticket.config, chosen):
        print(f"note: {line}")
    print(*(f"to do: {line}" for line in made["to_do"]), sep="\n")
    say_masks(ticket, args)
    print(folder / "entry.json")


def write_folder(folder, states, texts):
    """Write {name: state} and {name: JSON-able value} into a folder: all of them are made before
    the first appears.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as made:
        for name, state in states.items():
            write(Path(made) / name, state)
        for name, value in texts.items():
            write_json(Path(made) / name, value)
        folder.mkdir(exist_ok=True)
        for name in (*states, *texts):  # the text that tells of them comes last
            (Path(made) / name).replace(folder / name)


EPILOG = """RUN is a run folder, or zoo:NAME of the zoo; @ROUND one of its rounds (default: the last
finished one).

formats:
{formats}

examples:
  python export.py runs/NAME@5 -o ticket.pt
  python export.py runs/NAME@5 -o ticket.safetensors --format=masked
  python export.py runs/NAME@5 -o ticket.onnx --format=onnx
  python export.py zoo:mnist-fc1-clean@13 -o zoo.pt --weights=theta0
  python export.py runs/cifar10-resnet18-... -o entry --format=benchmark

dense, masked and onnx hold the network's own normalisation and take pixels from 0 to 1; torchvision
and benchmark do not, and say what to normalise by. The last lines printed are what loads the file.
"""


def make_parser():
    """The argparse parser of export.py."""
    lines = [
        f"  {name:12} {', '.join(f.suffixes) or 'FOLDER'}: {f.help}" for name, f in FORMATS.items()
    ]
    parser = OneLineParser(
        prog="export.py",
        usage="python export.py RUN[@ROUND] -o FILE [--format=FORMAT] [--flag=value ...]",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Write a ticket as a file that others can read.",
        epilog=EPILOG.format(formats="\n".join(lines)),
    )
    add = parser.add_argument
    add("run", metavar="RUN[@ROUND]", type=nonempty, help="a run folder or zoo:NAME, and a round")
    place = "where it goes; for benchmark a folder"
    add("-o", "--output", metavar="FILE", type=nonempty, required=True, help=place)
    add("--format", choices=FORMATS, default="dense", help="as below (default: dense)")
    which = "those of the round (default), or theta_0 under its mask"
    add("--weights", choices=("trained", "theta0"), default="trained", help=which)
    add("--force", action="store_true", help="replace a file that is there")
    add("--data_dir", metavar="FOLDER", help="where the data set is (default: the run's own)")
    cached = "of the zoo's tickets and the compiled forward pass (default: cache)"
    add("--cache_dir", metavar="FOLDER", default="cache", help=cached)
    return parser


def main(argv=None):
    """Export the ticket on the command line; returns the exit code."""
    return make_parser().run(argv, export)


if __name__ == "__main__":
    sys.exit(main())
