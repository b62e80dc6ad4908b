"""A run in Weights & Biases, for those who ask with --wandb=PROJECT; the package is optional.

WANDB_MODE=offline keeps it on this machine (wandb sync sends it later). Whatever goes wrong with it
costs its entry, never the run.
"""

from store.log import never_fatal


class WandbLog:
    """The entry of a run folder, called as the run is; a run that goes on goes on there."""

    what = "Weights & Biases"

    def __init__(self, path):
        self.path, self.entry, self.failed = path, None, False

    @never_fatal
    def round(self, config, row):
        """The numbers of a finished round."""
        if self.entry is None:
            import wandb

            self.entry = wandb.init(
                project=config.wandb, name=self.path.name, id=self.path.name, resume="allow",
                dir=str(self.path), config=config.results(), reinit="create_new",
                settings=wandb.Settings(silent=True, console="off"),
            )  # fmt: skip
        self.entry.log({name: value for name, value in row.items()}, step=row["round"])

    @never_fatal
    def close(self, done):
        """End the entry; done: whether the run has come to its end."""
        if self.entry is not None:
            self.entry.finish(exit_code=0 if done else 1)
            self.entry = None
