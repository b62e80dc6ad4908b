"""TensorBoard events of a run. It is imported when the first event is written.

Whatever goes wrong with them costs the events, never the run.
"""

import contextlib
import functools
import os

from tqdm import tqdm

from utils import one_line


class Direct:
    """tensorboardX's event file, written at once and by nobody else.

    Its own writer has a thread, which a clock that is set back ends, and a queue that then fills,
    so that the run would wait for good.
    """

    def __init__(self, logdir, max_queue_size=10, flush_secs=120, filename_suffix=""):
        from tensorboardX.event_file_writer import EventsWriter

        os.makedirs(logdir, exist_ok=True)
        self.logdir, self.open = logdir, True
        self.events = EventsWriter(os.path.join(logdir, "events"), filename_suffix)

    def get_logdir(self):
        """Where it writes."""
        return self.logdir

    def add_event(self, event):
        """Append an event."""
        if self.open:
            self.events.write_event(event)

    def flush(self):
        """Bring what was written to the disk."""
        if self.open:
            self.events.flush()

    def close(self):
        """Close the file; once is enough."""
        if self.open:
            self.open = False
            self.events.close()


def never_fatal(write):
    """A method of a log that tells of its first failure in a line, and does nothing afterwards."""

    @functools.wraps(write)
    def careful(self, *args):
        if self.failed:
            return
        try:
            write(self, *args)
        except Exception as error:  # whatever a disk or a library brings about
            self.failed = True
            why = one_line(error) or type(error).__name__
            tqdm.write(f"note: {self.path}: no more events for {self.what} ({why})")

    return careful


class Log:
    """The events of a run folder."""

    what = "TensorBoard"

    def __init__(self, path):
        self.path, self.events, self.failed = path, None, False

    def writer(self):
        """The run's own SummaryWriter, opened at first use."""
        if self.events is None:
            self.events = self._open("tb")
        return self.events

    def _open(self, *place):
        import tensorboardX.writer

        tensorboardX.writer.EventFileWriter = Direct
        return tensorboardX.SummaryWriter(str(self.path.joinpath(*place)))

    @never_fatal
    def begin(self, config, samples=None):
        """The flags and, with an attack, ten clean test images over their attacked versions."""
        import torch

        lines = [f"    {name}: {value}" for name, value in config.flags().items()]
        self.writer().add_text("flags", "\n".join(lines))
        if samples:
            rows = [torch.cat(list(images), dim=2) for images in samples[:2]]
            self.writer().add_image("attacked test images", torch.cat(rows, dim=1).numpy())

    @never_fatal
    def round(self, row, epochs, masks):
        """The numbers of a finished round."""
        writer, number = self.writer(), row["round"]
        # a round is a run of its own to TensorBoard, so that one chart holds all rounds' curves
        with self._open("tb", f"round_{number:02}") as curves:
            for epoch in epochs:
                for name in ("train_loss", "val_loss", "val_accuracy"):
                    curves.add_scalar(f"epochs/{name}", epoch[name], epoch["iteration"])
        for name, value in row.items():
            if name != "round":
                writer.add_scalar(f"rounds/{name}", value, number)
        for name, mask in masks.items():
            writer.add_scalar(f"layer density/{name}", mask.float().mean().item(), number)
        writer.flush()

    @never_fatal
    def end(self, config, row):
        """The flags with the numbers of the last round, for TensorBoard's table of runs.

        A flag that a run does not have is empty there: a word in its place would make a column of
        numbers one of words, which cannot be filtered by a range.
        """
        from tensorboardX.summary import hparams

        flags = {k: v for k, v in config.results().items() if v is not None}
        flags = {k: " ".join(v) if isinstance(v, tuple) else v for k, v in flags.items()}
        shown = {k: v for k, v in row.items() if k.endswith("accuracy") or k == "density"}
        metrics = {f"final/{name}": value for name, value in shown.items()}
        for part in hparams(flags, metrics):  # add_hparams would make a second entry of the run
            self.writer().file_writer.add_summary(part)
        for name, value in metrics.items():
            self.writer().add_scalar(name, value, row["round"])
        self.close()

    def close(self):
        """Close the file."""
        if self.events is not None:
            with contextlib.suppress(Exception):  # a full disk: what was written stays
                self.events.close()
            self.events = None
