import csv
import re
import shlex
import tomllib
from pathlib import Path
from typing import get_args

import click
import numpy as np
import pytest
import typer

import moofusion.cli
from moofusion import SearchResult
from moofusion.merging import METHODS, make_method
from moofusion.problems import spec as specs
from moofusion.problems import task_spec
from moofusion.problems.spec import read_spec

ROOT = Path(__file__).parent.parent
BENCHES = ROOT / "moofusion" / "comparison" / "benches"
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


@pytest.fixture
def own_models(tmp_path, vit_folders, images):
    """The folder that the page on problem files talks about: my.toml, models/ and data/."""
    (tmp_path / "models").mkdir()
    (tmp_path / "data").mkdir()
    pairs = {"letters": "dots", "digits": "bars"}
    (tmp_path / "models" / "base").symlink_to(vit_folders.base)
    for name, like in pairs.items():
        (tmp_path / "models" / name).symlink_to(vit_folders.experts[like])
        data = images[like]
        arrays = {"classes": np.array(data.classes)}
        for split in data.items:
            arrays |= {f"{split}_images": data.items[split], f"{split}_labels": data.labels[split]}
        np.savez(tmp_path / "data" / f"{name}.npz", **arrays)
    (tmp_path / "my.toml").write_text(blocks(page("problem-files.md"), "toml")[0])
    return tmp_path


# ------------------------------------------------------------------ problem files


def test_the_example_of_own_models_can_be_searched(own_models):
    problem = moofusion.get_problem(own_models / "my.toml")
    assert problem.title == "letters and digits"
    assert problem.space.partition.has_static
    assert problem.space.static.tolist() == [0.4, 0.4]
    assert problem.xu.max() == 0.8
    assert [task.objective.name for task in problem.tasks] == ["accuracy", "macro_f1"]
    assert len(problem.constraints) == 1
    result = moofusion.search(problem, "random", evaluations=20, seed=1)
    assert len(result.front) > 0


def test_the_example_of_a_data_file_can_be_used(own_models, monkeypatch):
    monkeypatch.chdir(own_models / "data")
    exec(blocks(page("problem-files.md"), "python")[0], {})
    problem = moofusion.get_problem(own_models / "my.toml", tasks=["letters"])
    assert problem.tasks[0].classes == ("a", "b", "c")
    assert problem.evaluate(problem.xl[None]).shape == (1, 1)


def test_every_problem_file_in_the_docs_is_valid(tmp_path):
    found = [text for name in PAGES for text in blocks(name.read_text(), "toml")]
    assert len(found) >= 2
    for text in found:
        (tmp_path / "one.toml").write_text(text)
        spec = read_spec(tmp_path / "one.toml")
        for key in tomllib.loads(text):
            assert hasattr(spec, key)


def test_every_key_is_described_and_no_other():
    text = page("problem-files.md")
    tables = {
        "At the top": (
            (specs.ProblemSpec,),
            {"folder", "pool", "tasks", "space", "merge", "constraints"},
        ),
        "`[pool]`": ((specs.PoolSpec,), set()),
        "`[[tasks]]`": (get_args(get_args(task_spec.TaskSpec)[0]), set()),
        "`[space]`": ((specs.SpaceSpec,), set()),
        "`[merge]`": ((specs.MergeSpec,), set()),
        "`[[constraints]]`": ((specs.ConstraintSpec,), set()),
    }
    text = text[text.index("## Every key") :]
    for start, (models, elsewhere) in tables.items():
        table = text[text.index(start) :].split("\n\n")[1]
        lines = table.splitlines()[2:]
        described = {key for line in lines for key in re.findall(r"`(\w+)`", line.split("|")[1])}
        known = {key for model in models for key in model.model_fields}
        known |= {"extends", "only"} if start == "At the top" else set()
        assert described == known - elsewhere, start


