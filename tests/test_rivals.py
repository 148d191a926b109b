"""Front-ends of other systems: CP-ResNet on log-mel bands, AclNet after sinc filters (Table 6)."""

import json
from dataclasses import replace

import librosa
import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from helpers import COMBINED, read_by, roots
from torch import nn
from torch.nn import functional as F

from asc_lib import diagram, scene_net, settings
from asc_lib.front_ends import FRONT_ENDS, CPResNet, LogMel, SincAcl, SincConv, pre_emphasis
from asc_lib.fusion import FUSIONS
from asc_lib.scene_net import SceneNet, n_parameters
from asc_lib.use import export, system, what_if

NAMES = ["cp_resnet", "sinc_acl"]
MAPS = {"cp_resnet": (128, 15, 26), "sinc_acl": (128, 2, 31)}


def weights(net: nn.Module) -> int:
    """Of convolutions, without biases and normalisation."""
    return sum(p.numel() for p in net.parameters() if p.ndim > 2)


@pytest.mark.parametrize("name", NAMES)
def test_the_map_of_ten_seconds(name):
    net = SceneNet(0, front_end=name).eval()
    assert net.feature_map(torch.randn(1, 2, 479_520)).shape == (1, *MAPS[name])


@pytest.mark.parametrize(
    "filters, rho, expected",
    [
        (128, 5, 228_116),
        (128, 7, 252_692),
        (128, 8, 285_460),
        (192, 7, 563_348),
        (512, 5, 3_566_612),
    ],
)
def test_cp_resnet_is_as_large_as_the_published_one(filters, rho, expected):
    varied = type("Varied", (CPResNet,), {"filters": filters, "rho": rho})()
    own_head = filters * 10 + 2 * 10  # a convolution of size 1 and its normalisation
    assert n_parameters(varied) + own_head == expected


def test_aclnet_is_as_large_as_the_published_one():
    half = type("Half", (SincAcl,), {"filters": 256, "separable": True})()
    mono, head = 16 * 9 + 64 * 16 * 5, 256 * 50
    assert weights(half.layers) + mono + head == 155_248
    stereo = 16 * 2 * 9 + 64 * 16 * 5
    assert weights(SincAcl().layers) + stereo == 299_240


def test_parameters_here():
    counts = {name: n_parameters(SceneNet(0, front_end=name)) for name in NAMES}
    assert counts == {"cp_resnet": 252_692 - 1300 + 17_088, "sinc_acl": 322_296}


def noise() -> torch.Tensor:
    """[1, 2, T] within ±1."""
    return 0.05 * torch.randn(1, 2, 96_000, generator=torch.Generator().manual_seed(0))


def test_log_mel_is_librosas_whose_weighting_standardisation_takes_away():
    wave = noise()
    padded = dict(n_fft=4096, hop_length=1115, pad_mode="reflect")
    spectrum = np.abs(librosa.stft(wave[0].numpy(), **padded))
    hertz = librosa.fft_frequencies(sr=48_000, n_fft=4096).clip(min=1)
    decibels = librosa.power_to_db(spectrum**2) + librosa.A_weighting(hertz)[:, None]
    mel = librosa.filters.mel(sr=48_000, n_fft=4096, n_mels=256, fmax=11_025, norm=None)
    bands = mel @ decibels
    expected = (bands - bands.mean((0, 2), keepdims=True)) / bands.std((0, 2), keepdims=True)
    assert expected.shape == (2, 256, 87)
    assert np.abs(LogMel()(wave)[0].numpy() - expected).max() < 0.05


def test_pre_emphasis_leaves_hardly_a_trace():
    wave = noise()
    apart = (LogMel()(pre_emphasis(wave)) - LogMel()(wave[..., 1:])).abs()[..., 3:-3].flatten()
    assert apart.median() < 0.03 and apart.quantile(0.99) < 0.25
    assert torch.isfinite(LogMel()(torch.zeros(2, 2, 48_000))).all()


def test_bands_are_standardised_in_training_and_by_training_in_evaluation():
    log_mel, wave = LogMel(), 1000 * torch.randn(4, 2, 48_000)
    bands = log_mel(wave)
    mean, deviation = bands.mean((0, 1, 3)), bands.std((0, 1, 3))
    assert mean.abs().max() < 1e-4 and (deviation - 1).abs().max() < 0.01
    before = log_mel.standardise.running_mean.clone()
    log_mel.eval()(wave)
    assert before.any() and torch.equal(before, log_mel.standardise.running_mean)


def test_sinc_filters_are_scipys():
    sinc = SincConv(16)
    mel = np.linspace(*2595 * np.log10(1 + np.array([30, 7900]) / 700), 17)
    edges = 700 * (10 ** (mel / 2595) - 1)
    for k, kernel in enumerate(sinc.kernels().detach().numpy()):
        low = 50 + edges[k]
        high = min(low + 50 + edges[k + 1] - edges[k], 8000)
        taps = scipy.signal.firwin(
            251, [low, min(high, 7999.999)], pass_zero=False, window="hamming", scale=False, fs=16e3
        )
        assert np.allclose(kernel, taps / (2 * (high - low) / 16e3), atol=2e-4)
        assert kernel[125] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("samples", [4000, 4001])
