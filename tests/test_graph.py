"""A replayed step is the eager one, and a graph that is not is found.

No GPU is needed: `Recorded` does with a step what a CUDA graph does, on the CPU. Where there is
a GPU the real graph is held to the same, and to what torch's graphs have got wrong.
"""

import contextlib
import gc
import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import engine.graph as graph
import train
from engine.cohort import Cohort, Data
from engine.machine import pick_device, products
from engine.step import Stepper
from helpers import CONFIG, CPU, half_masks, make_data, ordered, small_net, states

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


class Recorded(TorchDispatchMode):
    """Notes each kernel that work() starts and the memory it reads and writes; replay() starts them
    again on that memory.

    As a CUDA graph would, it knows nothing of Python: a tensor that a step binds anew stays the
    one of the capture. Kernels whose result the host must wait for cannot be captured. `without`
    names kernels that replays leave out: a graph that is wrong.
    """

    def __init__(self, work, without=()):
        super().__init__()
        self.kernels, self.without, self.made, self.found = [], without, {}, {}
        random = torch.get_rng_state()
        try:
            with self:
                work()
        finally:  # CUDA does not run what it captures; here it has run
            torch.set_rng_state(random)
            for memory, values in self.found.values():
                memory.copy_(values)
        for memory in self.made.values():
            memory.fill_(0)

    def __torch_dispatch__(self, kernel, types, args=(), kwargs=None):
        if kernel.name() in (
            "aten::_local_scalar_dense",
            "aten::nonzero",
            "aten::masked_select",
            "aten::equal",
            "aten::is_nonzero",
        ):
            raise RuntimeError(f"operation not permitted when stream is capturing: {kernel.name()}")
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                memory = tensor.untyped_storage()
                if memory.data_ptr() not in self.made.keys() | self.found.keys():
                    self.found[memory.data_ptr()] = memory, memory.clone()
        result = kernel(*args, **(kwargs or {}))
        made = [x.untyped_storage() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        fresh = {memory.data_ptr(): memory for memory in made}
        self.made |= {place: fresh[place] for place in fresh.keys() - self.found.keys()}
        self.kernels.append((kernel, args, kwargs or {}, result))
        return result

    def replay(self):
        with torch._C._AutoDispatchBelowAutograd():  # where they were recorded
            for kernel, args, kwargs, result in self.kernels:
                if kernel.name() in self.without:
                    continue
                again = kernel(*args, **kwargs)
                for old, new in zip(
                    *([x] if isinstance(x, torch.Tensor) else x or [] for x in (result, again)),
                    strict=True,
                ):
                    if (
                        isinstance(old, torch.Tensor)
                        and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr()
                    ):
                        old.copy_(new)


@pytest.fixture
def graphs(monkeypatch):
    """Let Replay capture on the CPU, by Recorded; the list of what it captured."""
    captured = []
    monkeypatch.setattr(graph, "GRAPHS", {"cpu", "cuda"})

    def capture(work, stream):
        captured.append(Recorded(work))
        return captured[-1]

    monkeypatch.setattr(graph, "capture", capture)
    return captured


def calls(work, writes, count, device=CPU):
    """Call a Replay so often; returns the warnings."""
    replay = graph.Replay(work, device, writes)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(count):
            replay()
    return [str(one.message) for one in told]


ONLINE = {"attack": "fgsm", "attack_mode": "online", "norm": "linf", "mix_ratio": 0.5}
ONLINE |= {"epsilon": 0.1, "attack_steps": 1}
CASES = {
    "adam": {},
    "sgd": {"optimizer": "sgd"},
    "augmented": {"augment": True},
    "bf16": {"precision": "bf16"},
    "online": ONLINE,
    "random": ONLINE | {"attack": "pgd", "attack_step_size": 0.05, "restarts": 2},
    "trades": ONLINE
    | {"attack_mode": "trades", "attack": "pgd", "attack_step_size": 0.05}
    | {"restarts": 1},
    "schedule": {"warmup_steps": 5, "lr_drops": "1", "valid_steps": 1},
}


@pytest.mark.parametrize("runs, density", [(1, 0.5), (1, 0.15), (2, 0.5)])
@pytest.mark.parametrize("case", CASES)
def test_a_replayed_step_is_the_eager_step(case, runs, density, graphs, monkeypatch):
    config = CONFIG.replace(end_iter=4, **CASES[case])
    ends = []
    for devices in (set(), {"cpu"}):
        monkeypatch.setattr(graph, "GRAPHS", devices)
        cohort = Cohort(small_net(), states(runs), half_masks(runs, density), CPU, config.precision)
        with warnings.catch_warnings(action="error"):  # each graph is found to be right
            fit = train.fit(cohort, make_data(runs), ordered(config, *range(runs)), 0)
        ends.append((cohort.state(), fit.best, fit.rows, torch.get_rng_state()))
    assert len(graphs) == 2  # the step and the validation
    for eager, replayed in zip(ends[0][:2], ends[1][:2], strict=True):
        assert all(torch.equal(value, replayed[name]) for name, value in eager.items())
    assert ends[0][2] == ends[1][2]
    assert torch.equal(ends[0][3], ends[1][3])  # as many random numbers were drawn


# what a wrong graph could have missed: the next batch, the loss of it, the weights' update, Adam's
# count, batch-norm's statistics, the place in the epoch
STEP_KERNELS = [
    "aten::index.Tensor",
    "aten::index_copy_",
    "aten::_fused_adam_.tensor_lr",
    "aten::_foreach_add_.Scalar",
    "aten::native_batch_norm",
    "aten::add_.Tensor",
]


@pytest.mark.parametrize("without", STEP_KERNELS)
def test_a_graph_that_is_not_the_step_is_found_and_not_used(without, graphs, monkeypatch):
    """It lacks a kernel; training goes on eagerly, says so, and ends as if there were no graph."""
    ends, told = [], []
    for wrong in (None, without):
        monkeypatch.setattr(graph, "capture", lambda work, _, wrong=wrong: Recorded(work, [wrong]))
        cohort = Cohort(small_net(), states(1), half_masks(1), CPU)
        stepper = Stepper(cohort, make_data(1), [CONFIG.replace(batch_size=10)])
        stepper.start(0, 0)
        cohort.model.train()
        told.append(calls(stepper.step, stepper.written(), graph.EAGER + 6))
        ends.append([tensor.clone() for tensor in stepper.written()])
    assert told[0] == [] and len(told[1]) == 1
    assert "without a CUDA graph" in told[1][0] and "tensors differ" in told[1][0]
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_what_python_counts_a_graph_does_not_and_that_is_found(graphs):
    total, numbers = torch.zeros(1), iter(range(100))
    told = calls(lambda: total.add_(next(numbers)), [total], graph.EAGER)
    assert total == sum(range(graph.EAGER)) and not told
    total.zero_()
    told = calls(lambda: total.add_(next(numbers)), [total], graph.EAGER + 1)
    assert len(told) == 1 and "1 of 1 tensors differ" in told[0]


def test_every_call_does_the_work_once(graphs):
    count, drawn = torch.zeros(1), torch.zeros(3)

    def work():
        count.add_(1)
        drawn.copy_(torch.rand(3))

    torch.manual_seed(0)
    eager = [torch.rand(3) for _ in range(graph.EAGER + 4)]
    torch.manual_seed(0)
    replay = graph.Replay(work, CPU, [count, drawn])
    for number, numbers in enumerate(eager):
        replay()
        assert count == number + 1 and torch.equal(drawn, numbers)


def test_the_recording_finds_a_step_that_binds_its_memory_anew_and_one_that_asks_the_host(graphs):
    count = torch.zeros(1)
    kept = {"total": torch.zeros(1)}

    def rebinds():
        kept["total"] = kept["total"] + 1

    calls(rebinds, [], graph.EAGER + 6)
    # what a graph would do with it: replays add to the value of the capture, again and again
    assert kept["total"].item() == graph.EAGER + 3
    told = calls(lambda: count.add_(1) if count.item() < 100 else None, [count], graph.EAGER + 3)
    assert count.item() == graph.EAGER + 3  # it went on without
    assert len(told) == 1 and "without a CUDA graph" in told[0]


def test_running_out_of_memory_in_a_capture_is_told_as_such(monkeypatch):
    monkeypatch.setattr(graph, "GRAPHS", {"cpu"})

    def capture(work, stream):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("the capture failed due to a previous error")

    monkeypatch.setattr(graph, "capture", capture)
    with pytest.raises(torch.OutOfMemoryError):
        calls(lambda: None, [], graph.EAGER + 1)


def test_rounding_is_no_difference_and_a_wrong_value_is():
    before, step = torch.rand(1000), 1e-3 * torch.randn(1000)
    eager, nan = before + step, torch.full((3,), torch.nan)

    def wrong(replayed, eager=eager, again=None, before=before):
        again = eager if again is None else again
        return graph.differing([replayed], [eager], [again], [before])

    assert not wrong(eager) and not wrong(eager * (1 + 1e-7)) and wrong(before)
    assert not wrong(nan, nan, nan, torch.zeros(3)) and wrong(torch.zeros(3), nan, nan, nan)
    assert wrong(nan, torch.zeros(3), torch.zeros(3), torch.ones(3))
    count = torch.tensor([7])
    assert wrong(count, count + 1, count + 1, count) and not wrong(count, count, count, count - 1)
    # a gradient of rounding noise, of which Adam makes a whole step: two eager steps differ as much
    noisy = [before + 1e-3 * torch.randn(1000).sign() for _ in range(3)]
    assert wrong(noisy[0], noisy[1]) and wrong(*noisy)  # nothing else could say that it's right
    lists = [[noise, *[values] * 2] for noise, values in zip(noisy, [eager] * 3, strict=True)]
    assert not graph.differing(*lists, [before] * 3)


class Told:
    """Stands for torch.cuda, and notes in which order it is asked for what."""

    def __init__(self):
        self.order, self.current, self.collecting = [], "default", []
        for name in ("device", "graph", "stream", "Stream", "current_stream", "CUDAGraph"):
            setattr(self, name, getattr(self, f"_{name}"))
        self.mode = 0

    @contextlib.contextmanager
    def _within(self, what):
        self.order.append(what)
        yield
        self.order.append(f"end of {what}")

    def _Stream(self, device):
        told = self

        class Stream:
            def __init__(self, name):
                self.name, self.device = name, device

            def wait_stream(self, other):
                told.order.append(f"{self.name} waits for {other.name}")

        self.main = Stream("main")
        return Stream("side")

    def _current_stream(self, device):
        return self.main

    def _stream(self, stream):
        return self._within(stream.name)

    def _device(self, device):
        return self._within(str(device))

    def _CUDAGraph(self):
        return "graph"

    def _graph(self, captured, stream, capture_error_mode):
        return self._within(f"capture on {stream.name}, {capture_error_mode}")

    def get_sync_debug_mode(self):
        return self.mode

    def set_sync_debug_mode(self, mode):
        self.mode = mode
        self.order.append(f"waiting: {mode}")


def test_cuda_is_asked_in_the_order_that_torchs_notes_ask_for(monkeypatch):
    """Warm-up and capture on one side stream of the device that was named, each waited for, no
    collection of garbage meanwhile.
    """
    told, device = Told(), torch.device("cuda", 1)
    monkeypatch.setattr(torch, "cuda", told)
    replay = graph.Replay(lambda: told.order.append("work"), device, [])
    replay()
    aside = ["side waits for main", "side", "work", "end of side", "main waits for side"]
    assert told.order == aside
    told.order.clear()
    replay._watched()
    assert told.order == ["waiting: error", *aside, "waiting: 0"]
    told.order.clear()
    graph.capture(lambda: told.order.append(f"collects: {gc.isenabled()}"), replay.stream)
    around = ["cuda:1", "capture on side, global"]
    ends = [f"end of {what}" for what in reversed(around)]
    assert told.order == [*around, "collects: False", *ends] and gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        graph.capture(lambda: 1 / 0, replay.stream)
    assert gc.isenabled()
    assert graph.Replay(lambda: None, device, []).stream is not replay.stream


# On a GPU --------------------------------------------------------------------------------------


@on_a_gpu
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_graph_eager_and_cpu_agree(case, runs, monkeypatch):
    if CASES[case].get("precision") == "bf16" and runs > 1:
        pytest.skip("runs in bf16 train alone, and torch 2.11 cannot vmap their batch-norm")
    config = CONFIG.replace(**({"end_iter": 3, "optimizer": "sgd"} | CASES[case]))
    pick_device("cuda", None)  # which lets fp32 be fp32
    ends = []
    for device, devices in (("cpu", set()), ("cuda", set()), ("cuda", {"cuda"})):
        monkeypatch.setattr(graph, "GRAPHS", devices)
        data = make_data(runs)
        data = Data(
            *(
                getattr(data, name).to(device)
                for name in ("images", "labels", "train_index", "val_index")
            )
        )
        cohort = Cohort(
            small_net(), states(runs), half_masks(runs), torch.device(device), config.precision
        )
        with warnings.catch_warnings(action="error"):  # a capture that failed
            train.fit(cohort, data, ordered(config, *range(runs)), 0)
        ends.append({name: value.cpu().float() for name, value in cohort.state().items()})
    for name, value in ends[2].items():
        assert torch.allclose(value, ends[1][name], atol=1e-4), name
        atol = 2e-2 if config.precision == "bf16" else 2e-3
        # a CPU draws other random numbers
        assert case == "random" or torch.allclose(value, ends[0][name], atol=atol), name


def product(device, size=1024):
    """A function that multiplies matrices in place, for which cuBLAS wants memory to work in, and
    the tensor it writes.
    """
    factor = torch.eye(size, device=device).roll(1, 0)
    total = torch.rand(size, size, device=device)
    return lambda: total.copy_(factor @ total), total


@on_a_gpu
def test_fp32_is_fp32_and_tf32_is_asked_for():
    """Defect: torch's convolutions round to tf32 by default, so fp32 nets trained in tf32."""
    device, errors = pick_device("cuda", None), {}
    # of three channels cuDNN computes in fp32 whatever it may
    images = torch.rand(64, 64, 16, 16, generator=torch.Generator().manual_seed(0))
    layer = torch.nn.Conv2d(64, 64, 3).requires_grad_(False)
    exact = layer.double()(images.double())
    layer, images = layer.float().to(device), images.to(device)
    for precision in ("fp32", "tf32", "fp32"):
        with products(precision, device):
            errors[precision] = float((layer(images).cpu() - exact).norm() / exact.norm())
    assert errors["fp32"] < 1e-6 < 1e-5 < errors["tf32"] < 1e-2


@on_a_gpu
def test_convolutions_on_a_gpu_repeat_bit_for_bit():
    """Defect: cuDNN's fastest gradients add in no fixed order, so a seed had two dense nets."""
    device, found = pick_device("cuda", None), []
    images = torch.rand(60, 16, 28, 28, generator=torch.Generator().manual_seed(0)).to(device)
    layer = torch.nn.Conv2d(16, 32, 3, padding=1).to(device)
    for _ in range(20):
        layer.zero_grad()
        layer(images).square().sum().backward()
        found.append(layer.weight.grad.clone())
    assert all(torch.equal(found[0], again) for again in found)


@on_a_gpu
def test_random_numbers_in_a_graph_are_those_of_eager_calls():
    """Defect of torch: replays kept the seed of the capture, or repeated its numbers."""
    device = torch.device("cuda")
    drawn, dropped = torch.zeros(5, device=device), torch.zeros(100, device=device)
    ones = torch.ones(100, device=device)

    def work():
        drawn.copy_(torch.rand(5, device=device))
        dropped.copy_(torch.nn.functional.dropout(ones))

    replay, seen = graph.Replay(work, device, [drawn, dropped]), []
    for call in (work, replay):
        for seed in range(2):  # an epoch each; the second is gone on with in its middle
            torch.manual_seed(seed)
            for number in range(graph.EAGER + 4):
                if seed and number == 3:
                    state = torch.cuda.get_rng_state()
                    call()
                    torch.cuda.set_rng_state(state)
                call()
                seen.append(torch.cat([drawn, dropped]).cpu())
    assert replay.graph
    half = len(seen) // 2
    assert all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))
    assert len({tuple(values.tolist()) for values in seen}) == half


