"""How far long work is, and how long the rest will take by what was measured of it."""

import time

from tqdm import tqdm

from utils import no_bar, time_in_words

MEASURED = 1.0  # seconds of work from which the rest is told
SHORT = 5.0  # seconds of work that need no word


class Progress:
    """A bar on a terminal, lines in a log: each fifth of the work, or each minute if sooner.

    Everywhere one line says how long it takes, as soon as that is measured. total: how many `units`
    it is; done: how many were done before. What comes before the first call of `reach` is not
    measured: kernels set themselves up.
    """

    def __init__(self, title, total, units, say, done=0):
        self.title, self.total, self.units, self.say = title, total, units, say
        self.done, self.began, self.first, self.told = done, None, done, None
        self.bar = tqdm(
            total=total, initial=done, desc=title, unit=f" {units}", leave=False, disable=no_bar()
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def reach(self, done):
        """`done` units are done."""
        now = time.monotonic()
        self.bar.update(done - self.done)
        self.done = done
        if self.began is None:
            self.began, self.first = now, done
        elif self.told is None:
            if now - self.began >= MEASURED:
                self.told = now
                if self.left() >= SHORT:
                    measured = f"by {done - self.first:,} {self.units}"
                    self.say(
                        f"  {self.title} takes about {time_in_words(self.left())} more, {measured}"
                    )
        elif self.bar.disable and done < self.total:
            whole = (now - self.began) * self.total / max(1, done - self.first)
            if now - self.told >= min(60, max(SHORT, whole / 5)):
                self.told = now
                where = f"{done:,} of {self.total:,} {self.units}"
                self.say(f"  {self.title}: {where}, about {time_in_words(self.left())} more")

    def left(self):
        """Seconds that the rest takes at the rate so far."""
        seconds = time.monotonic() - self.began
        return (self.total - self.done) * seconds / max(1, self.done - self.first)
