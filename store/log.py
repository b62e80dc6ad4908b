"""TensorBoard events of a run. It is imported when the first event is written."""


class Log:
    """The events of a run folder."""

    def __init__(self, path):
        self.path, self.events = path, None

    def writer(self):
        """The SummaryWriter, opened at first use."""
        if self.events is None:
            from tensorboardX import SummaryWriter

            self.events = SummaryWriter(str(self.path / "tb"))
        return self.events

    def begin(self, config, samples=None):
        """The flags and, with an attack, ten clean test images over their attacked versions."""
        import torch

        lines = [f"    {name}: {value}" for name, value in config.flags().items()]
        self.writer().add_text("flags", "\n".join(lines))
        if samples:
            rows = [torch.cat(list(images), dim=2) for images in samples]
            self.writer().add_image("attacked test images", torch.cat(rows, dim=1).numpy())

    def round(self, row, epochs, masks):
        """The numbers of a finished round."""
        writer, number = self.writer(), row["round"]
        for epoch in epochs:
            for name in ("train_loss", "val_loss", "val_accuracy"):
                writer.add_scalar(f"round_{number:02}/{name}", epoch[name], epoch["iteration"])
        for name, value in row.items():
            if name != "round":
                writer.add_scalar(f"rounds/{name}", value, number)
        for name, mask in masks.items():
            writer.add_scalar(f"layer density/{name}", mask.float().mean().item(), number)
        writer.flush()

    def end(self, config, row):
        """The flags with the numbers of the last round, for TensorBoard's table of runs."""
        flags = {k: "none" if v is None else v for k, v in config.results().items()}
        shown = {k: v for k, v in row.items() if k.endswith("accuracy") or k == "density"}
        metrics = {f"final/{name}": value for name, value in shown.items()}
        self.writer().add_hparams(flags, metrics, name="hparams")
        self.close()

    def close(self):
        """Close the file; left open, its thread ends the process with a traceback."""
        if self.events is not None:
            self.events.close()
            self.events = None
