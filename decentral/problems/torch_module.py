"""A PyTorch module of one's own: φ_h(x) = loss(module(a_h), b_h), x = its trainable parameters, flattened and in their order.

    [problem]
    name  = "torch"
    model = "my_model.py:net"      # or "package.module:net"; called net(features, outputs, **params), gives a torch.nn.Module
    loss  = "cross-entropy"        # or "mse", or a function of one's own: (outputs, targets) -> their mean over samples

`outputs` is the number of classes, or 1 for "mse" and for regression targets. The module gets rows a_h (samples, features)
in the type of the run; targets are classes 0..C−1 for "cross-entropy" and for a loss of one's own on classes, else numbers.

Rows of decentral are tensors in the same memory (`tensor_of`, `array_of`): nothing is copied on the way in or out. All own
agents with equally many samples are one call, by vmap over their rows; a module that vmap cannot take is called agent by
agent. The products are those of other libraries, so layouts agree to rounding: 1e-12 of a gradient with float64.

This module alone imports torch (and the bench that compares with it), where a problem is built.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from decentral import kernels
from decentral.errors import ConfigError, ProblemError, nearest
from decentral.problems.base import Problem, samples_of
from decentral.state import Agents, Array, Samples

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from decentral.device import Device
    from decentral.experiment import TorchLoss

SAMPLES = 1 << 14
"""Samples of a full gradient whose activations are held at once."""
LARGE = 1 << 20
"""Entries of own rows from which on torch uses the threads of the rank, which cost small tensors more than they save."""
CHUNK = 1 << 24
"""Numbers in a part of the gradients of single samples that are made at once."""
TABLE = 2 << 30
"""Bytes of a table of past gradients that is still made."""


def import_torch() -> Any:
    """The package. Raises ConfigError where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise ConfigError(f'problem "torch" needs PyTorch, which is not installed ({error}): pip install "decentral[torch]"') from None
    return torch


def tensor_of(a: Array) -> Tensor:
    """The tensor in the memory of an array of the CPU, or of a device by DLPack."""
    torch = import_torch()
    return torch.from_numpy(a) if isinstance(a, np.ndarray) else torch.from_dlpack(a)


