"""How a study stands."""

import time
from pathlib import Path

from tqdm import tqdm


class Board:
    """One bar over the rounds of a whole study, read off the run folders.

    It has the runs that are done, running, failed and to go.
    """

    def __init__(self, plan):
        self.runs = [run for cohort in plan for run in cohort]
        total = sum(run.config.prune_iterations for run in self.runs)
        self.bar = tqdm(total=total, desc="study", unit="round", disable=None)
        self.bar.update(self._rounds())
        # the time left goes by this call's rounds
        self.bar.start_t, self.bar.initial = time.time(), self.bar.n
        self.looked = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def _rounds(self):
        return sum(run.folder.rounds_done() for run in self.runs)

    def write(self, line):
        """Print a line above the bar."""
        self.bar.write(line)

    def look(self, outcomes):
        """Read the folders, once a second, and show how far they are."""
        if self.bar.disable or time.monotonic() - self.looked < 1:
            return
        self.looked = time.monotonic()
        done = sum(outcome.state == "done" for outcome in outcomes)
        ended = {str(Path(outcome.path).absolute()) for outcome in outcomes}
        paths = [run.folder.path for run in self.runs]
        going = [path for path in paths if str(path.absolute()) not in ended]
        running = sum((path / "holder.json").exists() for path in going)
        self.bar.n = self._rounds()
        counts = {"done": done, "running": running, "failed": len(ended) - done}
        counts["to go"] = len(going) - running
        # what is none is left out: 80 columns are few
        self.bar.set_postfix_str(", ".join(f"{n} {word}" for word, n in counts.items() if n))
