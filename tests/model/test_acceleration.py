"""Faster networks answer as before; a compiler that fails is left out, and said so once."""

import logging
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from harvester.models.acceleration import Compiled, accelerated
from harvester.models.backbones import build_backbone


def lived(network: nn.Module) -> nn.Module:
    """With the statistics of a network that was trained."""
    torch.manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize(("name", "gone"), [("small", 16), ("resnet18", 15), ("densenet121", 43)])
@torch.inference_mode()
def test_folded_norms_change_nothing(name: str, gone: int) -> None:
    network = lived(build_backbone(name, 6, 16, ""))
    images = torch.rand(2, 6, 64, 48)
    fast = accelerated(network)

    def norms(of: nn.Module) -> int:
        return sum(isinstance(each, nn.BatchNorm2d) for each in of.modules())

    assert norms(network) - norms(fast) == gone
    for got, expected in zip(fast(images), network(images), strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=2e-5)


def test_a_layer_that_fails_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.fx's handler would import torch._dynamo first, for which a process without memory has no room."""

    class Breaks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.reshape(x, (7, 7))

    def handler(*_: Any) -> None:
        raise AssertionError("torch.fx handles it")

    monkeypatch.setattr("torch.fx.graph_module._WrappedCall.__call__", handler)
    with pytest.raises(RuntimeError, match="is invalid for input of size 3"):
        accelerated(Breaks())(torch.zeros(3))
    with pytest.raises(AssertionError, match=r"torch\.fx handles it"):
        fuse(Breaks().eval())(torch.zeros(3))


@pytest.mark.parametrize("words", ["no working C++ compiler", "could not create a primitive"])
def test_a_compiler_that_fails_is_left_out(
    words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(network: nn.Module) -> Any:
        def fast(*given: Any) -> Any:
            raise RuntimeError(f"{words}\nand much more")

        return fast

    monkeypatch.setattr(torch, "compile", broken)
    layer = nn.Linear(3, 2)
    network, x = Compiled(layer), torch.rand(4, 3)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(network(x), layer(x))
        assert torch.equal(network(x), layer(x))
    assert [record.getMessage() for record in caplog.records] == [f"torch.compile failed, going on without it: {words}"]


def test_a_compiled_network_that_runs_out_of_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(network: nn.Module) -> Any:
        def fast(*given: Any) -> Any:
            raise torch.OutOfMemoryError("no room")

        return fast

    monkeypatch.setattr(torch, "compile", full)
    with pytest.raises(torch.OutOfMemoryError):
        Compiled(nn.Linear(3, 2))(torch.rand(4, 3))