def test_defaults_in_the_table_are_the_real_ones():
    text = page("problem-files.md")
    expected = {
        "column": "`image` or `text`", "label": "`label`", "objective": "the first",
        "max_length": "128", "allow_pickle": "`false`", "heads": '`"auto"`', "device": '`"auto"`',
    }  # fmt: skip
    for key, shown in expected.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{key}` |"))
        assert row.split("|")[3].strip() == shown
    assert task_spec.ImageTaskSpec.model_fields["column"].default == "image"
    assert task_spec.TextTaskSpec.model_fields["column"].default == "text"
    assert task_spec.TextTaskSpec.model_fields["max_length"].default == 128
    assert specs.PoolSpec.model_fields["heads"].default == "auto"


# ------------------------------------------------------------------ code


@pytest.mark.parametrize(
    "name",
    [
        "how-it-works.md", "own-metric.md", "merge-methods.md", "pwemoe.md", "map.md",
        "scalarization.md", "evolution.md", "explanation/gradient.md", "how-to/compare.md",
        "how-to/resume.md", "how-to/export.md", "how-to/merge-recipe.md",
        "how-to/add-an-algorithm.md", "migrate/mergenetic.md", "migrate/fusionbench.md",
        "migrate/pwemoe-code.md", "migrate/map-code.md",
    ],
)  # fmt: skip
def test_the_code_of_a_page_runs(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {}
    for code in blocks(page(name), "python"):
        exec(code, space)
    assert capsys.readouterr().out
    if name == "own-metric.md":
        result = space["result"]
        assert result.front.tasks == ("animals", "robust")
        assert 0 < result.front.values("test")[:, 1].max() <= 1
        assert (result.front.search[:, 1] < result.front.search[:, 0]).all()
    if name == "pwemoe.md":
        assert (tmp_path / "router.safetensors").stat().st_size < 20_000
        assert (tmp_path / "routed" / "config.json").exists()


def test_the_code_of_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = page("tutorial.md")
    # The checkpoint of the page, which the command line makes from 100 evaluations.
    problem = moofusion.get_problem("vision4", tasks=["animals", "objects"])
    found = moofusion.search(problem, "soup", evaluations=3, seed=1)
    found.export("mine", point=2, head="animals")
    accuracy = found.front.values("test")[1, 0]
    use, *rest = blocks(text, "python")
    space = {}
    exec(use, space)
    assert capsys.readouterr().out == f"animals: {accuracy:.4f}\n"
    for code in rest:
        exec(code.replace("evaluations=20", "evaluations=10"), space)
    assert len(capsys.readouterr().out.splitlines()) > 5
    assert (tmp_path / "chosen" / "config.json").exists()


def test_every_page_with_code_that_runs_is_run():
    listed = "".join(
        test.read_text(encoding="utf-8") for test in ROOT.glob("tests/**/test*docs.py")
    )
    for path in (ROOT / "docs").rglob("*.md"):
        if blocks(path.read_text(encoding="utf-8"), "python"):
            assert f'{path.relative_to(ROOT / "docs").as_posix()}"' in listed, path


def test_the_reference_lists_every_public_name():
    text = page("reference/index.md")
    assert {f"`{name}`" for name in moofusion.__all__ if name != "__version__"} <= set(
        re.findall(r"`\w+`", text)
    )
    for module in re.findall(r"\| `(moofusion\.\w+)`", text):
        name = module.partition(".")[2]
        assert f"::: {module}\n" in page(f"reference/{name}.md")


def test_own_models_and_metrics_in_25_lines(own_models, vit_folders, images, monkeypatch, capsys):
    from transformers import AutoImageProcessor, ViTForImageClassification

    (own_models / "models" / "shapes").symlink_to(vit_folders.experts["rings"])
    rings = images["rings"]
    arrays = {"classes": np.array(rings.classes)}
    for split in rings.items:
        arrays |= {f"{split}_images": rings.items[split], f"{split}_labels": rings.labels[split]}
    np.savez(own_models / "data" / "shapes.npz", **arrays)
    monkeypatch.chdir(own_models)
    (code,) = blocks(page("bring-your-own.md"), "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    space = {}
    exec(code, space)
    assert capsys.readouterr().out
    front = space["result"].front
    assert front.tasks == ("letters", "digits", "shapes", "fair")
    # The worst class is never better than all classes together.
    assert (front.search[:, 3] <= front.search[:, 0] + 1e-9).all()
    assert len(ViTForImageClassification.from_pretrained("merged").config.id2label) == 3
    AutoImageProcessor.from_pretrained("merged")


def test_what_is_ready_to_be_measured_exists():
    text = page("bring-your-own.md").split("## What is ready")[1]
    for row in text.split("\n\n")[1].splitlines()[2:]:
        for name in re.findall(r"`(\w+)`", row.split("|")[1]):
            assert name in moofusion.__all__


def test_the_overrides_of_the_problem_file_page_run(capsys):
    exec(blocks(page("problem-files.md"), "python")[1], {})
    assert capsys.readouterr().out.strip() == "[0.8 0.8]"


def test_every_merge_method_is_described_with_its_real_defaults():
    text = page("merge-methods.md")
    table = text[text.index("## The methods") :].split("\n\n")[1].splitlines()[2:]
    rows = {row.split("|")[1].strip(" `"): row.split("|")[3].strip() for row in table}
    assert list(rows) == list(METHODS)
    for name, shown in rows.items():
        values = make_method(name).table
        del values["method"]
        listed = ", ".join(f"`{k}` {str(v).lower()}" for k, v in values.items()) or "none"
        assert shown.replace(" (1 / K)", "") == listed
    table = text[text.index("| parameter | kind |") :].split("\n\n")[0].splitlines()[2:]
    found = set()
    for row in table:
        parameter, _, methods, values = (cell.strip() for cell in row.strip("|").split("|"))
        found |= {(m, parameter.strip("`"), values) for m in re.findall(r"`(.*?)`", methods)}
    assert found == {
        (name, parameter, str(known))
        for name, method in METHODS.items()
        for parameter, known in method.searchable.items()
    }


