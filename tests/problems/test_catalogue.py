"""The catalogue and problem files of users: validated, overridable, clear when wrong."""

from itertools import combinations

import numpy as np
import pytest
import tiny

from moofusion import get_problem, list_problems
from moofusion.errors import ConfigurationError, DataError, PoolError, UnknownNameError
from moofusion.problems import problem_spec

VISION = ("mnist", "fashion", "animals", "objects")


# ------------------------------------------------------------------------------- shipped


def test_every_shipped_file_is_valid():
    found = list_problems()
    assert {"vision4", "vision5"} <= set(found)
    for name, file in found.items():
        spec = problem_spec(name)
        assert file.stem == name
        assert spec.title
        assert spec.description
        assert [task.name for task in spec.tasks] == list(spec.pool.experts)


@pytest.fixture(scope="module")
def vision4():
    return get_problem("vision4", device="cpu")


def test_vision4_opens_and_is_what_it_says(vision4):
    assert vision4.name() == "vision4"
    assert vision4.task_names == vision4.space.experts == VISION
    assert (vision4.n_var, vision4.n_obj) == (4, 4)
    assert vision4.has_test_split
    for task in vision4.tasks:
        assert all(task.has_split(split) for split in ("train", "search", "test"))


def test_vision4_is_measured(vision4):
    """One candidate on its smallest task: an expert is good at what it was trained for."""
    problem = get_problem("vision4", tasks=["animals"], experts=["animals", "mnist"], device="cpu")
    own, other = problem.evaluate(np.eye(2))[:, 0]
    assert own < 0.45
    assert other > own + 0.1


@pytest.mark.parametrize(
    "names", [c for size in (2, 3) for c in combinations(VISION, size)], ids="-".join
)
def test_pairs_and_triples_of_vision4(names):
    problem = get_problem("vision4", tasks=names, device="cpu")
    assert problem.task_names == problem.space.experts == names
    assert (problem.n_var, problem.n_obj) == (len(names), len(names))


def test_tasks_come_in_the_order_they_were_named():
    spec = problem_spec("vision4", tasks=["objects", "mnist"])
    assert [task.name for task in spec.tasks] == list(spec.pool.experts) == ["objects", "mnist"]


def test_experts_may_differ_from_the_tasks():
    spec = problem_spec("vision4", tasks=["mnist"], experts=["fashion", "mnist"])
    assert [task.name for task in spec.tasks] == ["mnist"]
    assert list(spec.pool.experts) == ["fashion", "mnist"]


def test_a_zoo_that_is_not_built_says_how(monkeypatch, tmp_path):
    monkeypatch.setenv("MOOFUSION_ZOO", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match="moofusion zoo build vision5"):
        get_problem("vision5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problem": "vision"}, r"unknown problem 'vision'; did you mean 'vision\d'"),
        ({"problem": "nowhere"}, r"unknown problem 'nowhere'.*path to a \.toml"),
        ({"tasks": ["minst"]}, "unknown task 'minst'; did you mean 'mnist'"),
        ({"experts": ["minst"]}, "unknown expert 'minst'; did you mean 'mnist'"),
        ({"space": "blockwise"}, "unknown space 'blockwise'; did you mean 'block-wise'"),
    ],
)
def test_unknown_names(options, message):
    with pytest.raises(UnknownNameError, match=message):
        get_problem(**({"problem": "vision4"} | options))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("mnist", "list of names, got 'mnist'"),
        ([], r"list of names, got \[\]"),
        (["mnist", "mnist"], "occurs twice"),
    ],
)
def test_lists_of_tasks_that_make_no_sense(tasks, message):
    with pytest.raises(ConfigurationError, match=message):
        get_problem("vision4", tasks=tasks)


# ----------------------------------------------------------------------------- overrides


def test_values_are_overridden_by_dotted_key():
    spec = problem_spec(
        "vision4",
        overrides={
            "title": "mine",
            "tasks.mnist.batch_size": 77,
            "tasks.animals.objective": "loss",
            "space.upper": 1.5,
            "pool.experts.mnist": "elsewhere",
        },
    )
    assert spec.title == "mine"
    assert spec.tasks[0].batch_size == 77
    assert [task.objective for task in spec.tasks] == ["accuracy", "accuracy", "loss", "accuracy"]
    assert spec.space.upper == 1.5
    assert spec.pool.experts["mnist"] == "elsewhere"


def test_overrides_do_not_stick():
    problem_spec("vision4", overrides={"title": "mine"})
    assert problem_spec("vision4").title == "vision4"


