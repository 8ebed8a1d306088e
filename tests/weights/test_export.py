import importlib
import json
import re
import stat
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from runs import VISION, cli, rows, write_problem
from safetensors.torch import load_file

import moofusion
from moofusion import FunctionTask, MergeProblem, ModelPool, SearchResult
from moofusion.errors import ConfigurationError, RunError, UnknownNameError
from moofusion.zoo import zoo_folder

# What a user without moofusion does: load, predict image by image set, count.
PLAIN = """
import json, sys
import numpy as np, torch
from transformers import AutoImageProcessor, ViTForImageClassification
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
folder, readme, data = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
recipe = open(readme).read().split("```python")[1].split("```")[0].replace("PATH", folder)
processor = AutoImageProcessor.from_pretrained(folder)
right = {}
for task, file in data.items():
    space = {}
    if task == next(iter(data)):
        model = ViTForImageClassification.from_pretrained(folder)
    else:
        import re
        exec(re.sub(r'task = "\\w+"', f'task = "{task}"', recipe), space)
        model = space["model"]
    archive = np.load(file)
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    assert names == archive["classes"].tolist(), names
    hits = 0
    for start in range(0, len(archive["test_labels"]), 125):
        part = slice(start, start + 125)
        pixels = processor(
            images=list(archive["test_images"][part][..., None]),
            input_data_format="channels_last", return_tensors="pt",
        )["pixel_values"]
        with torch.no_grad():
            found = model(pixel_values=pixels).logits.argmax(-1).numpy()
        hits += int((found == archive["test_labels"][part]).sum())
    right[task] = hits / len(archive["test_labels"])
print(json.dumps(right))
"""


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    """A short search on the shipped models. Read only."""
    folder = tmp_path_factory.mktemp("vision") / "run"
    options = ("--algorithm", "nsga2:pop_size=6", "--evaluations", 12, "--out", folder)
    found = cli("search", *VISION, *options)
    assert found.code == 0, found.err
    return folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory, vit_folders, images):
    """A finished search on tiny models with three heads. Read only."""
    folder = tmp_path_factory.mktemp("toy")
    file = write_problem(folder, vit_folders, images, tasks=("dots", "bars", "rings"))
    return moofusion.search(
        moofusion.get_problem(file), "random", evaluations=30, seed=2, out=folder / "run"
    )


def _flat(folder):
    return load_file(folder / "model.safetensors")


# ------------------------------------------------------------------ the checkpoint is the model


def test_plain_transformers_reproduce_the_recorded_metrics_with_every_head(vision, tmp_path):
    to = tmp_path / "merged"
    found = cli("export", vision, "--preference", "objects=0.7,animals=0.3", "--to", to)
    assert found.code == 0, found.err
    recorded = json.loads((to / "merge.json").read_text())["metrics"]["test"]
    zoo = zoo_folder("vision4") / "data"
    data = {task: str(zoo / f"{task}.npz") for task in ("objects", "animals")}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(to), str(to / "README.md"), json.dumps(data)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == recorded
    front = rows(vision / "front.csv")
    assert {f"{task}:test": repr(value) for task, value in recorded.items()}.items() <= next(
        row for row in front if row["objects:test"] == repr(recorded["objects"])
    ).items()


def test_the_default_head_is_that_of_the_task_that_matters_most(toy, tmp_path):
    assert toy.export(tmp_path / "a", "bars=0.6,dots=0.4").head == "bars"
    assert toy.export(tmp_path / "b", "rings=1", by="asf").head == "rings"
    chosen = toy.export(tmp_path / "c", point=1, head="dots")
    assert (chosen.head, set(chosen.other_heads)) == ("dots", {"bars", "rings"})


def test_every_stored_head_is_loaded_by_the_recipe_of_the_card(toy, tmp_path, monkeypatch):
    from transformers import ViTForImageClassification
    from transformers.utils import logging

    monkeypatch.setattr(logging, "get_verbosity", lambda: logging.ERROR)
    done = toy.export(tmp_path / "out", "bars=1")
    recipe = re.search(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.S)[1]
    problem = toy.problem
    index = toy.front.choose("bars=1")
    problem.evaluator.pool.model.weights.copy_(
        problem.evaluator.weights(problem.space.coefficients(toy.front.X[index][None])[0])
    )
    logging.set_verbosity_error()
    for task in (done.head, *done.other_heads):
        text = recipe.replace("PATH", str(tmp_path / "out"))
        space = {}
        if task == done.head:
            space["model"] = ViTForImageClassification.from_pretrained(tmp_path / "out")
        else:
            exec(re.sub(r'task = "\w+"', f'task = "{task}"', text), space)
        module = problem.evaluator.pool.model.modules[task]
        theirs, ours = space["model"].state_dict(), module.state_dict()
        assert list(theirs) == list(ours)
        assert all(torch.equal(theirs[key], ours[key]) for key in ours), task
        assert not space["model"].training


