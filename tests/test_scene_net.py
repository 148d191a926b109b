"""The paper's facts: shapes, parameter counts, Eq. 1 and 2, each way to fuse."""

import math
import re

import numpy as np
import pytest
import torch
from helpers import read_by
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from asc_lib.front_ends import FRONT_ENDS, Narrow
from asc_lib.fusion import FUSIONS, Attention, attend, attention_map, over_frames
from asc_lib.registry import ParameterError
from asc_lib.runs import cells, paper
from asc_lib.scene_net import SceneNet, multiply_adds, n_parameters, run


@pytest.mark.parametrize("front_end", ["released", "table1"])
def test_shapes_of_table_1(front_end):
    net, clip = SceneNet(0, front_end=front_end).eval(), torch.randn(1, 2, 479_999)
    with torch.no_grad():
        assert net.front_end.stem_map(clip).shape == (1, 128, 39_999)
        out = net(clip, torch.zeros(1, 0))
    assert out.feature_map.shape == (1, 128, 18)
    assert out.code.shape == (
        1,
        {"released": 128, "table1": 64}[front_end],
    ) and out.logits.shape == (1, 10)


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
        (
            dict(fusion="combined_separate", heads=2, concat_layers=4, attention_layers=3),
            676_784 + 4 * 6480,
        ),
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
    assert torch.allclose(
        weights.unflatten(1, (heads, -1)).sum(-1), torch.ones(3, heads), atol=1e-5
    )
    assert (weights > 0).all()
    if heads == 1:
        assert torch.allclose(weights, scores.softmax(1))


@pytest.mark.parametrize(
    "heads, message", [(3, "3 does not divide the 128 filters"), (128, "one filter per head")]
)
def test_heads_that_do_not_fit(heads, message):
    with pytest.raises(ValueError, match=message):
        SceneNet(20, fusion="attention", heads=heads)


@pytest.mark.parametrize("option", ["front_end", "fusion"])
def test_unknown_names(option):
    with pytest.raises(ParameterError, match=f"parameter '{option}' is 'no': choose one of"):
        SceneNet(20, **{option: "no"})


@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_tags_reach_the_output_and_learn(fusion):
    torch.manual_seed(0)
    net = SceneNet(
        20,
        front_end="narrow",
        fusion=fusion,
        heads=4,
        layers=2,
        concat_layers=2,
        attention_layers=1,
    )
    inputs = read_by(net, 2, 12_000)
    tags = inputs["tags"].requires_grad_()
    out = net(**inputs)
    gradient = torch.autograd.grad(
        out.logits.square().sum(), tags, allow_unused=True, retain_graph=True
    )[0]
    assert (gradient is None or not gradient.any()) == (fusion in ("baseline", "tag_targets"))
    assert (out.attention_map is None) == (
        fusion in ("baseline", "codecat", "before_code", "tags_only", "tag_targets")
    )
    assert out.code.shape == (2, 64 + 20 * (fusion == "codecat"))
    (out.logits.sum() + net.fusion.loss(out, inputs)).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_without_the_waveform_there_is_no_front_end():
    net = SceneNet(20, front_end="narrow", fusion="tags_only", layers=2).eval()
    assert n_parameters(net) == 2 * (20 * 20 + 20) + (20 * 64 + 64) + 64 * 10
    tags = torch.rand(2, 20)
    one, two = (net(torch.randn(2, 2, 12_000), tags) for _ in range(2))
    assert torch.equal(one.logits, two.logits) and one.feature_map is None