@on_a_gpu
def test_a_graph_survives_the_end_of_another():
    """Defect of torch: it freed the memory in which cuBLAS works for all graphs of one stream."""
    device = torch.device("cuda")
    work, total = product(device)
    kept, start = graph.Replay(work, device, [total]), total.clone()
    for _ in range(graph.EAGER + 1):
        kept()
    for _ in range(40):  # more than torch has streams
        work, total_of_another = product(device)
        other = graph.Replay(work, device, [total_of_another])
        for _ in range(graph.EAGER + 1):
            other()
        assert other.graph
        del other
    torch.cuda.empty_cache()
    filled = [torch.full((2**20,), torch.nan, device=device) for _ in range(64)]
    for _ in range(5):
        kept()
    assert kept.graph and len(filled) == 64
    assert torch.equal(total, start.roll(graph.EAGER + 6, 0))


@on_a_gpu
def test_garbage_in_a_capture_does_not_break_it():
    """Defect of torch: a dead graph that Python collected meanwhile ended the capture."""
    device, told = torch.device("cuda"), []
    for number in range(3):
        total = torch.zeros(1, device=device)

        def work(total=total):
            total.add_(1)
            [[] for _ in range(10_000)]  # would start a collection
            return total

        replay = graph.Replay(work, device, [total])
        replay.itself = replay  # a cycle, which only a collection frees
        for _ in range(graph.EAGER + 2):
            replay()
        told.append(bool(replay.graph))
        assert total == graph.EAGER + 2, number
    assert all(told)


