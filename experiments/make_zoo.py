"""Put finished lt runs into the zoo (store/zoo.py).

python -m experiments.make_zoo mnist-fc1-clean=runs/long/main/mnist-fc1-fgsm0-lt-s0-*
"""

import glob
import sys

from store.zoo import pack
from utils import OneLineParser, UserError


def work(args):
    """Pack each NAME=RUN, and print its size."""
    for pair in args.entries:
        name, _, pattern = pair.partition("=")
        runs = sorted(glob.glob(pattern))
        if not name or len(runs) != 1:
            raise UserError(f"{pair}: NAME=RUN is needed, and {len(runs)} folders match the run")
        print(f"{name}: {pack(runs[0], name):,} bytes of masks")


def main(argv=None):
    """Pack runs on the command line; returns the exit code."""
    parser = OneLineParser(prog="make_zoo", description="Put finished lt runs into the zoo.")
    parser.add_argument("entries", nargs="+", metavar="NAME=RUN", help="a name and its run folder")
    return parser.run(argv, work)


if __name__ == "__main__":
    sys.exit(main())