def test_the_code_on_run_folders_reads_a_run(tmp_path, monkeypatch, own_models):
    problem = moofusion.get_problem(own_models / "my.toml")
    moofusion.search(problem, "random", evaluations=20, out=tmp_path / "runs" / "first")
    monkeypatch.chdir(tmp_path)
    code = blocks(page("run-folder.md"), "python")[0].replace(
        "animals=0.7,objects", "letters=1,digits"
    )
    exec(code, {})
    written = {path.name for path in (tmp_path / "merged").iterdir()}
    described = set(re.findall(r"`([\w.]+\.(?:json|safetensors|md))`", page("run-folder.md")))
    assert written - {"heads"} <= described


def test_the_files_and_columns_of_a_run_are_those_described(tmp_path, own_models):
    text = page("run-folder.md")
    problem = moofusion.get_problem(own_models / "my.toml")
    moofusion.search(problem, "random", evaluations=20, out=tmp_path / "run")
    rows = [line.split("|")[1] for line in text.split("\n\n")[2].splitlines()[2:]]
    assert {name for row in rows for name in re.findall(r"`(.*?)`", row)} == {
        path.name for path in (tmp_path / "run").iterdir()
    }
    for name in ("evaluations", "front", "references"):
        header = (tmp_path / "run" / f"{name}.csv").read_text().splitlines()[0].split(",")
        for column in header:
            general = re.sub(r"^x:.*", "x:NAME", column)
            general = re.sub(r"^(letters|digits)(?=[:/])", "TASK", general)
            general = re.sub(r"^TASK/.*", "TASK/METRIC", general)
            assert f"`{general}`" in text, (name, column)
    assert SearchResult.load(tmp_path / "run").splits == ("search", "test")


# ------------------------------------------------------------------ commands and links


def _commands(text):
    """The moofusion commands in the bash blocks of a page."""
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;", line):
                words = shlex.split(part, comments=True)
                while words and ("=" in words[0] or words[0] in ("python3", "-m")):
                    words = words[1:]
                if words and words[0].rpartition("/")[2] == "moofusion":
                    yield words[1:]


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_command_in_the_docs_exists(path):
    group = typer.main.get_command(moofusion.cli.app)
    for words in _commands(path.read_text()):
        context, command = click.Context(group, info_name="moofusion"), group
        if words == ["--version"]:
            continue
        while hasattr(command, "commands"):
            name, *words = words
            assert name in command.commands, (name, path.name)
            command = command.commands[name]
        command.make_context(command.name, list(words), parent=context)


def test_every_option_of_search_and_export_is_described():
    group = typer.main.get_command(moofusion.cli.app)
    text = page("command-line.md")
    for name in ("search", "export", "describe"):
        for parameter in group.commands[name].params:
            for option in parameter.opts:
                if option.startswith("--") and option != "--help":
                    assert f"`{option}`" in text, (name, option)
    for name, command in group.commands.items():
        if not command.hidden:
            assert f"moofusion {name}" in text, name


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles]
            assert anchor in slugs, target


def test_published_tables_hold_every_run_of_their_study_and_are_listed():
    folder = ROOT / "docs" / "benchmarks"
    index = (folder / "index.md").read_text(encoding="utf-8")
    published = {path.stem for path in folder.glob("*.csv")}
    assert published
    assert {path.stem for path in folder.glob("*.md")} == published | {"index"}
    for name in published:
        study = tomllib.loads((BENCHES / f"{name}.toml").read_text(encoding="utf-8"))
        with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        runs = {(row["problem"], row["algorithm"], row["seed"]) for row in rows}
        titles = {
            p if isinstance(p, str) else p.get("title", p["problem"]) for p in study["problems"]
        }
        assert {problem for problem, _, _ in runs} == titles, name
        assert {algorithm for _, algorithm, _ in runs} >= set(study["algorithms"]), name
        each = len(titles) * len({algorithm for _, algorithm, _ in runs})
        assert len(rows) == len(runs) == each * study["seeds"], name
        assert f"[{name}]({name}.md)" in index
        assert f"`moofusion bench {name}`" in index
