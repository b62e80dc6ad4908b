"""A step that a CUDA graph repeats without Python, and a CPU does eagerly.

A step of a small net is a few dozen kernels of some microseconds each; starting them from Python
takes longer than they do.
"""

import warnings

import torch

GRAPHS = {"cuda"}  # devices on which Replay captures
EAGER = 3  # calls before the capture, in which cuBLAS and cuDNN set themselves up


class Replay:
    """work(), a function that only reads and writes tensors that stay where they are, made cheap to
    repeat.

    On a GPU, after some eager calls, it is captured as a CUDA graph and each later call is one
    replay; where it cannot be captured, and on a CPU, each call is eager. Either way a call does
    work() once.
    """

    def __init__(self, work, device):
        self.work, self.calls, self.graph = work, 0, None
        self.graphable = device.type in GRAPHS

    def __call__(self):
        """Do work() once."""
        if self.graphable and self.calls == EAGER:
            self.graph = self._try()
        self.calls += 1
        if self.graph:
            self.graph.replay()
        else:
            self.work()

    def _try(self):
        try:
            return capture(self.work)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if isinstance(
                error.__context__, torch.OutOfMemoryError
            ):  # the capture's own end fails after it, too
                raise error.__context__ from None
            warnings.warn(
                f"training goes on without a CUDA graph, slower: {str(error).splitlines()[0]}",
                stacklevel=3,
            )
            return None


def capture(work):
    """work() as a CUDA graph, captured but not run: CUDA notes its kernels and their addresses."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph
