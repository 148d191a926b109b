"""The network that notebook 02 builds from PyTorch's own layers is the library's."""

import pytest
import torch
from bench.plain import of_notebook_02
from torch.nn import functional as F

from asc_lib import training
from asc_lib.front_ends import FRONT_ENDS
from asc_lib.scene_net import SceneNet


def both(name):
    """The plain network and the library's, with the same random weights and statistics."""
    torch.manual_seed(0)
    library = SceneNet(n_tags=0, front_end=name)
    for key, value in library.state_dict().items():
        if key.endswith(("bias", "running_mean")):
            value.normal_(std=0.1)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    notebook = of_notebook_02()
    plain = notebook["Baseline"](
        FRONT_ENDS[name].stem_filters,
        FRONT_ENDS[name].block_filters,
        FRONT_ENDS[name].padding,
        FRONT_ENDS[name].code_width,
        FRONT_ENDS[name].output_bias,
        classes=10,
    )
    notebook["load_weights"](plain, library)
    return plain, library


@pytest.mark.parametrize("name", ["released", "table1", "narrow"])
def test_it_gives_the_same_answers(name):
    plain, library = (net.eval() for net in both(name))
    waveform = torch.randn(2, 2, 48_000)
    with torch.no_grad():
        expected = library(waveform, torch.zeros(2, 0)).logits
        assert (plain(waveform) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert sum(p.numel() for p in plain.parameters()) == sum(
        p.numel() for p in library.parameters()
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["released", "narrow"])
def test_it_has_the_same_gradients(name, training):
    plain, library = (net.double().train(training) for net in both(name))
    waveform = torch.randn(2, 2, 48_000, dtype=torch.double)
    no_tags = torch.zeros(2, 0, dtype=torch.double)
    plain(waveform).logsumexp(1).sum().backward()
    library(waveform, no_tags).logits.logsumexp(1).sum().backward()
    ours = {k.removeprefix("front_end."): p.grad for k, p in library.named_parameters()}
    for key, value in plain.named_parameters():
        assert torch.allclose(ours[key].view_as(value), value.grad, rtol=1e-6, atol=1e-9), key


def test_a_step_of_its_loop_gives_the_same_losses():
    plain, library = (net.train() for net in both("narrow"))
    batch = {"waveform": torch.randn(8, 2, 72_000), "targets": torch.eye(10)[:8]}
    losses = {
        plain: lambda net, batch: F.cross_entropy(net(batch["waveform"]), batch["targets"]),
        library: lambda net, batch: F.cross_entropy(
            net(batch["waveform"], torch.zeros(8, 0)).logits, batch["targets"]
        ),
    }
    steps = {}
    for net, loss in losses.items():
        optimiser = torch.optim.SGD(net.parameters(), 1e-3)  # Adam would enlarge rounding
        steps[net] = [training.step(net, batch, loss, optimiser).item() for _ in range(2)]
    assert steps[plain] == pytest.approx(steps[library], abs=1e-4)
    assert steps[plain][1] < steps[plain][0]