def test_the_recipe_in_merge_json_makes_the_same_weights(vit_folders, images, tmp_path):
    from transformers import ViTForImageClassification, ViTModel

    file = write_problem(tmp_path, vit_folders, images)
    problem = moofusion.get_problem(
        file, space={"kind": "block-wise", "select": "mlp+attention", "static": 0.5}
    )
    result = moofusion.search(problem, "random", evaluations=4, seed=1)
    result.export(tmp_path / "out", point=1)
    recipe = json.loads((tmp_path / "out" / "merge.json").read_text())
    merged = ViTForImageClassification.from_pretrained(tmp_path / "out").vit.state_dict()
    base = ViTModel.from_pretrained(recipe["sources"]["base"], add_pooling_layer=False)
    experts = {
        name: ViTForImageClassification.from_pretrained(recipe["sources"][name]).vit.state_dict()
        for name in recipe["experts"]
    }
    row_of = {t: i for i, group in enumerate(recipe["groups"]) for t in recipe["members"][group]}
    assert 0 < len(row_of) < len(merged)
    for name, value in base.state_dict().items():
        weights = recipe["coefficients"][row_of[name]] if name in row_of else recipe["static"]
        expected = value.double()
        for expert, weight in zip(experts.values(), weights, strict=True):
            expected = expected + weight * (expert[name].double() - value.double())
        assert torch.allclose(merged[name].double(), expected, atol=1e-6), name


def test_an_expert_is_exported_bit_for_bit(vit_folders, images, tmp_path):
    problem = moofusion.get_problem(write_problem(tmp_path, vit_folders, images))
    result = moofusion.search(problem, "grid:n_points=3", evaluations=3)
    assert np.array_equal(
        np.sort(result.problem.space.uniform(np.eye(2)), axis=0), [[0, 0], [1, 1]]
    )
    one_hot = next((i for i, x in enumerate(result.front.X) if sorted(x) == [0, 1]), None)
    assert one_hot is not None
    name = ("dots", "bars")[int(result.front.X[one_hot].argmax())]
    result.export(tmp_path / "out", point=one_hot + 1, head=name)
    expert = load_file(vit_folders.experts[name] / "model.safetensors")
    written = _flat(tmp_path / "out")
    assert written.keys() == expert.keys()
    assert all(torch.equal(written[key], expert[key]) for key in expert)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_smaller_precision_is_stored_and_said(toy, tmp_path, dtype):
    from transformers import ViTForImageClassification

    toy.export(tmp_path / "full", point=1)
    toy.export(tmp_path / "half", point=1, dtype=dtype)
    full, half = _flat(tmp_path / "full"), _flat(tmp_path / "half")
    kind = getattr(torch, dtype)
    assert full.keys() == half.keys()
    assert all(torch.equal(full[key].to(kind), half[key]) for key in full)
    heads = load_file(next((tmp_path / "half" / "heads").glob("*/head.safetensors")))
    assert {value.dtype for value in heads.values()} == {kind}
    assert ViTForImageClassification.from_pretrained(tmp_path / "half").dtype == kind
    assert f"stored rounded to {dtype}" in (tmp_path / "half" / "README.md").read_text()
    assert "rounded" not in (tmp_path / "full" / "README.md").read_text()
    for config in (tmp_path / "half").rglob("config.json"):
        assert json.loads(config.read_text())["dtype"] == dtype


def test_the_search_goes_on_unharmed_after_an_export(toy, tmp_path):
    problem = toy.problem
    before = [problem.evaluator.measure(problem.space.coefficients(toy.front.X[:1]), "test")]
    toy.export(tmp_path / "out", point=len(toy.front), dtype="float16")
    after = problem.evaluator.measure(problem.space.coefficients(toy.front.X[:1]), "test")
    assert [m.metrics for m in after[0].measurements] == [
        m.metrics for m in before[0][0].measurements
    ]
    assert {str(module.dtype) for module in problem.evaluator.pool.model.modules.values()} == {
        "torch.float32"
    }


# ------------------------------------------------------------------ which model