@on_a_gpu
@pytest.mark.parametrize("watched", [True, False])
def test_a_capture_that_fails_leaves_no_memory_behind(watched, monkeypatch):
    """Where the host waits is found before; so only another failure could, before torch 2.14."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if not watched:
        if version < (2, 14):
            pytest.skip(f"torch {torch.__version__} keeps the memory of a capture that failed")
        monkeypatch.setattr(graph, "no_waiting", lambda device: contextlib.nullcontext())
    device = torch.device("cuda")
    total = torch.zeros(2**20, device=device)

    def asks():
        total.add_(torch.ones_like(total))
        return total.sum().item()

    calls(asks, [total], graph.EAGER, device)
    torch.cuda.empty_cache()
    reserved = torch.cuda.memory_reserved()
    told = calls(asks, [total], graph.EAGER + 2, device)
    gc.collect()
    torch.cuda.empty_cache()
    assert len(told) == 1 and (total == 2 * graph.EAGER + 2).all()
    # a failed capture's memory would be 4 MiB and more; a small tensor's own segment is 2
    assert torch.cuda.memory_reserved() <= reserved + 2**21
    work, other = product(device)
    assert not calls(work, [other], graph.EAGER + 3, device)  # and the next one works


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees no second CUDA device")
def test_a_graph_on_the_second_gpu_whichever_is_the_current_one():
    """Defect of torch: a capture on cuda:1 failed while cuda:0 was the current device."""
    device = torch.device("cuda", 1)
    for current in (0, 1):
        with torch.cuda.device(current):
            work, total = product(device)
            start = total.clone()
            assert not calls(work, [total], graph.EAGER + 3, device)
            assert torch.equal(total, start.roll(graph.EAGER + 3, 0))
