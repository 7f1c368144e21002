"""The attentions of a PyTorch vision transformer, and the score of the output tokens of each block."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fe_gradcam.backends.interrupts import HeldBack, LetThrough
from fe_gradcam.backends.pytorch.recorder import with_first
from fe_gradcam.backends.pytorch.state import Replaced


class AttentionMode(TorchFunctionMode):
    """A function mode that passes on each attention as it is computed, fused or not.

    `found` gets the attention after its softmax, (N, heads, T, T) or (N * heads, T, T), and returns the tensor that the
    model continues with.
    """

    def __init__(self, found: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._attended(*args, **kwargs)
        if name == "multi_head_attention_forward":  # modes do not see what it calls
            with HeldBack(), self._in_parts(), LetThrough():
                return func(*args, **kwargs)
        out = func(*args, **kwargs)
        return self._of_softmax(out) if name in ("softmax", "special_softmax") else out

    @contextmanager
    def _in_parts(self) -> Iterator[None]:
        """While active, the functions that this thread computes attentions with are those of this mode."""
        thread = get_ident()
        before, _MODE_OF[thread] = _MODE_OF.get(thread), self
        try:
            with IN_PARTS:
                yield
        finally:
            if before is None:
                del _MODE_OF[thread]
            else:
                _MODE_OF[thread] = before

    def _softmax(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._of_softmax(torch.softmax(*args, **{key: kwargs[key] for key in kwargs if key != "_stacklevel"}))

    def _of_softmax(self, out: Tensor) -> Tensor:
        square = out.dim() in (3, 4) and out.shape[-1] == out.shape[-2] > 1
        return self._found(out) if square else out

    def _attended(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """The fused attention of torch, computed in its parts; without dropout, as in inference."""
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        similar = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(similar.shape[-2:], dtype=torch.bool, device=similar.device).tril()
        if attn_mask is not None:
            lets_through = attn_mask.dtype == torch.bool
            similar = similar.masked_fill(~attn_mask, -math.inf) if lets_through else similar + attn_mask
        return self._of_softmax(similar.softmax(-1)) @ value


_MODE_OF: dict[int, AttentionMode] = {}
"""By thread, the mode whose functions it calls in place of those of torch."""

IN_PARTS = Replaced(
    (F, "scaled_dot_product_attention", lambda *args, **kwargs: _MODE_OF[get_ident()]._attended(*args, **kwargs)),
    (F, "softmax", lambda *args, **kwargs: _MODE_OF[get_ident()]._softmax(*args, **kwargs)),
)
"""The functions that a mode does not see, as one calls them that is written in Python."""


class BlockLister:
    """Finds the blocks: the outermost modules that hold one attention and return tokens of the shape they got."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.tokens: list[int] = []
        """The number of tokens of each attention."""
        self._active: list[nn.Module] = []
        self._around: list[list[nn.Module]] = []
        self._calls: Counter[nn.Module] = Counter()
        self._keeps: dict[nn.Module, int] = {}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Active, with hooks on every module."""
        with ExitStack() as stack:
            for module in model.modules():
                before = module.register_forward_pre_hook(self._on_input, with_kwargs=True)
                behind = module.register_forward_hook(self._on_output, with_kwargs=True)
                stack.callback(before.remove)
                stack.callback(behind.remove)
            stack.enter_context(AttentionMode(self._on_attention))
            yield

    @property
    def blocks(self) -> list[nn.Module] | None:
        """The blocks in their order; None if an attention lies in no such module, or a module is called twice."""
        held = Counter(module for modules in self._around for module in modules)
        found = []
        for modules, tokens in zip(self._around, self.tokens, strict=True):
            of_one = [one for one in modules if held[one] == 1 and self._calls[one] == 1]
            fitting = [one for one in of_one if self._keeps.get(one) == tokens]  # not over windows of tokens
            if not fitting:
                return None
            found.append(fitting[0])
        return found or None

    def _on_attention(self, attention: Tensor) -> Tensor:
        self._around.append(list(self._active))
        self.tokens.append(int(attention.shape[-1]))
        return attention

    def _on_input(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._active.append(module)
        self._calls[module] += 1

    def _on_output(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._active.pop()
        given, first = _first(args, kwargs), _first_of(output)
        kept = isinstance(first, Tensor) and given is not None and first.shape == given.shape and first.dim() == 3
        if kept and len(first) == self._count:
            self._keeps[module] = first.shape[1]


@contextmanager
def ending_behind(blocks: Sequence[nn.Module], last: int, taken: list[Tensor], *, mean_token: bool) -> Iterator[None]:
    """While active, autograd begins at the attention of block `last`, and the blocks behind it return their inputs.

    That attention is added to `taken`. With `mean_token` that block returns the mean of its tokens in place of each.
    """
    inside: list[bool] = []

    def on_attention(attention: Tensor) -> Tensor:
        if not inside:
            return attention
        taken.append(attention.detach().requires_grad_(True))
        torch.set_grad_enabled(True)
        return taken[-1].clone()

    def end(module: nn.Module, args: Any, output: Any) -> Any:
        inside.clear()
        return _with_first(output, _mean_of(_first_of(output))) if mean_token else None

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        return _with_first(output, _first(args, kwargs))

    with ExitStack() as stack:
        block = blocks[last]
        stack.callback(block.register_forward_pre_hook(lambda *_: inside.append(True)).remove)
        stack.callback(block.register_forward_hook(end).remove)
        for later in blocks[last + 1 :]:
            stack.callback(later.register_forward_hook(leave, with_kwargs=True).remove)
        stack.enter_context(AttentionMode(on_attention))
        yield


def _first_of(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) and output else output


def _with_first(output: Any, tokens: Tensor | None) -> Any:
    """The output of a block with other tokens."""
    return with_first(output, tokens) if isinstance(output, tuple) and tokens is not None else tokens


def _mean_of(tokens: Tensor) -> Tensor:
    """The mean of the tokens (N, T, K), in the place of each of them."""
    return tokens.mean(1, keepdim=True).repeat(1, tokens.shape[1], 1)


def _first(args: Any, kwargs: Any) -> Tensor | None:
    return next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)), None)