@dataclass(eq=False)
class TorchModule(Problem):
    """Samples X (S, p) and targets y (S,) of the own agents, concatenated; `ptr` (n + 1,) bounds each agent's.

    module : its forward must be a function of its parameters and rows;  loss : (outputs, targets) -> mean over samples
    classes : where the targets are classes, how many;  coefficients are whole gradients: (S, d)
    Raises ProblemError for an agent without samples, and for a module or loss that is no mean of losses of samples.
    """

    X: Array
    y: Samples
    ptr: Array
    module: torch.nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    l2: float = 0.0
    classes: int = 0
    name: ClassVar[str] = "torch"
    convex: ClassVar[bool] = False
    arrays: ClassVar[tuple[str, ...]] = ("X", "y")
    small_coefficients: ClassVar[bool] = False
    n: int = field(init=False)
    d: int = field(init=False)
    sizes: Array = field(init=False)

    def __post_init__(self) -> None:
        torch = import_torch()
        self.sizes, self.n = np.diff(self.ptr), len(self.ptr) - 1
        if (self.sizes == 0).any():
            raise ProblemError(f"own agent {int(np.argmin(self.sizes))} has no samples: use fewer agents or another split")
        self.X, self.y = (np.require(a, requirements=["C", "W"]) for a in (self.X, self.y))  # of what is read only, torch warns
        self.module = self.module.to(tensor_of(self.X).dtype)
        trainable = {name: p.detach() for name, p in self.module.named_parameters() if p.requires_grad}
        if not trainable:
            raise ProblemError("the module has no trainable parameters (requires_grad): there is nothing to learn")
        self._shapes = {name: p.shape for name, p in trainable.items()}
        self._lengths = [p.numel() for p in trainable.values()]
        self.d = sum(self._lengths)
        torch.set_num_threads(kernels.threads if self.n * self.d >= LARGE else 1)
        self.start: Array = torch.cat([p.reshape(-1) for p in trainable.values()]).numpy()
        self._at_once = True
        self._groups = list(self._equal_sizes())
        self._tensors()
        self._check(torch)

    def _tensors(self) -> None:
        self._X, self._y = tensor_of(self.X), tensor_of(self.y)

    def to_device(self, device: Device) -> TorchModule:
        there: TorchModule = super().to_device(device)
        there._tensors()
        there.module = deepcopy(self.module).to(there._X.device)
        return there

    def array_of(self, t: Tensor) -> Array:
        """The array in the memory of a tensor, where the samples lie."""
        if self.device is None:
            return t.numpy()  # type: ignore[no-any-return]
        from decentral.kernels import gpu

        return gpu.cupy().from_dlpack(t)  # type: ignore[no-any-return]

    def _equal_sizes(self) -> Any:
        """(agents, samples, size): slices of neighboring rows with equally many samples, as many as may be done at once."""
        first = 0
        while first < self.n:
            size, last = int(self.sizes[first]), first + 1
            while last < self.n and self.sizes[last] == size and (last + 1 - first) * size <= SAMPLES:
                last += 1
            yield slice(first, last), slice(int(self.ptr[first]), int(self.ptr[last])), size
            first = last

    # --- losses and their gradients, as tensors ---

    def _mean_loss(self, row: Tensor, X: Tensor, y: Tensor) -> Tensor:
        """() mean loss of the module with parameters row (d,) on X (B, p), y (B,)."""
        return self.loss(self._outputs(row, X), y)

    def _outputs(self, row: Tensor, X: Tensor) -> Tensor:
        from torch.func import functional_call

        parts = zip(self._shapes.items(), row.split(self._lengths), strict=True)
        outputs: Tensor = functional_call(self.module, {name: part.view(shape) for (name, shape), part in parts}, (X,))
        return outputs

    def _slopes(self, rows: Tensor, X: Tensor, y: Tensor) -> Tensor:
        """(r, d) gradients of the mean losses of rows (r, d), each on its own X (r, B, p), y (r, B)."""
        import torch

        rows = rows.detach().requires_grad_()  # in the same memory
        # autograd outside of vmap: faster than vmap over torch.func.grad, and loaded a second sooner
        if self._at_once:  # also one agent, which is faster without, but then has the bits that it has among others
            losses = torch.func.vmap(self._mean_loss)(rows, X, y)
        else:
            losses = torch.stack([self._mean_loss(*each) for each in zip(rows, X, y, strict=True)])
        return torch.autograd.grad(losses.sum(), rows)[0]

    def _full(self, rows: Tensor) -> Tensor:
        """(n, d) gradients over all samples."""
        import torch

        out = torch.zeros_like(rows) if len(self._groups) > 1 or self._groups[0][2] > SAMPLES else None
        for agents, samples, size in self._groups:
            X, y = self._X[samples].view(-1, size, self._X.shape[1]), self._y[samples].view(-1, size)
            for a in range(0, size, SAMPLES):
                part = slice(a, min(a + SAMPLES, size))
                slopes = self._slopes(rows[agents], X[:, part], y[:, part])
                if out is None:
                    return slopes
                out[agents].add_(slopes, alpha=(part.stop - a) / size)
        assert out is not None
        return out

    # --- as every problem ---

    def coefficients(self, x: Agents, index: Array | None = None) -> Array:
        import torch

        rows = tensor_of(x)
        agent = torch.arange(self.n, device=rows.device)
        if index is None:
            self.refuse_table()
            agent = agent.repeat_interleave(torch.from_numpy(self.sizes).to(rows.device))
            sample = torch.arange(len(agent), device=rows.device)
        else:
            agent = agent.repeat_interleave(index.shape[1])
            sample = tensor_of(samples_of(self.ptr, index)).view(-1)
        out = torch.empty((len(agent), self.d), dtype=rows.dtype, device=rows.device)
        step = max(1, CHUNK // self.d)
        for a in range(0, len(agent), step):  # each sample as an agent that has no other
            few = sample[a : a + step]
            out[a : a + step] = self._slopes(rows[agent[a : a + step]], self._X[few, None], self._y[few, None])
        return self.array_of(out if index is None else out.view(*index.shape, self.d))

    def refuse_table(self) -> None:
        held = len(self.X) * self.d * self.X.dtype.itemsize
        if held > TABLE:
            raise ProblemError(
                f"a table of past gradients would hold {len(self.X):,} of {self.d:,} numbers here, {held / 2**30:,.1f} GiB: "
                'use estimator "svrg", "l-svrg" or "sgd", which keep none'
            )

    def combine(self, coefficients: Array, index: Array | None = None) -> Agents:
        if index is not None:
            return coefficients.sum(axis=1)
        out = self.empty((self.n, self.d), coefficients.dtype)
        for row, samples in enumerate(self.slices()):
            out[row] = coefficients[samples].sum(axis=0)
        return out

    def estimate(
        self, x: Agents, index: Array | None = None, table: Array | None = None, mean: Agents | None = None, renew: bool = False
    ) -> Agents:
        if table is not None:
            return super().estimate(x, index, table, mean, renew)
        rows = tensor_of(x)
        if index is None:
            g = self.array_of(self._full(rows))
        else:
            at = tensor_of(samples_of(self.ptr, self.give(index)))
            g = self.array_of(self._slopes(rows, self._X[at], self._y[at]))
        if mean is not None:
            g += mean
        if self.l2:
            g += self.l2 * x
        return g

    def regularizer(self, x: Agents) -> Agents | float:
        return self.l2 * x if self.l2 else 0.0

    def _total(self, row: Tensor) -> Any:
        """Parts of Σ over own agents of the mean loss at one point (d,)."""
        for _, samples, size in self._groups:
            for a in range(samples.start, samples.stop, SAMPLES):
                part = slice(a, min(a + SAMPLES, samples.stop))
                yield self._mean_loss(row, self._X[part], self._y[part]) * ((part.stop - a) / size)

    def evaluate(self, points: Array) -> tuple[Array, Array]:
        import torch

        losses = 0.5 * self.n * self.l2 * np.einsum("kd,kd->k", points, points)
        gradients = self.n * self.l2 * points
        for k, point in enumerate(points):
            row = tensor_of(point.astype(self.X.dtype)).requires_grad_()
            for part in self._total(row):
                gradients[k] += torch.autograd.grad(part, row)[0].numpy()
                losses[k] += part.item()
        return losses, gradients

    def error_rate(self, points: Array) -> Array:
        import torch

        wrong, weights = np.empty((len(points), len(self.y))), np.repeat(1.0 / self.sizes, self.sizes)
        with torch.no_grad():
            for k, point in enumerate(points):
                row = tensor_of(point.astype(self.X.dtype))
                for a in range(0, len(self.y), SAMPLES):
                    part = slice(a, a + SAMPLES)
                    wrong[k, part] = (self._outputs(row, self._X[part]).argmax(dim=1) != self._y[part]).numpy()
        return wrong @ weights

    def hessian(self, point: Array) -> Array:
        import torch

        at = tensor_of(point.astype(self.X.dtype))
        H: Array = torch.autograd.functional.hessian(lambda row: sum(self._total(row)), at).numpy()
        return H + self.n * self.l2 * np.eye(self.d, dtype=H.dtype)

    def constants(self) -> tuple[Array, Array, Array]:
        """NaN: the curvature of a network has no bound that would make a useful step."""
        unknown = np.full(self.n, np.nan)
        return unknown, unknown, unknown

    # --- what a module must be ---

    def _check(self, torch: Any) -> None:
        """Try module and loss on a few samples: no state, no draws, a mean over samples. Find out whether vmap can take it."""
        for name, part in self.module.named_modules():
            refuse_by_kind(torch, name, part)
        row, X, y = tensor_of(self.start).clone().requires_grad_(), self._X[:3], self._y[:3]
        before = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        try:
            outputs = self._outputs(row, X)
            loss, again, single = (self._mean_loss(row, X, y), self._mean_loss(row, X, y),
                                   [self._mean_loss(row, X[i : i + 1], y[i : i + 1]) for i in range(len(y))])  # fmt: skip
            shape = tuple(outputs.shape)
        except Exception as error:  # of whatever kind someone else's code raises
            raise ProblemError(f"the module or its loss fails on rows {tuple(X.shape)}: {in_words(error)}") from error
        if self.classes and shape != (len(y), self.classes):
            if self.loss is cross_entropy:
                need = f"{self.classes} classes need ({len(y)}, {self.classes})"
                raise ProblemError(f"the module makes outputs {shape} of {len(y)} rows; {need}")
            self.classes = 0  # which class is meant is not known
        if loss.ndim or not loss.requires_grad:
            what = f"has shape {tuple(loss.shape)}" if loss.ndim else "does not depend on the parameters"
            raise ProblemError(f"the loss {what}: give the mean over samples, a number, without detach() or no_grad()")
        if changed := [name for name, buffer in self.module.named_buffers() if not torch.equal(buffer, before[name])]:
            raise ProblemError(f'the module changes its buffer "{changed[0]}": use GroupNorm or LayerNorm, which keep no statistics')
        if not (torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, row)[0]).all()):
            raise ProblemError("the loss or its gradient is not finite at the start: look at the initialization and the scale of the data")
        if again.item() != loss.item():
            raise ProblemError("the module gives another loss the second time: leave out what draws random numbers (dropout, noise)")
        mean = sum(s.item() for s in single) / len(y)
        if not abs(mean - loss.item()) <= 1e-4 * max(abs(mean), abs(loss.item()), 1e-30):
            raise ProblemError(
                f"the loss of {len(y)} samples is {loss.item():.6g}, the mean of theirs {mean:.6g}: give a mean over samples, of outputs "
                "that do not depend on the other samples"
            )
        try:
            with warnings.catch_warnings(action="error"):  # vmap warns where it loops inside
                self._slopes(row.detach().expand(2, -1), X.expand(2, *X.shape), y.expand(2, *y.shape))
        except (RuntimeError, ValueError, UserWarning):
            self._at_once = False


