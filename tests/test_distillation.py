"""Specialist distillation: losses by hand, which clips are drawn, frozen teachers, cut stages."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import ATTENTION, BASELINE, roots
from test_training import scene_data

from asc_lib import distillation, recipes, training
from asc_lib.corpora import CorpusError
from asc_lib.registry import ParameterError
from asc_lib.runs import records, tables
from asc_lib.scene_net import SceneNet, n_parameters
from asc_lib.settings import check
from asc_lib.use import system

CROP = 9_600
WHOLE = 11_000


def data_of(corpus, **changes):
    """Noise for 90 training clips; stages of two epochs each."""
    data = scene_data(corpus)
    usual = dict(epochs=2, crop=CROP, test_samples=WHOLE, lr=1e-3, specialists=2, eval_every=5)
    return replace(data, recipe=replace(data.recipe, **usual | changes))


def new_net():
    torch.manual_seed(0)
    return SceneNet(4, front_end="narrow", fusion="before_code", layers=0)


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_divergence_by_hand():
    """With logits 2 log(weight), probabilities at temperature 2 are the weights over their sum."""

    def logits(*weights):
        return 2 * torch.tensor(weights).log()

    student = logits([1.0, 1.0], [1.0, 3.0])
    first = logits([3.0, 1.0], [1.0, 3.0])
    second = logits([1.0, 1.0], [1.0, 1.0])
    by_first = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)  # of clip 1; of clip 2: 0
    by_second = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)  # of clip 2; of clip 1: 0
    found = distillation.divergence(student, [first, second])
    assert found.item() == pytest.approx((by_first + by_second) / 2, abs=1e-6)
    assert distillation.divergence(student, [student]).item() == pytest.approx(0, abs=1e-6)


def test_pairs_are_those_confused_most_in_both_directions():
    truth = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    predicted = [0, 1, 2, 1, 1, 0, 0, 0, 1]  # 0 and 1: 2 clips; 0 and 2: 3; 1 and 2: 1
    assert distillation.confused(truth, predicted, 3, 2) == [(0, 2), (0, 1)]
    assert distillation.confused([3, 3], [1, 3], 5, 1) == [(1, 3)]  # of scenes without a clip, too


@pytest.mark.parametrize(
    "schedule, epochs, expected",
    [
        ("specialist", 60, {0: 1.0, 19: 1.0, 20: 0.2, 49: 0.2, 50: 0.04, 59: 0.04}),
        ("student", 60, {0: 1.0, 14: 1.0, 15: 0.2, 30: 0.04, 44: 0.04, 45: 0.008}),
        ("specialist", 9, {0: 1.0, 2: 1.0, 3: 0.2, 7: 0.2, 8: 0.04}),
        ("student", 1, {0: 1.0}),
    ],
)
def test_learning_rates_fall_at_their_epochs(schedule, epochs, expected):
    optimiser = torch.optim.SGD([torch.zeros(1)], 1.0)
    falling = training.SCHEDULES[schedule](optimiser, epochs)
    rates = []
    for _ in range(epochs):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        falling.step()
    assert {epoch: rates[epoch] for epoch in expected} == pytest.approx(expected)


def clips_of(data, tags):
    """The clip of each tag vector: here each clip has one of its own."""
    return [int(np.flatnonzero((data.vectors.clips == row).all(1)).item()) for row in tags.numpy()]


def test_half_of_a_specialists_batch_is_of_its_pair(small_mini):
    data = data_of(small_mini, batch=8)
    targets = small_mini.targets()
    drawn = []
    for epoch in (1, 2, 3):
        batches = list(distillation.pair_batches(data, (2, 5), 0, epoch, 1))
        assert len(batches) == 18 // 4
        seen = []
        for batch in batches:
            rows = clips_of(data, batch["tags"])
            assert np.isin(targets[rows], (2, 5)).sum() == 4 and len(rows) == 8
            assert np.array_equal(batch["targets"].argmax(1), targets[rows])  # no mixup
            assert set(small_mini.clips["split"].iloc[rows]) == {"train"}
            seen += rows
        assert len(set(seen)) == len(seen) == 32
        drawn.append(set(seen))
    assert drawn[0] != drawn[1] != drawn[2]  # anew in each epoch


@pytest.mark.parametrize("pair, counts", [((0, 1), "18 training clips .* and 72 others")])
def test_too_few_clips_of_a_pair(small_mini, pair, counts):
    data = data_of(small_mini, batch=40)
    with pytest.raises(CorpusError, match=f"{counts}: a specialist's batch takes 20 of each"):
        next(distillation.pair_batches(data, pair, 0, 1, 1))


def test_teachers_hear_the_clip_of_the_excerpt_and_another_of_its_scene(small_mini):
    data = data_of(small_mini)
    targets = small_mini.targets()
    batches = list(distillation.joined_batches(data, 0, 1, 3))
    assert len(batches) == 90 // 24
    firsts = []
    seconds = []
    for batch in batches:
        assert batch["waveform"].shape == (24, 2, CROP)
        assert batch["whole"].shape == (24, 2, 2 * WHOLE)
        rows = clips_of(data, batch["tags"])
        assert equal(batch["whole"][..., :WHOLE], data.whole(np.array(rows))["waveform"])
        wholes = data.whole(np.arange(len(targets)))["waveform"][..., :50]
        heard = [
            int((wholes == clip[:, WHOLE : WHOLE + 50]).all(2).all(1).nonzero().item())
            for clip in batch["whole"]
        ]
        assert np.array_equal(targets[rows], targets[heard])
        tags = (data.vectors.clips[rows] + data.vectors.clips[heard]) / 2
        assert np.allclose(batch["whole_tags"], tags, atol=1e-6)
        firsts += rows
        seconds += heard
    assert firsts != seconds and len(set(firsts)) == len(set(seconds)) == 72


def state(nets):
    return [value.clone() for net in nets for value in net.state_dict().values()]


def test_teachers_do_not_change_and_the_student_has_their_size(small_mini, monkeypatch):
    data = data_of(small_mini)
    kept = {}
    original = distillation.teachers

    def noted(*given):
        found = original(*given)
        kept.update(found=found, before=state(found.nets), baseline=state([given[1]]))
        return found

    monkeypatch.setattr(distillation, "teachers", noted)
    net = new_net()
    history = data.train(net, 0)
    nets = kept["found"].nets
    assert len(nets) == 3 and not any(teacher.training for teacher in nets)
    assert equal(kept["before"], state(nets))  # weights, and statistics of normalisation
    assert not any(p.requires_grad for teacher in nets for p in teacher.parameters())
    baseline, *specialists = [state([each]) for each in nets]
    assert equal(baseline, kept["baseline"]) and not equal(baseline, state([net]))
    assert not any(equal(baseline, each) for each in specialists)
    assert {n_parameters(each) for each in nets} == {n_parameters(net)}
    assert history["stage"].tolist() == [1, 1, 2, 2, 3, 4, 5] and history["loss"].notna().all()
    assert len(set(kept["found"].pairs)) == 2


@pytest.mark.parametrize("by, split", [("held_out", "train"), ("paper_protocol", "test")])
def test_pairs_are_found_on_training_places_alone_or_by_the_papers_protocol(
    small_mini, monkeypatch, by, split
):
    data = data_of(small_mini)
    data = replace(data, recipe=replace(data.recipe, specialists_by=by))
    seen = []
    confused = distillation.confused
    evaluate = type(data).evaluate

    def noted(self, net):
        seen.append(evaluate(self, net).set_index("filename"))
        return seen[-1].reset_index()

    def asked(truth, predicted, *sizes):
        seen.append(len(truth))
        return confused(truth, predicted, *sizes)

    monkeypatch.setattr(type(data), "evaluate", noted)
    monkeypatch.setattr(distillation, "confused", asked)
    found = distillation.teachers(data, new_net(), 0)
    judged, count = seen
    splits = small_mini.clips.set_index("filename").loc[judged.index, "split"]
    assert count == (splits == split).sum() > 0
    assert set(splits) == {"train"} or by == "paper_protocol"
    assert len(found.histories) == 3 + (by == "held_out") and len(found.nets) == 3


def test_at_full_size_it_is_the_released_recipe(small_mini, monkeypatch):
    assert n_parameters(SceneNet(0)) == 636_736
    data = replace(
        scene_data(small_mini), recipe=recipes.fitted({"specialists": 2}, recipes.SceneRecipe())
    )
    stages = []

    def noted(self, net, batches, loss, checkpoint):
        stages.append(self.recipe)
        return training.pd.DataFrame([{"epoch": 1, "loss": 1.0, "seconds": 0.0}])

    monkeypatch.setattr(type(data), "fit", noted)
    data.train(new_net(), 0)
    assert [one.epochs for one in stages] == [90, 90, 60, 60, 60]
    assert [one.lr for one in stages] == pytest.approx([1e-4, 1e-4, 4e-6, 4e-6, 1e-4])
    kinds = ["constant", "constant", "specialist", "specialist", "student"]
    assert [one.schedule for one in stages] == kinds
    assert {(one.batch, one.crop, one.weight_decay, one.amsgrad) for one in stages} == {
        (24, 240_000, 1e-3, True)
    }


@pytest.mark.parametrize("stage", range(5))
def test_a_run_cut_short_in_any_stage_ends_as_if_it_had_not_been(
    stage, small_mini, tmp_path, monkeypatch, whole_run, capsys
):
    data = data_of(small_mini, epochs=3)
    save = training.save_checkpoint

    def cut(path, nets, optimiser, schedule, history):
        save(path, nets, optimiser, schedule, history)
        if len(list(tmp_path.iterdir())) == stage + 1:  # after the first epoch of a stage
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", cut)
        with pytest.raises(InterruptedError):
            data.train(new_net(), 0, tmp_path / "run.safetensors")
    assert len(list(tmp_path.iterdir())) == stage + 1
    capsys.readouterr()
    net = new_net()
    history = data.train(net, 0, tmp_path / "run.safetensors")
    assert capsys.readouterr().out.count("resumed after epoch") == stage + 1
    expected, weights = whole_run
    assert history["loss"].tolist() == expected and equal(state([net]), weights)


@pytest.fixture(scope="module")
def whole_run(small_mini):
    net = new_net()
    history = data_of(small_mini, epochs=3).train(net, 0)
    return history["loss"].tolist(), state([net])


def test_from_the_notebooks_parameters_to_a_record(small_mini, tagged, tmp_path):
    checked = check("02_baseline", **(BASELINE | {"recipe": "specialists", "epochs": 1}))
    usual = check("02_baseline", **(BASELINE | {"epochs": 1}))
    data = replace(tagged, vectors=None, reads="nothing", recipe=checked.recipe)
    names = [records.scene_run(each, data.waveforms, None) for each in (checked, usual)]
    assert names[0] != names[1]
    with roots(tmp_path):
        other = records.checkpoint(names[1])
        other.parent.mkdir(parents=True)
        other.touch()
        done = system.train_and_save(checked, data)
        assert list(other.parent.iterdir()) == [other]  # no stage is left, no other run is lost
        (read,) = records.read_records("mini")
        assert read["recipe"]["specialists"] == 2 and read["parameters"]["recipe"] == "specialists"
        assert {row["stage"] for row in read["history"]} == {1, 2, 3, 4, 5}
        (kind,) = tables.Results("mini").systems
        assert kind.name == "baseline, recipe specialists"
        assert tables.Results("mini").table6()["published"].tolist() == [75.81]
    assert system.load(done.folder).about["n_parameters"] == read["n_parameters"]


@pytest.mark.parametrize("fusion", ["attention_in_time", "tag_targets"])
def test_fusions_that_cannot_be_distilled(fusion):
    given = ATTENTION | {"recipe": "specialists", "fusion": fusion}
    given |= {"concat_layers": 1, "attention_layers": 1}
    with pytest.raises(ParameterError, match=f"'recipe': specialists need .* not {fusion}"):
        check("05_combined", **given)