def test_space_and_objective_have_arguments_of_their_own():
    problem = get_problem(
        "vision4",
        tasks=["animals", "objects"],
        space={"kind": "depth-spline", "controls": 2},
        objective="loss",
        overrides={"space.upper": 2.0},
        device="cpu",
    )
    assert problem.n_var == 4
    assert problem.xu.max() == 2
    assert [task.objective.name for task in problem.tasks] == ["loss", "loss"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("space.uper", 1, ["unknown key 'space.uper'", "did you mean 'upper'"]),
        ("spcae.upper", 1, ["unknown key 'spcae'", "did you mean 'space'"]),
        ("tasks.mnist.batchsize", 1, ["batchsize'", "did you mean 'batch_size'"]),
        ("tasks.minst.batch_size", 1, ["'minst'; did you mean 'mnist'", "tasks.minst.batch_size"]),
        ("tasks.mnist.batch_size", "many", ["batch_size'", "valid integer", "got 'many'"]),
        ("tasks.mnist.batch_size", 0, ["batch_size'", "greater than or equal to 1", "got 0"]),
        ("tasks.mnist.objective", "f1", ["objective'", "'macro_f1'", "got 'f1'"]),
        ("tasks.mnist.kind", "audio", ["tasks.0", "'image-classification'", "audio"]),
        ("space.upper", [1], ["key 'space.upper'", "valid number", "got [1]"]),
        ("pool.heads", "some", ["key 'pool.heads'", "'auto'"]),
        ("pool.base.folder", "x", ["pool.base.folder"]),
        ("title.x", "y", ["title.x"]),
    ],
)
def test_wrong_overrides_name_file_key_and_expectation(key, value, words):
    with pytest.raises(ConfigurationError) as caught:
        problem_spec("vision4", overrides={key: value})
    for word in ["vision4.toml", *words]:
        assert word in str(caught.value), f"{word!r} is missing from: {caught.value}"


# --------------------------------------------------------------------- files of the users

FILE = """
title = "shapes"

[pool]
base = "models/base"

[pool.experts]
dots = "models/dots"
bars = "models/bars"

[[tasks]]
name = "dots"
kind = "image-classification"
data = "dots.npz"

[[tasks]]
name = "bars"
kind = "image-classification"
data = "bars.npz"
batch_size = 16

[[constraints]]
task = "dots"
at_least = 0.9
relative_to = "base"
"""


@pytest.fixture
def folder(tmp_path, vit_folders, images):
    (tmp_path / "models").symlink_to(vit_folders.root)
    for name in ("dots", "bars"):
        arrays = {"classes": np.array(images[name].classes)}
        for split in tiny.SIZES:
            arrays[f"{split}_images"] = images[name].items[split]
            arrays[f"{split}_labels"] = images[name].labels[split]
        np.savez(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "shapes.toml").write_text(FILE)
    return tmp_path


def _edit(folder, old, new):
    file = folder / "shapes.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    return file