def refuse_by_kind(torch: Any, name: str, part: torch.nn.Module) -> None:
    """Raise ProblemError for a layer that is known to keep statistics of batches, or to draw."""
    kind = type(part).__name__
    if not part.training:
        return
    if isinstance(part, torch.nn.modules.batchnorm._NormBase) and (part.track_running_stats or "Batch" in kind):
        raise ProblemError(
            f'layer "{name}" is {kind}, whose statistics of batches are no parameters and would not be exchanged: use GroupNorm or '
            "LayerNorm (or .eval(), which keeps them as they are)"
        )
    if getattr(part, "p", 0) and isinstance(part, torch.nn.modules.dropout._DropoutNd):
        raise ProblemError(
            f'layer "{name}" is {kind}, which draws numbers that depend on the order of calls: leave it out, or set p = 0; problem.l2 '
            "regularizes"
        )


# --- from a configuration ---


def build(table: TorchLoss, X: Array, y: Array, ptr: Array, classes: int, seed: int) -> TorchModule:
    """The problem of a [problem] table. y as a `Dataset` has it: ±1 for two classes, 0..C−1 for more, numbers for regression.

    The module is made, and so initialized, with torch's generator at `seed`: the same on all ranks.
    Raises ConfigError for what is not there, ProblemError for a module that cannot be trained here.
    """
    torch = import_torch()
    if table.loss == "mse":
        if classes > 2:
            raise ConfigError(f'problem.loss = "mse" needs regression targets or two classes, the data has {classes}: use "cross-entropy"')
        loss, classes = mse, 0
    elif table.loss == "cross-entropy":
        if not classes:
            raise ConfigError('problem.loss = "cross-entropy" needs classes, the data has regression targets: use "mse"')
        loss = cross_entropy
    else:
        loss = named(table.loss, "loss")
    make = named(table.model, "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed & 0xFFFFFFFFFFFFFFFF)
        try:
            module = make(X.shape[1], classes or 1, **table.params)
        except Exception as error:  # of whatever kind someone else's function raises
            raise ConfigError(f'problem.model = "{table.model}" failed: {in_words(error)}') from error
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f'problem.model = "{table.model}" returned {type(module).__name__}: return a torch.nn.Module')
    targets = y.astype(X.dtype) if not classes else (y > 0 if classes == 2 else y).astype(np.int64)
    return TorchModule(X, targets, ptr, module, loss, table.l2, classes)


LOSSES = ("cross-entropy", "mse")


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """−log softmax(outputs)[target], mean over samples; outputs (B, classes), targets (B,) int64."""
    return (outputs.logsumexp(dim=1) - outputs.gather(1, targets[:, None])[:, 0]).mean()  # torch's own is slower under vmap


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """(output − target)², mean over samples; outputs (B,) or (B, 1), targets (B,)."""
    return (outputs.reshape(targets.shape) - targets).square().mean()


def named(name: str, key: str) -> Callable[..., Any]:
    """The function of "package.module:function" or "path/to/file.py:function". ConfigError where it is not there."""
    module, colon, attribute = name.rpartition(":")
    what = f'problem.{key} = "{name}"'
    if not colon:
        known = f"{', '.join(LOSSES)}, " if key == "loss" else ""
        raise ConfigError(f'{what}: give {known}"file.py:function" or "package.module:function"{nearest(name, LOSSES)}')
    from decentral.parameters import own_module

    found = own_module(module, what)
    function = getattr(found, attribute, None)
    if not callable(function):
        raise ConfigError(f'{what}: {module} has no function "{attribute}"{nearest(attribute, dir(found))}')
    return function  # type: ignore[no-any-return]


def in_words(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
