"""The commands under a report make the same study again."""

import shlex
import tomllib

import fake_study as fake
import pytest

from moofusion.comparison import StudyData
from moofusion.comparison.report.commands import export_command, preference_text
from moofusion.comparison.report.recipe import recipes
from moofusion.problems import problem_spec


def recipe_of(tmp_path, specs, **runs):
    problems = {
        title: {"M": len(spec.tasks), "tasks": tuple(t.name for t in spec.tasks),
                "spec": spec.model_dump()}
        for title, spec in specs.items()
    }  # fmt: skip
    path = fake.write_fake_study(
        tmp_path / "s.db", problems=problems, **({"evaluations": 6} | runs)
    )
    (recipe,) = recipes(StudyData.read(path), "my study.db")
    return recipe


def test_a_plain_study_is_one_command_line(tmp_path):
    algorithms = ("nsga2:pop_size=6,sampling=box", "random")
    recipe = recipe_of(
        tmp_path, {"vision4": problem_spec("vision4")}, algorithms=algorithms, seeds=(3, 1),
        front_size=7,
    )  # fmt: skip
    assert recipe.toml is None
    assert shlex.split(recipe.command) == [
        "moofusion", "compare", "vision4", "--algorithms", ",".join(algorithms),
        "--seeds", "1,3", "--evaluations", "6", "--no-controls", "--front-size", "7",
        "--threads", "1", "--store", "my study.db",
    ]  # fmt: skip


def test_one_given_seed_is_not_taken_for_their_number(tmp_path):
    recipe = recipe_of(tmp_path, {"vision4": problem_spec("vision4")}, seeds=(5,))
    assert "--seeds 5, " in recipe.command


def test_seeds_that_a_study_draws_are_a_number(tmp_path):
    from moofusion.comparison.study import _seeds

    recipe = recipe_of(tmp_path, {"vision4": problem_spec("vision4")}, seeds=_seeds(4))
    assert "--seeds 4 " in recipe.command


def test_changed_problems_make_a_study_file_that_gives_them_back(tmp_path):
    specs = {
        "pair": problem_spec("vision4", tasks=["animals", "objects"]),
        "vision4 (mnist, fashion)": problem_spec("vision4", tasks=["mnist", "fashion"]),
        "losses": problem_spec(
            "vision4", overrides={f"tasks.{t}.objective": "loss"
                for t in ("mnist", "fashion", "animals", "objects")}
        ),
        "simplex": problem_spec("vision4", overrides={"space": {"kind": "simplex"}}),
        "ties": problem_spec("vision4", overrides={"merge": {"method": "ties", "density": 0.5}}),
        "two experts": problem_spec("vision4", experts=["animals", "objects"]),
    }  # fmt: skip
    recipe = recipe_of(tmp_path, specs)
    assert recipe.file == "study.toml"
    assert recipe.command.endswith("--study study.toml --store 'my study.db' --threads 1")
    read = tomllib.loads(recipe.toml)
    assert read["algorithms"] == list(fake.ALGORITHMS)
    assert read["seeds"] == sorted(fake.SEEDS)
    assert read["evaluations"] == 6
    for (title, spec), entry in zip(specs.items(), read["problems"], strict=True):
        changes = {key: entry[key] for key in ("space", "merge") if key in entry}
        if "objective" in entry:
            names = [t.name for t in spec.tasks]
            changes |= {f"tasks.{name}.objective": entry["objective"] for name in names}
        made = problem_spec(
            entry["problem"],
            tasks=entry.get("tasks"),
            experts=entry.get("experts"),
            overrides=changes,
        )
        assert entry.get("title", made.title) == title
        ignored = {"title", "folder", "device", "description"}
        assert made.model_dump(exclude=ignored) == spec.model_dump(exclude=ignored)


def test_a_problem_of_ones_own_is_not_passed_off_as_another(tmp_path):
    spec = problem_spec("vision4", overrides={"pool.base": "elsewhere/base"})
    recipe = recipe_of(tmp_path, {"vision4": spec})
    assert tomllib.loads(recipe.toml)["problems"] == [{"problem": "...", "title": "vision4"}]
    assert recipe.toml.startswith('# "..." was built in Python or from a file of its own')


@pytest.mark.parametrize("title", ["plain", "it's odd", "a b; rm x", '"'])
def test_words_of_the_export_command_survive_the_shell(title):
    wish = preference_text({"a b": 0.7, "it's": 0.25, "off": 0.0})
    assert wish == "a b=0.7,it's=0.25"
    command = export_command(
        "dir/s.db", problem=title, preference=wish, algorithms=["nsga2:pop_size=6"],
        budget="evaluations=6", to="my out",
    )  # fmt: skip
    assert shlex.split(command) == [
        "moofusion", "export", "dir/s.db", "--problem", title, "--preference", wish,
        "--algorithm", "nsga2:pop_size=6", "--budget", "evaluations=6", "--to", "my out",
    ]  # fmt: skip
