"""Recipes from a file, and networks that begin with the weights of a saved system."""

import json
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ATTENTION, BASELINE, roots

from asc_lib import corpora, fine_tuning, recipes
from asc_lib.registry import ParameterError
from asc_lib.runs import records, tables
from asc_lib.settings import check
from asc_lib.tags.windows import TagVectors
from asc_lib.use import system

WAVES = SimpleNamespace(fingerprint="w")
TAGS = TagVectors(np.zeros((2, 1, 2), "float32"), ["a", "b"], "tagger")


def settings_of(path, text, **others):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return check("04_attention", **(ATTENTION | {"recipe": str(path)} | others))


def name(settings):
    return records.scene_run(settings, WAVES, TAGS)


def test_a_recipe_of_ones_own_is_the_preset_with_its_values(tmp_path):
    usual = check("04_attention", **ATTENTION)
    assert "recipe" not in usual.parameters() and not usual.changed()
    text = 'lr = 1\nepochs = 5\nprecision = "bfloat16"\ntag_windows = "clip"\n'
    found = settings_of(tmp_path / "mine.toml", text)
    changes = dict(lr=1, epochs=5, precision="bfloat16", tag_windows="clip")
    assert found.recipe == replace(usual.recipe, **changes) and found.changed() == changes
    assert found.parameters()["recipe"] == "mine.toml" and found.parameters()["epochs"] == 5
    given = settings_of(tmp_path / "mine.toml", text, epochs=3, tag_windows="random")
    assert (given.recipe.epochs, given.recipe.tag_windows) == (3, "random")


def test_a_named_recipe_fits_the_size_of_the_preset():
    def recipe(**given):
        return check("02_baseline", **(BASELINE | given)).recipe

    own = {k: v for k, v in recipes.CP_RESNET.items() if k not in ("batch", *recipes.SMALL)}
    assert own.keys() == {
        *("schedule", "weight_decay", "mixup", "mixup_from", "amsgrad", "mixup_per"),
        *("augmentation", "average_from"),
    }
    small = replace(recipes.SMALL_SCENE, epochs=2, **own)
    assert recipe(recipe="cp_resnet", epochs=2) == small
    assert recipe(front_end="cp_resnet", epochs=2) == small  # a front-end brings its recipe
    full = recipe(data="tau2019", front_end="cp_resnet")
    assert full == recipes.SceneRecipe(**recipes.CP_RESNET) and full.epochs == 350
    assert recipe(data="tau2019", recipe="crop_pad") == recipes.SceneRecipe(augmentation="crop_pad")
    both = recipe(front_end="cp_resnet", recipe="specialists")
    assert both == replace(recipe(front_end="cp_resnet"), specialists=2)


def test_a_recipe_of_ones_own_goes_on_top_of_the_front_ends(tmp_path):
    found = settings_of(tmp_path / "x.toml", "lr = 0.5", front_end="cp_resnet")
    assert found.changed().items() >= {"lr": 0.5, "augmentation": "roll"}.items()


def test_the_name_of_a_run_holds_the_values_of_its_recipe_and_not_the_file(tmp_path):
    usual = name(check("04_attention", **ATTENTION))
    one = name(settings_of(tmp_path / "a.toml", "lr = 0.5"))
    assert one == name(settings_of(tmp_path / "b" / "c.toml", "lr = 0.50 # as a"))
    assert len({usual, one, name(settings_of(tmp_path / "a.toml", "lr = 0.25"))}) == 3
    lr = asdict(corpora.find("mini").preset.scene)["lr"]
    assert name(settings_of(tmp_path / "a.toml", f"lr = {lr}")) == usual


@pytest.mark.parametrize(
    "text, message",
    [
        ("lr = 'x'", "lr is 'x': Input should be a valid number"),
        ("lr = 0", "lr is 0"),
        ("lr = nan", "lr is nan"),
        ("epochs = 2.0", "epochs is 2.0"),
        ("epochs = true", "epochs is True"),
        ("batch = 0", "batch is 0"),
        ("average_from = 1.5", "average_from is 1.5"),
        ("learning_rate = 1", "there is no 'learning_rate', but epochs, batch, lr"),
        ("lr 1", "Expected '=' after a key"),
        ("[scene]\nlr = 1", "there is no 'scene'"),
        ("schedule = 'x'", "'schedule = x': choose one of constant, cosine"),
        ("fixed = 'x'\nstart_from = '.'", "'fixed = x': choose one of none, front_end"),
        ("fixed = 'front_end'", "fixed needs start_from"),
    ],
)
def test_a_recipe_that_cannot_be(tmp_path, text, message):
    with pytest.raises(ParameterError) as error:
        settings_of(tmp_path / "x.toml", text)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("parameter 'recipe' is ")