def test_both_orders_in_memory_give_the_same(monkeypatch):
    class Contiguous(Narrow):
        memory_order = torch.contiguous_format

    monkeypatch.setitem(FRONT_ENDS, "contiguous", Contiguous)
    first, second = (
        SceneNet(20, front_end=name, fusion="combined_shared") for name in ("narrow", "contiguous")
    )
    second.load_state_dict(first.state_dict())
    waveform, tags = 1000 * torch.randn(2, 2, 12_000), torch.rand(2, 20)
    for training, stride in ((True, 1000), (False, 1)):  # evaluation has one order
        one, two = (net.train(training)(waveform, tags) for net in (first, second))
        assert first.front_end.stem_map(waveform).stride(1) == 1
        assert second.front_end.stem_map(waveform).stride(1) == stride
        assert torch.allclose(one.logits, two.logits, atol=1e-4)
        assert torch.allclose(one.code, two.code, atol=1e-4)


def test_multiply_adds_counted_by_hand():
    net = SceneNet(20, front_end="narrow", fusion="before_code", layers=1)
    frames, count, widths = 1000, 1000 * 24 * 32, (32, 16, 16, 32, 64, 128, 128)
    for inputs, filters in zip(widths, widths[1:]):
        count += frames * 3 * filters * (inputs + filters + inputs * (inputs != filters))
        frames //= 3
    count += frames * 128 * 128 + 20 * 20 + (256 + 20) * 64 + 64 * 10
    one_clip = {"waveform": torch.randn(1, 2, 12_000), "tags": torch.rand(1, 20)}
    assert multiply_adds(net, one_clip) == count


def test_codecat_is_the_code_beside_the_tags():
    net, tags = SceneNet(20, front_end="narrow", fusion="codecat").eval(), torch.rand(1, 20)
    assert torch.equal(net(torch.randn(1, 2, 12_000), tags).code[:, 64:], tags)


def test_what_if_is_the_forward_pass():
    net = SceneNet(20, front_end="narrow", fusion="combined_shared").eval()
    waveform, tags = torch.randn(2, 2, 12_000), torch.rand(2, 20)
    assert torch.equal(net.fuse(net.feature_map(waveform), tags).logits, net(waveform, tags).logits)


def released_state(seed=0):
    """Random weights under the released system's names, of the shapes that it describes."""
    torch.manual_seed(seed)
    convolutions = {"first_conv": (128, 2, 12), "last_conv": (128, 128, 1)}
    norms = {"first_bn": 128, "last_bn": 128}
    inputs = 128
    for number, filters in enumerate((64, 64, 128, 128, 128, 128, 128)):
        convolutions |= {
            f"block{number}.conv1": (filters, inputs, 3),
            f"block{number}.conv2": (filters, filters, 3),
        }
        norms |= {f"block{number}.bn1": filters, f"block{number}.bn2": filters}
        if inputs != filters:
            convolutions[f"block{number}.conv_downsample"] = (filters, inputs, 3)
        inputs = filters
    state = {
        "fc1.weight": torch.randn(128, 256) / 16,
        "fc1.bias": torch.randn(128),
        "fc2.weight": torch.randn(10, 128),
    }
    for name, shape in convolutions.items():
        state[f"{name}.weight"] = torch.randn(shape) * (2 / (shape[1] * shape[2])) ** 0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0])
    for name, width in norms.items():
        state |= {
            f"{name}.weight": 1 + 0.1 * torch.randn(width),
            f"{name}.bias": 0.1 * torch.randn(width),
        }
        state |= {
            f"{name}.running_mean": 0.1 * torch.randn(width),
            f"{name}.running_var": 0.5 + torch.rand(width),
        }
        state[f"{name}.num_batches_tracked"] = torch.tensor(1)
    return state


