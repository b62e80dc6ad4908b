"""The house: imports go one way, between files and between rooms, wherever in a file they stand."""

import ast
from graphlib import TopologicalSorter

from helpers import ROOT

ROOMS = ("archs", "attacked", "engine", "results", "store", "study")
TRAINING = {"train", "experiment", "main", "attacked", "study"}


def module_of(path):
    """store/files.py -> store.files; a package's own file is the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def files():
    """{module: path} of the program."""
    paths = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).glob("*.py"))]
    return {module_of(path): path for path in paths}


def imports():
    """{module: the modules of the program that it imports}."""
    known, edges = files(), {}
    for module, path in known.items():
        edges[module] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in known else node.module for name in inside]
            edges[module] |= {name for name in names if name in known and name != module}
    return edges


def test_no_file_and_no_room_imports_in_a_circle():
    edges = imports()
    assert len(edges) > 45 and len(edges["experiment"]) > 8
    tuple(TopologicalSorter(edges).static_order())  # CycleError, with the circle, if there is one
    rooms = {}
    for module, others in edges.items():
        room = module.split(".")[0]
        rooms.setdefault(room, set()).update(other.split(".")[0] for other in others)
    tuple(
        TopologicalSorter({room: others - {room} for room, others in rooms.items()}).static_order()
    )


def test_readers_of_runs_never_reach_into_training():
    edges = imports()
    readers = [m for m in edges if m.split(".")[0] in ("results", "plots", "tickets", "report")]
    for reader in readers:
        reached, waiting = set(), [reader]
        while waiting:
            module = waiting.pop()
            if module not in reached:
                reached.add(module)
                waiting += edges[module]
        assert not {module.split(".")[0] for module in reached} & TRAINING, reader
        engine = {module for module in reached if module.startswith("engine")}
        assert engine <= {"engine", "engine.machine"}, reader


def test_the_top_level_is_the_science():
    top = {path.stem for path in ROOT.glob("*.py")}
    science = {"main", "config", "data", "attacks", "pruning", "experiment", "train", "tickets"}
    assert top == science | {"export", "plots", "report", "utils"}
