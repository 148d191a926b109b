"""The paper's facts: shapes, parameter counts, Eq. 1 and 2, each way to fuse."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asc_lib import scene_net
from asc_lib.scene_net import FUSIONS, SceneNet, attend, attention_map, n_parameters


@pytest.mark.parametrize("front_end", ["released", "table1"])
def test_shapes_of_table_1(front_end):
    net, clip = SceneNet(0, front_end=front_end).eval(), torch.randn(1, 2, 479_999)
    with torch.no_grad():
        assert net.stem_map(clip).shape == (1, 128, 39_999)
        out = net(clip, torch.zeros(1, 0))
    assert out.feature_map.shape == (1, 128, 18)
    assert out.code.shape == (1, {"released": 128, "table1": 64}[front_end]) and out.logits.shape == (1, 10)


@pytest.mark.parametrize(
    "options, expected",
    [
        (dict(), 636_736),
        (dict(front_end="table1"), 714_058),
        (dict(fusion="combined_shared", heads=4, layers=3), 676_784),
        (dict(fusion="codecat"), 636_736 + 80 * 10),
        (dict(fusion="before_code", layers=0), 636_736 + 80 * 128),
        (dict(fusion="before_code", layers=5), 636_736 + 80 * 128 + 5 * 6480),
        (dict(fusion="attention", heads=2, layers=1), 636_736 + 6480 + 80 * 128 + 128),
        (dict(fusion="combined_separate", heads=2, concat_layers=4, attention_layers=3), 676_784 + 4 * 6480),
    ],
)
def test_parameter_counts(options, expected):
    assert n_parameters(SceneNet(80, **options)) == expected


def test_the_narrow_front_end_keeps_128_filters():
    out = SceneNet(20, front_end="narrow").eval()(torch.randn(1, 2, 95_999), torch.rand(1, 20))
    assert out.feature_map.shape == (1, 128, 10)


def test_equation_2_by_hand():
    scores = torch.tensor([[0.0, np.log(3.0), np.log(2.0), np.log(2.0)]], dtype=torch.float32)
    weights = attention_map(scores, 2)
    assert torch.allclose(weights, torch.tensor([[0.25, 0.75, 0.5, 0.5]]))
    M = torch.tensor([[[4.0, 8.0], [4.0, 0.0], [2.0, 6.0], [1.0, -1.0]]])
    expected = torch.tensor([[[1.0, 2.0], [3.0, 0.0], [1.0, 3.0], [0.5, -0.5]]])
    assert torch.allclose(attend(M, weights), expected)


@settings(max_examples=30)
@given(st.sampled_from([1, 2, 4, 8, 16, 32, 64]), st.integers(0, 2**31))
def test_each_head_sums_to_1(heads, seed):
    scores = 3 * torch.randn(3, 128, generator=torch.Generator().manual_seed(seed))
    weights = attention_map(scores, heads)
    assert torch.allclose(weights.unflatten(1, (heads, -1)).sum(-1), torch.ones(3, heads), atol=1e-5)
    assert (weights > 0).all()
    if heads == 1:
        assert torch.allclose(weights, scores.softmax(1))


@pytest.mark.parametrize("heads, message", [(3, "3 does not divide the 128 filters"), (128, "one filter a head")])
def test_heads_that_do_not_fit(heads, message):
    with pytest.raises(ValueError, match=message):
        SceneNet(20, fusion="attention", heads=heads)


@pytest.mark.parametrize("option", ["front_end", "fusion"])
def test_unknown_names(option):
    with pytest.raises(ValueError, match=f"unknown {option} 'no': choose one of"):
        SceneNet(20, **{option: "no"})


@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_tags_reach_the_output_and_learn(fusion):
    torch.manual_seed(0)
    net = SceneNet(20, front_end="narrow", fusion=fusion, heads=4, layers=2, concat_layers=2, attention_layers=1)
    waveform, tags = torch.randn(2, 2, 12_000), torch.rand(2, 20, requires_grad=True)
    out = net(waveform, tags)
    gradient = torch.autograd.grad(out.logits.square().sum(), tags, allow_unused=True, retain_graph=True)[0]
    assert (gradient is None or not gradient.any()) == (fusion == "baseline")
    assert (out.attention_map is None) == (fusion in ("baseline", "codecat", "before_code"))
    assert out.code.shape == (2, 64 + 20 * (fusion == "codecat"))
    out.logits.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_codecat_is_the_code_beside_the_tags():
    net, tags = SceneNet(20, front_end="narrow", fusion="codecat").eval(), torch.rand(1, 20)
    assert torch.equal(net(torch.randn(1, 2, 12_000), tags).code[:, 64:], tags)


def test_what_if_is_the_forward_pass():
    net = SceneNet(20, front_end="narrow", fusion="combined_shared").eval()
    waveform, tags = torch.randn(2, 2, 12_000), torch.rand(2, 20)
    assert torch.equal(net.fuse(net.feature_map(waveform), tags).logits, net(waveform, tags).logits)


def test_a_fusion_of_ones_own(monkeypatch):
    monkeypatch.setattr(scene_net, "FUSIONS", dict(FUSIONS))

    @scene_net.fusion("gated", "layers")
    class Gated(scene_net.Attention):
        """One gate for all filters."""

        def __init__(self, n_tags, filters, layers):
            super().__init__(n_tags, filters, 1, layers)

    out = SceneNet(20, front_end="narrow", fusion="gated", layers=1).eval()(
        torch.randn(1, 2, 12_000), torch.rand(1, 20)
    )
    assert out.attention_map.sum().item() == pytest.approx(1, abs=1e-5)