def released_forward(state, x):
    """The released front-end step by step, from the table of its layers: code and scores."""

    def conv(name, x, **how):
        return F.conv1d(x, state[f"{name}.weight"], state[f"{name}.bias"], **how)

    def norm(name, x):
        mean, var, weight, bias = (
            state[f"{name}.{k}"][:, None] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def leaky(x):
        return torch.where(x > 0, x, 0.3 * x)

    x = leaky(norm("first_bn", conv("first_conv", x, stride=12)))
    for number in range(7):
        block = f"block{number}"
        y = leaky(norm(f"{block}.bn1", conv(f"{block}.conv1", x, padding=1)))
        y = norm(f"{block}.bn2", conv(f"{block}.conv2", y, padding=1))
        changes = f"{block}.conv_downsample.weight" in state
        x = leaky(y + (conv(f"{block}.conv_downsample", x, padding=1) if changes else x))
        frames = x.shape[-1] // 3
        x = x[..., : 3 * frames].unflatten(-1, (frames, 3)).max(-1).values
    assert x.shape[-1] == 18
    x = leaky(norm("last_bn", conv("last_conv", x, padding=3)))
    assert x.shape[-1] == 24
    code = torch.cat([x.mean(-1), x.max(-1).values], 1) @ state["fc1.weight"].T + state["fc1.bias"]
    return code, code @ state["fc2.weight"].T


RELEASED = {  # our modules by the released system's
    "first_conv": "front_end.stem",
    "first_bn": "front_end.stem_bn",
    "last_conv": "front_end.last.0",
    "last_bn": "front_end.last.1",
    "fc1": "code",
    "fc2": "output",
}


def renamed(name):
    """Our name of one of the released system's values."""
    module, _, kind = name.rpartition(".")
    block = re.fullmatch(r"block(\d)\.(\w+)", module)
    if block:
        part = block[2].replace("conv_downsample", "skip")
        return f"front_end.blocks.{block[1]}.{part}.{kind}"
    return f"{RELEASED[module]}.{kind}"


def test_the_released_front_end_is_the_released_one():
    net = SceneNet(0).eval()
    state = released_state()
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    ours = {renamed(name): value for name, value in state.items()}
    net.load_state_dict({name: value.reshape(shapes[name]) for name, value in ours.items()})
    clips = torch.randn(2, 2, 479_999)
    with torch.no_grad():
        (code, scores), out = released_forward(state, clips), net(clips, torch.zeros(2, 0))
    scale = scores.abs().max()
    assert torch.allclose(out.code / scale, code / scale, atol=1e-5)
    assert torch.allclose(out.logits / scale, scores / scale, atol=1e-5)


def test_the_map_is_the_same_at_every_frame():
    net = SceneNet(20, front_end="narrow", fusion="attention", heads=4, layers=1).eval()
    M, tags = torch.rand(2, 128, 7) + 0.5, torch.rand(2, 20)
    seen = []
    net.front_end.last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    weights = net.fuse(M, tags).attention_map
    assert torch.allclose(seen[0].squeeze(2) / M, weights.unsqueeze(-1).expand_as(M), atol=1e-6)


def test_attention_in_time_by_hand():
    times = torch.tensor([[[0.0, 1.0], [1.0, 2.0], [2.0, 4.0]]])  # middles 0.5, 1.5 and 3 s
    maps = torch.tensor([[[0.25, 0.75], [0.75, 0.25], [0.0, 1.0]]])  # [windows, filters]
    weights = over_frames(maps, times, 4)  # frames of 1 s; the third is 2/3 of the way
    expected = torch.tensor([[[0.25, 0.75, 0.25, 0.0], [0.75, 0.25, 0.75, 1.0]]])
    assert torch.allclose(weights, expected)
    M = torch.tensor([[[4.0, 4.0, 4.0, 4.0], [0.0, 4.0, 8.0, 2.0]]])
    attended = torch.tensor([[[1.0, 3.0, 1.0, 0.0], [0.0, 1.0, 6.0, 2.0]]])
    assert torch.allclose(attend(M, weights), attended)
    bands = attend(torch.stack([M, 2 * M], 2), weights)  # [B, f, bands, t]
    assert torch.allclose(bands, torch.stack([attended, 2 * attended], 2))
    assert torch.allclose(over_frames(maps, times, 400).sum(1), torch.ones(1, 400))


@pytest.mark.parametrize("front_end", ["narrow", "cp_resnet", "sinc_acl"])
def test_with_equal_windows_attention_in_time_is_attention(front_end):
    nets = []
    for name in ("attention", "attention_in_time"):
        torch.manual_seed(0)
        nets.append(SceneNet(20, 10, front_end, name, heads=2, layers=1).eval())  # no dropout
    one, other = nets
    assert n_parameters(one) == n_parameters(other)
    assert one.state_dict().keys() == other.state_dict().keys()
    waveform, tags = 1000 * torch.randn(2, 2, 24_000), torch.rand(2, 20)
    times = torch.tensor([[[0.0, 0.1], [0.1, 0.25], [0.25, 0.5]]] * 2)
    expected, found = one(waveform, tags), other(waveform, tags[:, None].expand(2, 3, 20), times)
    assert torch.allclose(expected.logits, found.logits, atol=1e-5)
    frames = expected.feature_map.shape[-1]
    assert found.attention_map.shape == (2, 128, frames)
    assert torch.allclose(expected.attention_map[..., None], found.attention_map, atol=1e-7)
    for out in (expected, found):
        out.logits.square().sum().backward()
    for a, b in zip(one.parameters(), other.parameters()):
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-4 * float(a.grad.abs().max()))
    changed = other(waveform, torch.rand(2, 3, 20), times)
    assert not torch.allclose(changed.logits, found.logits, atol=1e-4)


