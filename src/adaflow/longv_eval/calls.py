"""UNet rows and floating-point operations, counted while the work is done.

Counting takes Python's time on every operation, which small tensors feel: 70 % more on an edit of 48 frames by the
miniature with torch's own counter. So a call of the UNet, the autoencoder or the text encoder is counted when its kind
is met for the first time, and looked up after that; where rows of a batch do not see each other, the kind is that of a
row. Outside of them (matching, the choice of kept tokens) only products are counted, as they are called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count
from typing_extensions import Self

from ..attention import KeyAttention
from ..backbone import Backbone, StopForward
from ..propagation import OwnAttention, PropagatedAttention

PLAIN_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0")
"""diffusers' own attention: its operations follow from the shape of the batch alone."""


class FlopCounter(TorchDispatchMode):
    """Counts the operations of all that runs within it and has a formula: products, convolutions, attention.

    Two per multiply-add, and nothing for element-wise work, as torch's `FlopCounterMode` does, whose numbers these are;
    that one also keeps books for every module, which costs more than the counting.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self._plain: set[Any] = set()  # operations with neither a formula nor smaller parts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._plain:
            return func(*args, **kwargs)
        formula = _formula(func)
        if formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)  # in inference mode composite operations come whole
            if parts is not NotImplemented:
                return parts
            self._plain.add(func)
        out = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


def _formula(func: Any) -> Callable[..., int] | None:
    if func._overloadpacket is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
        return _cpu_attention
    return flop_registry.get(func._overloadpacket)


def _cpu_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Attention ``[b, heads, tokens, d]`` by torch's kernel for CPUs, which its registry of formulas does not know."""
    return sdpa_flop_count(query.shape, key.shape, value.shape)


class ProductCounter(TorchFunctionMode):
    """Counts the operations of matrix products called from Python within it; a tenth of `FlopCounter`'s time."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs) if kwargs else func(*args)
        if func in PRODUCTS:
            self.flops += 2 * out.numel() * args[0].shape[-1]
        return out


PRODUCTS = frozenset(
    [torch.matmul, torch.mm, torch.bmm] + [getattr(Tensor, name) for name in ("matmul", "mm", "bmm", "__matmul__")]
)


class CallCounter:
    """Adds up UNet rows and operations while the ``with`` lasts.

    Args:
        backbone: The model whose calls are counted; it is given back without hooks.
        known: Operations by kind of call, as far as met; added to.
    """

    def __init__(self, backbone: Backbone, known: dict[Hashable, Fraction]) -> None:
        vae = backbone.vae
        watched = {"unet": backbone.unet, "finest": backbone.finest, "text": backbone.pipe.text_encoder}
        watched |= {f"vae.{name}": getattr(vae, name, None) for name in ("encoder", "quant_conv", "post_quant_conv")}
        watched["vae.decoder"] = vae.decoder
        self.unet_rows = 0
        self._watched: dict[str, nn.Module] = {name: module for name, module in watched.items() if module is not None}
        self._known = known
        self._products, self._counting = ProductCounter(), False
        self._looked_up = Fraction(0)
        # of a call that is being counted: its kind, and how often that is done in it
        self._first: tuple[Hashable | None, int, FlopCounter] | None = None
        self._hooks = ExitStack()

    @property
    def flops(self) -> int:
        """Operations so far."""
        return int(self._looked_up) + self._products.flops

    def __enter__(self) -> Self:
        for name, module in self._watched.items():
            before = module.register_forward_pre_hook(self._before(name, module), with_kwargs=True)
            after = module.register_forward_hook(self._after, always_call=True)  # also of a call that is ended early
            self._hooks.callback(before.remove)
            self._hooks.callback(after.remove)
        self._count_products(True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(broken=True)  # a call that was broken off may have left a counter
        self._count_products(False)
        self._hooks.close()

    def _before(self, name: str, module: nn.Module) -> Callable[..., None]:
        parts = [(path, part) for path, part in module.named_modules() if part is not module]
        attention = [part for _, part in parts if hasattr(part, "processor")]

        def hook(_module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
            if name in ("unet", "finest"):
                self.unet_rows += args[0].shape[0]
            hooks = tuple(
                (path, hook)
                for path, part in parts
                for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values())
            )
            shapes = [tuple(x.shape) for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            kind, times = kind_of_call(name, shapes, [part.processor for part in attention], hooks)
            self._count_products(False)
            if kind is not None and kind in self._known:
                self._looked_up += self._known[kind] * times
            else:
                self._first = kind, times, FlopCounter()
                self._first[2].__enter__()

        return hook

    def _after(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        error = sys.exc_info()[1]
        self._finish(broken=error is not None and not isinstance(error, StopForward))
        self._count_products(True)

    def _finish(self, broken: bool) -> None:
        """Learn from the call that is being counted, if one is; not where it broke off by mistake."""
        if self._first is None:
            return
        kind, times, counter = self._first
        self._first = None
        counter.__exit__(None, None, None)
        self._looked_up += counter.flops
        if kind is not None and not broken:
            self._known[kind] = Fraction(counter.flops, times)

    def _count_products(self, on: bool) -> None:
        if on and not self._counting:
            self._products.__enter__()
        elif self._counting and not on:
            self._products.__exit__(None, None, None)
        self._counting = on


def kind_of_call(
    name: str, shapes: Sequence[tuple[int, ...]], processors: Sequence[Any], hooks: Sequence[tuple[str, Any]]
) -> tuple[Hashable | None, int]:
    """A key that is equal for calls of equally many operations, None if that is not known; and how often it is done.

    Where rows of a batch do not see each other, the kind is that of one row.

    Args:
        name: Of the module.
        shapes: Of the tensors it is given.
        processors: What each of its attention layers will do.
        hooks: The forward hooks in place, with the paths of their modules: a hook may end the call.
    """
    attention = tuple(map(_attention, processors))
    if None in attention:
        return None, 1
    rows, ends = shapes[0][0], tuple((path, getattr(hook, "__qualname__", repr(hook))) for path, hook in hooks)
    by_row = all(shape[:1] in ((), (rows,)) for shape in shapes)
    if by_row and not any(does and does[0] == "joint" for does in attention):
        return (name, tuple(shape[1:] for shape in shapes), attention, ends), rows
    return (name, tuple(shapes), attention, ends), 1


def _attention(processor: Any) -> tuple[Hashable, ...] | None:
    """What besides the shape of the batch decides about an attention layer's operations."""
    if isinstance(processor, KeyAttention):
        this = processor.key_pass
        does = tuple(this.branches), processor.site.name in this.injected
        if not this.extended or this.keys == 1:
            return "alone", *does
        kept = this.kept.get(processor.site.level)
        return "joint", *does, this.keys, None if kept is None else tuple(kept.shape)
    if isinstance(processor, PropagatedAttention):
        return ("propagated",)
    if isinstance(processor, OwnAttention):
        return ("own",)
    name = type(processor).__name__
    return (name,) if name in PLAIN_PROCESSORS else None
