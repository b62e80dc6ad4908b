"""What a cohort says: on the terminal as --quiet and --verbose ask, and in each run's log.txt."""

import sys
import time

LOUD = ("warning:", "note:")  # what --quiet says all the same
SILENCE = 30.0  # seconds after which long work says how far it is, where no bar does


class Voice:
    """Called with a text, it tells it of all runs; `of` of one. Every line names its run.

    say(text) prints. What is said before a run's folder has begun is kept for its log. A log that
    cannot be written is given up, with a note: it costs no run.
    """

    def __init__(self, runs, say):
        self.runs, self.say, self.config = runs, say, runs[0].config
        several = f"{len(runs)} runs: " if len(runs) > 1 and runs[0].label else ""
        self.label = several or runs[0].label
        self.early, self.open, self.last = [], False, time.monotonic()

    def __call__(self, text):
        self._print(self.label, text)
        for run in self.runs:
            self._log(run, text)

    def of(self, run, text, detail=False):
        """Say something of one run; a detail is printed with --verbose only."""
        if not detail or self.config.verbose:
            named = str(run.folder.path) in text  # its path is its name
            self._print("" if named else run.label, text)
        self._log(run, text)

    def begin(self):
        """The runs' folders have begun: their logs take what was said, and all that comes."""
        early, self.early, self.open = self.early, [], True
        for run, when, text in early:
            self._write(run, when, text)

    def still(self, text):
        """Say text(), how far it is, if SILENCE seconds were silent and no bar shows it."""
        if time.monotonic() - self.last >= SILENCE and not sys.stderr.isatty():
            self(text())

    def _print(self, label, text):
        self.last = time.monotonic()
        if self.config.quiet and not text.lstrip().startswith(LOUD):
            return
        head, *rest = text.splitlines()
        mark = next((mark for mark in LOUD if head.startswith(mark)), "")
        head = f"{mark} {label}{head.removeprefix(mark).lstrip()}" if mark else f"{label}{head}"
        self.say("\n".join([head, *(f"{label}{line}" for line in rest)]))

    def _log(self, run, text):
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        if self.open:
            self._write(run, when, text)
        else:
            self.early.append((run, when, text))

    def _write(self, run, when, text):
        if run.mute:
            return
        try:
            with open(run.folder.said, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(f"{when} {line}\n" for line in text.splitlines()))
        except OSError as error:
            run.mute = True
            self._print(run.label, f"note: {run.folder.said}: no more lines ({error.strerror})")