def test_tag_targets_by_hand():
    net = SceneNet(2, 3, "narrow", "tag_targets").eval()
    assert n_parameters(net) == n_parameters(SceneNet(0, 3, "narrow")) + 64 * 2 + 2
    net.fusion.predicted.weight.data = torch.eye(2, 64)
    net.fusion.predicted.bias.data = torch.tensor([0.0, math.log(3.0)])
    out = net(torch.randn(1, 2, 12_000), torch.rand(1, 2))._replace(code=torch.zeros(1, 64))
    loss = net.fusion.loss(out, {"tags": torch.tensor([[1.0, 0.5]])})
    by_hand = (-np.log(0.5) - 0.5 * np.log(0.75) - 0.5 * np.log(0.25)) / 2
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


def test_gradients_of_the_tag_path():
    torch.manual_seed(0)
    attention = Attention(5, 8, heads=2, layers=2).double()
    tags = torch.rand(3, 5, dtype=torch.double, requires_grad=True)
    M = torch.randn(3, 8, 4, dtype=torch.double, requires_grad=True)

    def attended(tags, M):
        return attend(M, attention.weights(attention.prepare(tags)))

    assert torch.autograd.gradcheck(attended, (tags, M))
    parameters = list(attention.parameters())
    gradients = torch.autograd.grad((attended(tags, M) ** 2).sum(), parameters)
    for value, gradient in zip(parameters, gradients):
        step = torch.zeros_like(value).view(-1)
        step[0] = 1e-6
        with torch.no_grad():
            sides = []
            for sign in (1, -1):
                value += sign * step.view_as(value)
                sides.append((attended(tags, M) ** 2).sum())
                value -= sign * step.view_as(value)
        assert gradient.view(-1)[0].item() == pytest.approx(
            ((sides[0] - sides[1]) / 2e-6).item(), rel=1e-4, abs=1e-7
        )


@pytest.mark.slow
@pytest.mark.parametrize("number", range(56))
def test_every_cell_of_the_paper_at_full_size(number):
    torch.manual_seed(0)
    net = paper.build(cells.published().iloc[number])
    out = net(torch.randn(1, 2, 479_999), torch.rand(1, 80))
    assert out.feature_map.shape == (1, 128, 18) and torch.isfinite(out.logits).all()
    F.cross_entropy(out.logits, torch.tensor([3])).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_learns_in_bfloat16(fusion):
    net = SceneNet(12, front_end="narrow", fusion=fusion)
    batch = read_by(net, 2, 28_000)
    out = run(net, batch, "bfloat16")
    (out.logits.float().sum() + net.fusion.loss(out, batch)).backward()
    assert all(values.grad.isfinite().all() for values in net.parameters())