def test_sinc_filters_are_the_same_on_both_channels(samples):
    sinc, wave = SincConv(4), torch.randn(3, 2, samples)
    kernels = sinc.kernels()[:, None]
    each = [F.conv1d(wave[:, k, None], kernels, stride=2, padding=125) for k in (0, 1)]
    assert torch.allclose(sinc(wave), torch.cat(each, 1), atol=1e-4)


def test_sinc_filters_stay_within_the_band():
    sinc = SincConv(4)
    sinc.low.data = torch.tensor([-0.1, 0.0, 7.99, 20.0])
    sinc.band.data = torch.tensor([0.0, -0.2, 5.0, 5.0])
    assert torch.isfinite(sinc.kernels()).all()
    sinc(torch.randn(1, 2, 1000)).square().sum().backward()
    assert torch.isfinite(sinc.low.grad).all() and torch.isfinite(sinc.band.grad).all()
    assert sinc.low.grad[0] != 0 and sinc.band.grad[1] != 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_learns_with_it_and_is_drawn(name, fusion):
    torch.manual_seed(0)
    sizes = dict(heads=4, layers=1, concat_layers=1, attention_layers=1)
    net = SceneNet(5, 3, name, fusion, **sizes)
    inputs = read_by(net, 2, 24_000)
    out = net(**inputs | {"waveform": 1000 * inputs["waveform"]})
    (out.logits.square().sum() + net.fusion.loss(out, inputs)).backward()
    assert out.logits.shape == (2, 3)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    diagram.network(net)


def test_decibels_are_not_rounded_to_bfloat16():
    net, wave = SceneNet(0, front_end="cp_resnet"), 1000 * torch.randn(2, 2, 24_000)
    exact, rounded = (
        scene_net.run(net, {"waveform": wave, "tags": torch.zeros(2, 0)}, precision).logits.float()
        for precision in ("float32", "bfloat16")
    )
    assert 0 < (exact - rounded).abs().max() < 0.05
    with scene_net.autocast("cpu", "bfloat16"):
        assert LogMel()(wave).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_from_training_to_predictions_and_what_if(name, tagged, tmp_path):
    checked = settings.check("05_combined", **(COMBINED | dict(front_end=name, epochs=1)))
    data = replace(tagged, recipe=checked.recipe)
    with roots(tmp_path):
        done = system.train_and_save(checked, data)
    assert done.record["parameters"]["front_end"] == name
    loaded = system.load(done.folder, "cpu")
    rows = data.corpus.rows("test")[:4]
    clips = np.array(data.waveforms.waveforms[rows])
    _, probabilities = data.outputs(done.net, rows)
    assert np.allclose(loaded.classify(clips).probabilities, probabilities, atol=1e-6)
    soundfile.write(tmp_path / "x.wav", clips[0].T, 48_000)
    prediction = loaded.predict(tmp_path / "x.wav")
    assert json.dumps(prediction.described())
    clip = what_if.window_of(prediction, 0)
    assert clip.feature_map.shape[:2] == (1, 128) and clip.feature_map.ndim == 4
    assert what_if.feature_maps(clip) is not None and what_if.what_if(clip) is not None
    assert len(what_if.clip_table(loaded, data, done.evaluated)) == 90


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_network_is_one_onnx_model(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = SceneNet(2, 3, name, "combined_shared", heads=2)
    for _ in range(3):  # statistics of training
        net(1000 * torch.randn(2, 2, 24_000), torch.rand(2, 2))
    net.output.weight.data *= 100
    about = {"labels": ["a", "b", "c"], "tags": {"names": ["d", "e"]}, "n_tags": 2}
    about |= {"run": "some-run", "test_samples": 47_999}
    trained = system.System(net.eval(), None, None, about, None)
    apart = export.export_onnx(trained, tmp_path / "x.onnx")
    assert apart["probabilities"] < 1e-4
    waveform, tags = 0.1 * torch.randn(3, 2, 48_000), torch.rand(3, 2)
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"))
    (found,) = session.run(["probabilities"], {"waveform": waveform.numpy(), "tags": tags.numpy()})
    with torch.no_grad():
        expected = net(pre_emphasis(waveform), tags).logits.softmax(1)
    assert np.abs(found - expected.numpy()).max() < 1e-4 and np.ptp(found, 0).max() > 1e-3


def test_other_widths_are_plug_ins(monkeypatch):
    monkeypatch.setitem(FRONT_ENDS, "thin", type("Thin", (CPResNet,), {"filters": 64, "rho": 5}))
    out = SceneNet(5, front_end="thin", fusion="attention", heads=2)(
        torch.randn(2, 2, 48_000), torch.rand(2, 5)
    )
    assert out.feature_map.shape[:2] == out.attention_map.shape == (2, 64)