def test_a_recipe_that_is_not_there():
    with pytest.raises(ParameterError, match="'gone.toml': choose one of cp_resnet, crop_pad"):
        check("02_baseline", **(BASELINE | {"recipe": "gone.toml"}))


@pytest.fixture
def start(saved, tmp_path):
    """A copy of a saved system, under tmp_path."""
    return shutil.copytree(saved.folder, tmp_path / "start")


def test_a_run_is_named_by_the_weights_that_it_starts_from_and_not_by_their_path(start, tmp_path):
    text = 'start_from = "{}"'
    found = name(settings_of(tmp_path / "a.toml", text.format("start")))
    assert found != name(check("04_attention", **ATTENTION))
    assert found == name(settings_of(tmp_path / "a.toml", text.format(start)))
    assert found == name(settings_of(tmp_path / "b" / "a.toml", text.format("../start/.")))
    weights = start / system.NETWORK
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert found != name(settings_of(tmp_path / "a.toml", text.format("start")))
    fixed = text.format("start") + '\nfixed = "front_end"'
    assert name(settings_of(tmp_path / "a.toml", fixed)) != found


def test_parts_that_fit_are_taken_over(saved, start, tmp_path):
    source = saved.net.state_dict()

    def begun(notebook="04_attention", scenes=saved.scenes, **others):
        usual = ATTENTION if notebook == "04_attention" else BASELINE
        path = tmp_path / "x.toml"
        path.write_text('start_from = "start"')
        found = check(notebook, **(usual | {"recipe": str(path)} | others))
        return replace(scenes, recipe=replace(found.recipe, tag_scale="raw")).network(found)

    def equal(net, part):
        own = {k: v for k, v in net.state_dict().items() if k.startswith(part)}
        return bool(own) and all(torch.equal(value, source[k]) for k, value in own.items())

    same = begun()
    assert same.taken_over == ["front_end", "fusion", "code", "output"]
    assert all(torch.equal(value, source[k]) for k, value in same.state_dict().items())
    corpus = saved.scenes.corpus
    clips = corpus.clips.assign(scene_label=corpus.clips["scene_label"].replace("park", "parc"))
    other = begun(scenes=replace(saved.scenes, corpus=replace(corpus, clips=clips)))
    assert other.taken_over == ["front_end", "fusion", "code"] and not equal(other, "output")
    alone = begun("02_baseline", replace(saved.scenes, vectors=None))
    assert alone.taken_over == ["front_end"] and equal(alone, "front_end")
    assert not equal(alone, "code")
    with pytest.raises(ParameterError, match="whose front-end, narrow, does not fit"):
        begun("02_baseline", replace(saved.scenes, vectors=None), front_end="table1")
    (start / system.ABOUT).unlink()
    with pytest.raises(ParameterError, match="start_from is .*start, which is no saved system"):
        begun()


def test_training_leaves_a_fixed_front_end_as_it_is(saved, start, tmp_path):
    text = 'start_from = "start"\nepochs = 1\nlr = 0.1\ncrop = 24_000\ntag_scale = "raw"\n'
    for fixed in ("none", "front_end"):
        settings = settings_of(tmp_path / "x.toml", f'{text}fixed = "{fixed}"')
        scenes = replace(saved.scenes, recipe=settings.recipe)
        net = scenes.network(settings)
        assert net.training and net.front_end.training == (fixed == "none")
        scenes.train(net, 0)
        changed = {
            key.split(".")[0]
            for key, value in net.state_dict().items()
            if not torch.equal(value, saved.net.state_dict()[key])
        }
        assert ("front_end" in changed) == (fixed == "none") and "output" in changed
    with roots(tmp_path):
        history = pd.DataFrame([{"epoch": 1, "loss": 1.0, "seconds": 1.0}])
        record = records.write_scene_record(settings, scenes, net, history, saved.evaluated)
        folder = system.save(settings, scenes, net, record)
        (read,) = records.read_records("mini")
        assert read["start_from"] == fine_tuning.origin(start) | {"taken_over": net.taken_over}
        assert read["recipe"]["start_from"] == "start" and read["recipe"]["fixed"] == "front_end"
        assert read["parameters"]["recipe"] == "x.toml" and str(tmp_path) not in json.dumps(read)
        (kind,) = tables.Results("mini").systems
        assert "recipe of " in kind.name and "fixed front_end" in kind.name
        other = read | {"recipe": {"lr": 0.1}}  # of a file of the same name
        assert tables.Kind.of(other, {"recipe": ""}).changed == "recipe of lr 0.1"
    assert system.load(folder).about["start_from"]["run"] == fine_tuning.origin(start)["run"]
    assert "| started from | " in (folder / "README.md").read_text()
