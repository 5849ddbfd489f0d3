"""Layers that read the same states share one low-precision copy: outputs to the bit, gradients as far as low precision tells."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode

from compressor.training.cheap import Cheap


class Copies(TorchFunctionMode):
    """Counts what is copied into low precision by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.Tensor.to and torch.bfloat16 in args
        return function(*args, **(kwargs or {}))


@pytest.fixture
def layers():
    torch.manual_seed(0)
    return torch.nn.ModuleList(torch.nn.Linear(32, 32) for _ in range(3))


def answers(layers, given, *modes):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for mode in modes:
            mode.__enter__()
        found = [layer(given) for layer in layers]
        for mode in reversed(modes):
            mode.__exit__(None, None, None)
    return found


def test_outputs_are_torchs_own_and_gradients_differ_by_rounding(layers):
    torch.manual_seed(1)
    given = [torch.randn(8, 32, requires_grad=True) for _ in range(2)]
    given[1].data.copy_(given[0].data)
    usual, shared = answers(layers, given[0]), answers(layers, given[1], Cheap(rows=False))
    assert all(torch.equal(one, other) for one, other in zip(usual, shared, strict=True))
    for found in (usual, shared):
        torch.stack(found).float().square().sum().backward()
    torch.testing.assert_close(given[0].grad, given[1].grad, rtol=2e-2, atol=2e-2 * float(given[0].grad.abs().max()))


def test_states_are_copied_once_for_all_that_read_them_and_anew_when_they_change(layers):
    given, copies = torch.randn(8, 32), Copies()
    cheap = Cheap(rows=False)
    answers(layers, given, copies, cheap)
    assert copies.count == 1
    before = answers(layers[:1], given, copies, cheap)
    given.add_(1.0)
    after = answers(layers[:1], given, copies, cheap)
    assert copies.count == 2
    assert not torch.equal(*before, *after)


def test_without_autocast_nothing_is_copied(layers):
    given, copies = torch.randn(8, 32), Copies()
    with copies, Cheap(rows=False):
        assert layers[0](given).dtype == torch.float32
    assert copies.count == 0


def test_a_copy_that_was_made_without_gradients_is_none_for_a_pass_with_them(layers):
    given = torch.randn(4, 32, requires_grad=True)
    with Cheap(rows=True), torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            layers[0](given)
        layers[0](given).sum().backward()
    assert given.grad is not None


def test_linear_takes_its_arguments_by_torchs_names(layers):
    given = torch.randn(4, 32)
    with Cheap(rows=True):
        found = torch.nn.functional.linear(input=given, weight=layers[0].weight)
    torch.testing.assert_close(found, given @ layers[0].weight.T)
