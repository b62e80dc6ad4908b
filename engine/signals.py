"""What SIGTERM and Ctrl-C do."""

import contextlib
import signal
import threading
import time


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to stop; `signal` is its number."""

    def __init__(self, number):
        super().__init__()
        self.signal = number


class Stop:
    """What the two signals do: end the program at once, or where `deferring` note that they came.

    A second one that comes a second later or more ends it all the same; sooner it is the same wish,
    which reached a process twice.
    """

    def __init__(self):
        self.signal, self.deferred, self.heard = None, False, 0.0

    def listen(self):
        """Take over the two signals; in the main thread only, as Python has it."""
        if threading.current_thread() is threading.main_thread():
            self.signal, self.deferred = None, False
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._heard)

    @contextlib.contextmanager
    def deferring(self):
        """Within this block the first signal is only noted, in `signal`."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False

    def _heard(self, number, frame):
        first, self.signal = self.signal is None, number
        if first:
            self.heard = time.monotonic()
        if not self.deferred or time.monotonic() - self.heard >= 1:
            raise Interrupted(number)


stop = Stop()