def test_paths_are_relative_to_the_file(folder, vit_tasks, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    problem = get_problem(folder / "shapes.toml")
    assert problem.task_names == ("dots", "bars")
    dots = problem.evaluate(np.array([[1.0, 0.0]]), return_values_of=["F"])[0, 0]
    module = problem.evaluator.pool.model.modules["dots"]
    problem.evaluator.weights(np.array([[1.0, 0.0]]))
    assert dots == 1 - vit_tasks[0].evaluate(module, "search").metrics["accuracy"]


def test_a_path_may_be_text_and_start_at_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert get_problem("~/shapes.toml").name() == "shapes"


def test_constraints_are_read(folder):
    problem = get_problem(folder / "shapes.toml")
    assert problem.n_ieq_constr == 1
    F, G = problem.evaluate(np.array([[0.4, 0.2]]))
    assert G[0, 0] == pytest.approx(0.9 * (1 - problem.anchors().F[0, 0]) - (1 - F[0, 0]))


def test_constraints_go_with_their_task(folder):
    assert problem_spec(folder / "shapes.toml", tasks=["bars"]).constraints == []
    assert len(problem_spec(folder / "shapes.toml", tasks=["bars", "dots"]).constraints) == 1


def test_constraints_are_overridden_by_their_task(folder):
    spec = problem_spec(folder / "shapes.toml", overrides={"constraints.dots.at_least": 0.5})
    assert spec.constraints[0].at_least == 0.5


def test_a_constraint_on_nothing_is_named(folder):
    file = _edit(folder, 'task = "dots"\n', 'task = "dts"\n')
    with pytest.raises(UnknownNameError, match="'dts'; did you mean 'dots'"):
        get_problem(file)


def test_the_title_is_the_file_name_by_default(folder):
    assert problem_spec(_edit(folder, 'title = "shapes"', "")).title == "shapes"


def test_problems_of_text(tmp_path):
    """A whole text problem from folders that plain libraries wrote."""
    from transformers import BertForSequenceClassification, BertModel

    tiny.save(tiny.build(BertModel, tiny.bert_config()), tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    for i, name in enumerate(("mood", "topic")):
        expert = tiny.build(BertForSequenceClassification, tiny.bert_config(labels=2), i)
        tiny.save(expert, tmp_path / name)
        (tmp_path / f"{name}-data").mkdir()
        for split in ("train", "validation", "test"):
            lines = [f"{text},{'no' if i % 3 else 'yes'}" for i, text in
                     enumerate(tiny.sentences(12, i))]  # fmt: skip
            file = tmp_path / f"{name}-data" / f"{split}.csv"
            file.write_text("\n".join(["sentence,answer", *lines, ""]))
    tasks = "".join(
        f'[[tasks]]\nname = "{name}"\nkind = "text-classification"\ndata = "{name}-data"\n'
        f'column = "sentence"\nlabel = "answer"\nobjective = "loss"\nmax_length = 8\n'
        for name in ("mood", "topic")
    )
    (tmp_path / "texts.toml").write_text(
        'space = {kind = "simplex"}\n[pool]\nbase = "base"\n'
        f'[pool.experts]\nmood = "mood"\ntopic = "topic"\n{tasks}'
    )
    problem = get_problem(tmp_path / "texts.toml")
    F, dF = problem.evaluate(np.array([[0.5, 0.5]]), return_values_of=["F", "dF"])
    assert np.isfinite(F).all()
    assert dF.shape == (1, 2, 2)
    assert problem.tasks[0].n_samples("search") == 12


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('title = "shapes"', "title = shapes", ["not valid TOML", "line 2"]),
        ('title = "shapes"', "title = 3", ["key 'title'", "valid string", "got 3"]),
        ('title = "shapes"', 'titel = "x"', ["unknown key 'titel'", "did you mean 'title'"]),
        ("[pool]", "[pol]", ["unknown key 'pol'", "did you mean 'pool'"]),
        ('base = "models/base"', "", ["key 'pool.base' is missing"]),
        ('base = "models/base"', "base = 3", ["key 'pool.base'", "valid string", "got 3"]),
        ("batch_size = 16", 'batch_size = "x"', ["batch_size'", "valid integer", "got 'x'"]),
        ("batch_size = 16", "batch_sise = 16", ["batch_sise'", "did you mean 'batch_size'"]),
        ("batch_size = 16", "max_length = 16", ["unknown key", "max_length'"]),
        ("at_least = 0.9", "atleast = 0.9", ["constraints.0.atleast'", "'at_least'"]),
        ('kind = "image-classification"\n', "", ["tasks.0", "kind"]),
        ("[[tasks]]", "[[task]]", ["unknown key 'task'", "did you mean 'tasks'"]),
    ],
)
def test_wrong_files_are_explained(folder, old, new, words):
    file = _edit(folder, old, new)
    with pytest.raises(ConfigurationError) as caught:
        get_problem(file)
    for word in [str(file), *words]:
        assert word in str(caught.value), f"{word!r} is missing from: {caught.value}"


@pytest.mark.parametrize("text", ["", "tasks = 3", 'tasks = ["x"]', "pool = 1", "[[pool]]"])
@pytest.mark.parametrize("tasks", [None, ["dots"]])
def test_files_of_another_form_are_explained(tmp_path, text, tasks):
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(ConfigurationError):
        get_problem(tmp_path / "odd.toml", tasks=tasks)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match=r"there is no problem file .*nowhere\.toml"):
        get_problem(tmp_path / "nowhere.toml")


def test_text_that_is_not_unicode(tmp_path):
    (tmp_path / "odd.toml").write_bytes(b'title = "\xff"')
    with pytest.raises(ConfigurationError, match=r"odd\.toml"):
        get_problem(tmp_path / "odd.toml")


def test_a_folder_that_looks_like_a_file(tmp_path):
    (tmp_path / "odd.toml").mkdir()
    with pytest.raises(ConfigurationError, match=r"odd\.toml cannot be read"):
        get_problem(tmp_path / "odd.toml")


def test_missing_models_and_data_are_named(folder):
    with pytest.raises(PoolError, match="models/gone"):
        get_problem(_edit(folder, "models/bars", "models/gone"))
    _edit(folder, "models/gone", "models/bars")
    with pytest.raises(DataError, match=r"gone\.npz"):
        get_problem(_edit(folder, "bars.npz", "gone.npz"))


def test_a_processor_that_is_missing_is_named(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    file = _edit(folder, 'data = "dots.npz"', f'data = "dots.npz"\nprocessor = "{empty}"')
    with pytest.raises(DataError, match="'dots': no image processor"):
        get_problem(file).evaluate(np.zeros((1, 2)))
