"""A step that a CUDA graph repeats without Python, and a CPU does eagerly.

A step of a small net is a few dozen kernels of some microseconds each; starting them from Python
takes longer than they do. A graph is trusted only after one of its steps was the eager one.
"""

import contextlib
import gc
import warnings

import torch

GRAPHS = {"cuda"}  # devices on which Replay captures
EAGER = 3  # calls before the capture, in which cuBLAS and cuDNN set themselves up


class Replay:
    """work(), a function that only reads and writes tensors that stay where they are, made cheap to
    repeat.

    writes: every tensor whose values work() changes and that outlives the call. On a GPU, after
    some eager calls, work() is captured as a CUDA graph, which is compared with it, and each later
    call is one replay. Where it cannot be captured, or a replay does something else, a warning says
    so and each call is eager, as on a CPU. Either way a call does work() once.

    Random numbers come from the device's default generator. A graph holds no states of it, only how
    far each kernel's draws are from the first: a replay starts from the generator's seed and offset
    of that moment and moves the offset on, as an eager call does. So a seed that is set anew
    counts for replays too, and to repeat a call the generator's state is put back like a tensor.
    """

    def __init__(self, work, device, writes):
        self.work, self.device, self.writes = work, device, list(writes)
        self.calls, self.graph, self.graphable = 0, None, device.type in GRAPHS
        # A stream of its own: when a graph ends, torch frees the memory in which cuBLAS works for
        # all graphs that were captured on the same stream
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self):
        """Do work() once."""
        if self.graph:
            self.graph.replay()
        elif not self.graphable:
            self.work()
        elif self.calls < EAGER:
            self.calls += 1
            self._aside()
        else:
            self.graph = self._proven()
            self.graphable = self.graph is not None

    def _aside(self):
        """work() on the stream of the capture, so that nothing it needs there comes up only then,
        and autograd remembers no other stream.
        """
        if self.stream is None:
            return self.work()
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)
        try:
            with torch.cuda.stream(self.stream):
                self.work()
        finally:  # what comes next may put right what a call that failed has begun
            here.wait_stream(self.stream)

    def _watched(self):
        """The same, as an error where it waits for the GPU."""
        with no_waiting(self.device):
            self._aside()

    def _proven(self):
        """A graph whose replay does what work() does, or None; either way work() is done once."""
        before = self._values()
        eager = self._from(before, self._aside)
        try:
            again = self._from(before, self._watched)
            self._put(before)
            graph = capture(self.work, self.stream)
            graph.replay()
            wrong = differing(self.writes, eager[0], again[0], before[0])
            if not wrong:
                return graph
            why = f"{wrong} of {len(self.writes)} tensors differ after a replayed and an eager call"
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if isinstance(error.__context__, torch.OutOfMemoryError):
                # the capture's own end fails after it, too
                raise error.__context__ from None
            why = str(error).splitlines()[0]
        self._put(eager)
        warnings.warn(f"training goes on without a CUDA graph, slower: {why}", stacklevel=3)
        return None

    def _from(self, values, call):
        """The values after one call that starts from these."""
        self._put(values)
        call()
        return self._values()

    def _values(self):
        """What work() writes, and where its random numbers go on: copies in the host's memory, as a
        large cohort fills the device's.
        """
        copies = [tensor.detach().to("cpu", copy=True) for tensor in self.writes]
        cuda = self.device.type == "cuda"
        return copies, torch.cuda.get_rng_state(self.device) if cuda else torch.get_rng_state()

    def _put(self, values):
        copies, random = values
        for tensor, copy in zip(self.writes, copies, strict=True):
            tensor.detach().copy_(copy)
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(random, self.device)
        else:
            torch.set_rng_state(random)


def capture(work, stream):
    """work() as a CUDA graph, captured but not run: CUDA notes its kernels and their addresses."""
    # Dead graphs end now: their memory is free again, and the stream of one may be that of the next
    # but thirty. One that ends during a capture would break it, so nothing is collected meanwhile
    gc.collect()
    graph, collecting = torch.cuda.CUDAGraph(), gc.isenabled()
    gc.disable()
    try:
        with (
            torch.cuda.device(stream.device),
            # global: what any thread does that a capture forbids is an error, nothing goes unseen
            torch.cuda.graph(graph, stream=stream, capture_error_mode="global"),
        ):
            work()
    finally:
        if collecting:
            gc.enable()
    return graph


@contextlib.contextmanager
def no_waiting(device):
    """RuntimeError where a GPU's work makes the host wait.

    A capture would fail there, and one that fails keeps its memory before torch 2.14.
    """
    if device.type != "cuda":
        yield
        return
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(action="ignore"):  # that the mode does not find every wait
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def differing(replayed, eager, again, before):
    """How many tensors a replayed step left otherwise than an eager one.

    Four lists of the tensors a step writes: after a replay, after two eager steps, and before each.
    A tensor may differ by a hundredth of what the step changed (another algorithm in tf32 or bf16),
    by some last digits, or ten times as much as two eager steps do. Where those differ themselves
    by a tenth it says nothing: kernels that add in no fixed order repeat a step up to rounding, of
    which Adam makes whole steps where a gradient is 0 but for that. Half of them must say
    something.
    """
    wrong = unclear = 0
    for now, *others in zip(replayed, eager, again, before, strict=True):
        now = now.detach().float()
        once, twice, old = (other.to(now.device).float() for other in others)
        noise, change = length(once - twice), length(once - old)
        same = (now == once) | (now.isnan() & once.isnan())  # of a net that diverges
        apart = torch.where(same, 0, now - once).norm()
        if noise > 0.1 * change:
            unclear += 1
        elif not apart <= 10 * noise + 0.01 * change + 1e-6 * length(once):  # or not a number
            wrong += 1
    return wrong + unclear if 2 * unclear > len(replayed) else wrong


def length(tensor):
    """Its L2 norm, without what is not finite."""
    return tensor.nan_to_num(0, 0, 0).norm()