def test_the_exported_model_maximises_the_preference_on_measured_values(vision, tmp_path, rng):
    front = rows(vision / "front.csv")
    anchors = rows(vision / "references.csv")[:3]
    tasks = ("animals", "objects")
    scaled = np.empty((len(front), 2))
    for j, task in enumerate(tasks):
        known = [float(row[f"{task}:search"]) for row in anchors]
        scaled[:, j] = [
            (float(row[f"{task}:search"]) - min(known)) / (max(known) - min(known)) for row in front
        ]
    result = SearchResult.load(vision)
    for weights in [(1, 0), (0, 1), *rng.dirichlet([1, 1], 30)]:
        wish = ",".join(f"{task}={w}" for task, w in zip(tasks, weights, strict=True))
        gain = scaled @ np.array(weights, float)
        assert gain[result.front.choose(wish)] == pytest.approx(gain.max(), abs=1e-12)
    to = tmp_path / "out"
    assert cli("export", vision, "--preference", "animals=1", "--to", to).code == 0
    recorded = json.loads((to / "merge.json").read_text())
    assert recorded["metrics"]["search"]["animals"] == max(
        float(row["animals:search"]) for row in front
    )
    L = [[float(front[int(re.search(r"point (\d+) of", recorded["chosen"])[1]) - 1][f"x:{t}"])
          for t in tasks]]  # fmt: skip
    assert recorded["coefficients"] == L


def test_a_point_is_exported_by_its_number(toy, tmp_path):
    for point in (1, len(toy.front)):
        toy.export(tmp_path / str(point), point=point)
        recipe = json.loads((tmp_path / str(point) / "merge.json").read_text())
        assert recipe["decision_vector"] == toy.front.X[point - 1].tolist()
        assert recipe["metrics"]["test"] == dict(
            zip(toy.front.tasks, toy.front.test[point - 1].tolist(), strict=True)
        )


def test_the_card_states_what_is_in_the_checkpoint(toy, tmp_path, vit_folders):
    toy.export(tmp_path / "out", "dots=0.2,rings=0.8", by="asf")
    text = (tmp_path / "out" / "README.md").read_text()
    index = toy.front.choose("dots=0.2,rings=0.8", by="asf")
    assert text.startswith("---\nlibrary_name: transformers\n")
    for source in (vit_folders.base, *vit_folders.experts.values()):
        assert f"`{source}`" in text
    for value in toy.front.X[index]:
        assert f"{value:.4f}" in text
    for values in (toy.front.search, toy.front.test):
        assert all(f"{value:.6g}" in text for value in values[index])
    assert "chosen by 'asf' with preference dots=0.2, rings=0.8" in text
    assert f"(point {index + 1} of {len(toy.front)})" in text
    assert f"`{toy.settings['fingerprint']}`" in text
    assert "head of **rings**" in text
    assert "random" in text


WRONG = {
    "unknown task": ({"preference": "dotz=1"}, "unknown objective in the preference 'dotz'"),
    "negative": ({"preference": "dots=-1,bars=2"}, "must be numbers >= 0"),
    "all zero": ({"preference": "dots=0,bars=0"}, "all preference weights are zero"),
    "garbage": ({"preference": "more dots please"}, "cannot read 'more dots please'"),
    "too few numbers": ({"preference": [0.5, 0.5]}, "needs 3 numbers"),
    "point 0": ({"point": 0}, "its points are 1 to"),
    "point beyond": ({"point": 10_000}, "point 10000 is not in the front"),
    "point and preference": ({"point": 1, "preference": "dots=1"}, "not both"),
    "unknown head": ({"point": 1, "head": "squares"}, "unknown task 'squares'"),
    "unknown dtype": ({"point": 1, "dtype": "int8"}, "unknown dtype 'int8'"),
    "unknown way": ({"by": "coin"}, "unknown way to choose 'coin'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wish_that_cannot_be_met_writes_nothing(toy, tmp_path, what):
    options, message = WRONG[what]
    with pytest.raises(ConfigurationError, match=message):
        toy.export(tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ complete or not at all


def test_an_existing_folder_is_replaced_on_request_only(toy, tmp_path):
    toy.export(tmp_path / "out", point=1)
    before = _flat(tmp_path / "out")
    with pytest.raises(RunError, match="exists already; --force replaces it"):
        toy.export(tmp_path / "out", point=2)
    toy.export(tmp_path / "out", point=2, force=True)
    after = _flat(tmp_path / "out")
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_not_an_export_is_never_replaced(toy, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("mine")
    for name in ("mine", "file"):
        with pytest.raises(RunError, match="not an export of moofusion"):
            toy.export(tmp_path / name, point=1, force=True)
    with pytest.raises(RunError, match="cannot be written"):
        toy.export(tmp_path / "file" / "below", point=1)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "stage", ["export._save", "export._save_heads", "export.add_companions",
              "folders._share", "folders._swap"],
)  # fmt: skip
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["disk", "key"])
def test_an_interrupted_export_leaves_nothing_behind(toy, tmp_path, monkeypatch, stage, error):
    place, stage = stage.split(".")
    module = importlib.import_module(f"moofusion.weights.{place}")
    original = getattr(module, stage)

    def broken(*args, **kwargs):
        if stage != "_swap":
            original(*args, **kwargs)
        raise error

    monkeypatch.setattr(module, stage, broken)
    with pytest.raises((RunError, KeyboardInterrupt)):
        toy.export(tmp_path / "new", point=1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    toy.export(tmp_path / "old", point=1)
    before = {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir() if p.is_file()}
    monkeypatch.setattr(module, stage, broken)
    with pytest.raises((RunError, KeyboardInterrupt)):
        toy.export(tmp_path / "old", point=2, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir() if p.is_file()} == before


def test_others_may_read_what_is_written(toy, tmp_path):
    toy.export(tmp_path / "out", point=1)
    (tmp_path / "plain").write_text("")
    (tmp_path / "folder").mkdir()
    expected = {False: (tmp_path / "plain").stat(), True: (tmp_path / "folder").stat()}
    for path in (tmp_path / "out", *(tmp_path / "out").rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == stat.S_IMODE(expected[path.is_dir()].st_mode), path


def test_changed_models_are_noticed(vit_folders, images, tmp_path):
    import shutil
    from types import SimpleNamespace

    models = shutil.copytree(vit_folders.root, tmp_path / "models")
    moved = SimpleNamespace(
        base=models / "base", experts={name: models / name for name in vit_folders.experts}
    )
    file = write_problem(tmp_path, moved, images)
    moofusion.search(moofusion.get_problem(file), "random", evaluations=4, out=tmp_path / "run")
    SearchResult.load(tmp_path / "run").export(tmp_path / "before", point=1)
    tiny.edit_weights(models / "dots", lambda state: {k: v * 1.01 for k, v in state.items()})
    with pytest.raises(RunError, match="have changed since this run"):
        SearchResult.load(tmp_path / "run").export(tmp_path / "after", point=1)
    assert not (tmp_path / "after").exists()


# ------------------------------------------------------------------ other kinds of models


def test_a_plain_module_is_exported_with_a_card_that_suits_it(tmp_path):
    pool = tiny.net_pool(("a", "b"))
    problem = MergeProblem(
        ModelPool(pool.base, pool.experts, heads=["head.*"]), tiny.net_tasks(pool)
    )
    result = moofusion.search(problem, "random", evaluations=5, seed=1)
    done = result.export(tmp_path / "out", "a=1", head="a")
    text = (tmp_path / "out" / "README.md").read_text()
    recipe = re.search(r"```python\n(.*?)```", text, re.S)[1].replace("PATH", str(tmp_path / "out"))
    assert "from transformers" not in recipe
    assert done.other_heads == ("b",)
    space = {"model": tiny.net(seed=77)}
    exec(recipe, space)
    index = result.front.choose("a=1")
    x = problem.space.coefficients(result.front.X[index][None])[0]
    problem.evaluator.weights(x)
    inputs = torch.randn(5, 4)
    assert torch.equal(space["model"](inputs), problem.evaluator.pool.model.modules["b"](inputs))


def test_a_tied_language_model_keeps_its_tie(tmp_path):
    from transformers import AutoModelForCausalLM, GPT2LMHeadModel

    build = lambda seed: tiny.build(GPT2LMHeadModel, tiny.gpt2_config(), seed)  # noqa: E731
    base = build(0)
    experts = {"a": tiny.drift(build(0), 1), "b": tiny.drift(build(0), 2)}
    for expert in experts.values():
        expert.tie_weights()
    tokens = torch.arange(2, 14)[None]

    def loss(module):
        with torch.no_grad():
            return float(module(input_ids=tokens, labels=tokens).loss)

    tasks = [FunctionTask("fluency", loss, test=loss, direction="min")]
    problem = MergeProblem(ModelPool(base, experts), tasks)
    result = moofusion.search(problem, "random", evaluations=6, seed=1)
    result.export(tmp_path / "out", point=1, head="fluency")
    assert "lm_head.weight" not in _flat(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loss(loaded) == result.front.test[0, 0]


def test_a_run_made_in_memory_is_exported_in_its_own_session_only(tmp_path):
    problem = tiny.net_problem()
    result = moofusion.search(problem, "random", evaluations=5, seed=1, out=tmp_path / "run")
    result.export(tmp_path / "out", "a=1")
    with pytest.raises(ConfigurationError, match="from the Python session that ran it"):
        SearchResult.load(tmp_path / "run").export(tmp_path / "again", "a=1")


def test_a_module_that_the_pool_does_not_have_is_refused(toy, tmp_path):
    from moofusion.weights.export import export_checkpoint

    pool = toy.problem.evaluator.pool
    with pytest.raises(UnknownNameError, match="unknown head 'squares'"):
        export_checkpoint(
            pool, pool.vectors.base, to=tmp_path / "out", head="squares", card="", recipe={}
        )
