"""Recipes from and for mergekit: the same merge, or a reason why there is none."""

import pytest
import tiny
import yaml
from typer.testing import CliRunner

from moofusion.cli import app
from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.merging.mergekit import from_mergekit, read_mergekit, to_mergekit
from moofusion.merging.recipe import MergeRecipe, read_recipe


def config(method, *, weights=(1.0, 1.0), own=None, base="b", **parameters):
    models = [
        {"model": f"some/{name}", "parameters": {"weight": weight} | (own or {})}
        for name, weight in zip(("x", "y"), weights, strict=True)
    ]
    found = {"merge_method": method, "models": models, "parameters": parameters}
    return found | ({"base_model": base} if base else {})


def test_task_arithmetic():
    found = from_mergekit(config("task_arithmetic", weights=(0.3, 0.5), **{"lambda": 2.0}))
    assert found.merge == {"method": "linear"}
    assert found.coefficients == {"x": 0.6, "y": 1.0}
    assert found.base == "b"
    assert found.experts == {"x": "some/x", "y": "some/y"}
    shares = from_mergekit(config("task_arithmetic", weights=(1.0, 3.0), normalize=True))
    assert shares.coefficients == {"x": 0.25, "y": 0.75}


def test_averages_of_agreeing_signs_need_equal_weights():
    found = from_mergekit(config("ties", own={"density": 0.4}, **{"lambda": 0.7}))
    assert found.merge == {"method": "ties", "scope": "tensor", "density": 0.4}
    assert found.coefficients == {"x": 0.7, "y": 0.7}
    with pytest.raises(ConfigurationError, match=r"equal positive weights .* \[0\.3, 0\.5\]"):
        from_mergekit(config("ties", weights=(0.3, 0.5)))
    with pytest.raises(ConfigurationError, match="got normalize: false"):
        from_mergekit(config("dare_ties"))
    found = from_mergekit(config("breadcrumbs_ties", normalize=True))
    assert found.merge == {"method": "breadcrumbs", "elect": True, "density": 1.0, "gamma": 0.0}


def test_sparse_methods_take_their_densities():
    found = from_mergekit(config("dare_linear", weights=(0.3, 0.5), own={"density": 0.2}))
    assert found.merge == {"method": "dare", "elect": False, "density": 0.2}
    assert found.coefficients == {"x": 0.3, "y": 0.5}
    found = from_mergekit(config("breadcrumbs", own={"density": 0.6, "gamma": 0.05}))
    assert found.merge == {"method": "breadcrumbs", "elect": False, "density": 0.6, "gamma": 0.05}


def test_weights_by_filter_become_groups():
    weight = [{"filter": "mlp", "value": 0.8}, {"value": 0.2}]
    found = from_mergekit(config("task_arithmetic", weights=(weight, 0.5)))
    assert found.row("layers.0.mlp.up.weight").tolist() == [0.8, 0.5]
    assert found.row("layers.0.attn.weight").tolist() == [0.2, 0.5]


def test_methods_without_task_vectors():
    found = from_mergekit(config("linear", weights=(1.0, 3.0), base=None))
    assert (found.merge, found.base) == ({"method": "average"}, None)
    assert found.coefficients == {"x": 1.0, "y": 3.0}
    assert from_mergekit(config("karcher", base=None)).merge == {"method": "slerp"}
    assert from_mergekit(config("model_stock")).merge == {"method": "model-stock"}
    models = [{"model": "b"}, {"model": "some/x"}]
    slerp = {"merge_method": "slerp", "base_model": "b", "models": models}
    t = [{"filter": "mlp", "value": 0.3}, {"value": 0.6}]
    found = from_mergekit(slerp | {"parameters": {"t": t}})
    assert found.experts == {"start": "b", "x": "some/x"}
    assert found.merge == {"method": "slerp", "norms": "own"}
    assert found.row("a.mlp.w").tolist() == [0.7, 0.3]
    assert found.row("a.attn.w").tolist() == [0.4, 0.6]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (config("della"), "divide each entry by its own probability"),
        (config("ties") | {"slices": [1]}, "slices stack layers"),
        (config("linear", normalize=False), "normalize: false scales the weights"),
        (config("model_stock", filter_wise=True), "filter_wise"),
        (config("task_arithmetic", weights=([0.1, 0.9], 1.0)), "lists over layers"),
        (config("dare_linear", rescale=False), "without rescale"),
        ({"merge_method": "ties"}, "lists no models"),
        (config("ties", own={"density": 2}), r"density must be in \(0, 1\]"),
        (config("slerp"), "joins base_model and one other"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_the_reason(given, words):
    with pytest.raises(ConfigurationError, match=words):
        from_mergekit(given)


def test_unknown_methods_and_different_densities():
    with pytest.raises(UnknownNameError, match="mergekit method 'passthrough'"):
        from_mergekit(config("passthrough"))
    found = config("ties", own={"density": 0.4})
    found["models"][0]["parameters"]["density"] = 0.5
    with pytest.raises(ConfigurationError, match=r"density must be the same .* \[0\.4, 0\.5\]"):
        from_mergekit(found)


@pytest.mark.parametrize(
    "given",
    [
        config("task_arithmetic", weights=([{"filter": "mlp", "value": 0.8}, {"value": 0.2}], 0.5)),
        config("ties", own={"density": 0.4}, normalize=True, **{"lambda": 0.7}),
        config("dare_linear", weights=(0.3, 0.5), own={"density": 0.2}),
        config("dare_ties", own={"density": 0.2}, normalize=True),
        config("breadcrumbs", own={"density": 0.6, "gamma": 0.05}),
        config("linear", weights=(1.0, 3.0), base=None),
        config("karcher", base=None),
        config("model_stock"),
        {
            "merge_method": "slerp",
            "base_model": "b",
            "models": [{"model": "b"}, {"model": "some/x"}],
            "parameters": {"t": [{"filter": "mlp", "value": 0.25}, {"value": 0.5}]},
        },
    ],
    ids=lambda c: c["merge_method"],
)
def test_there_and_back_is_the_same_recipe(given):
    found = from_mergekit(given)
    again = from_mergekit(yaml.safe_load(yaml.safe_dump(to_mergekit(found))))
    assert again == found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"merge": {"method": "iso"}}, "no counterpart of Iso"),
        ({"merge": {"method": "ties"}}, "no counterpart of Ties"),
        ({"merge": {"method": "ties", "scope": "tensor"}, "coefficients": {"x": 1.0}}, "equal"),
        ({"merge": {"method": "slerp"}, "coefficients": {"x": 1.0, "y": 2.0}}, "norms = "),
        (
            {"merge": {"method": "slerp", "norms": "own"}, "experts": dict.fromkeys("xyz", "m")},
            "joins two models, not 3",
        ),
        ({"groups": [{"match": "a.?", "coefficients": {"x": 1.0}}]}, "not of the form"),
    ],
)
def test_recipes_that_mergekit_cannot_make(options, words):
    given = {"base": "b", "experts": {"x": "x", "y": "y"}, "coefficients": {"x": 0.4, "y": 0.4}}
    with pytest.raises(ConfigurationError, match=words):
        to_mergekit(MergeRecipe(**given | options))


def test_files_on_the_command_line(tmp_path):
    """Import a YAML file beside its models, merge by the recipe, export it again."""
    from transformers import GPT2LMHeadModel

    (tmp_path / "models").mkdir()
    for i, name in enumerate(("base", "x", "y")):
        model = tiny.drift(tiny.build(GPT2LMHeadModel, tiny.gpt2_config()), i)
        model.tie_weights()
        model.save_pretrained(tmp_path / "models" / name)
    given = config("task_arithmetic", weights=(0.3, 0.5), base="base")
    for model, name in zip(given["models"], "xy", strict=True):
        model["model"] = name
    file = tmp_path / "models" / "merge.yaml"
    file.write_text(yaml.safe_dump(given | {"dtype": "float32", "out_dtype": "bfloat16"}))

    def run(*words):
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    run("import-recipe", file, "--to", tmp_path / "recipe.toml")
    assert read_recipe(tmp_path / "recipe.toml").source("x") == str(tmp_path / "models" / "x")
    run("merge", tmp_path / "recipe.toml", "--to", tmp_path / "out", "--shard-size", "5KB")
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    base, x, y = (
        GPT2LMHeadModel.from_pretrained(tmp_path / "models" / name).state_dict()
        for name in ("base", "x", "y")
    )
    for key, value in loaded.state_dict().items():
        expected = base[key] + 0.3 * (x[key] - base[key]) + 0.5 * (y[key] - base[key])
        assert (value.float() - expected).abs().max() < 0.02, key
    run("export-recipe", tmp_path / "recipe.toml", "--to", tmp_path / "again.yaml")
    assert read_mergekit(tmp_path / "again.yaml").coefficients == {"x": 0.3, "y": 0.5}
    for words, message in (
        (("merge", tmp_path / "recipe.toml", "--to", tmp_path / "o", "--dtype", "int8"), "--dtype"),
        (("merge", tmp_path / "recipe.toml", "--to", tmp_path / "o", "--shard-size", "5"), "500MB"),
        (("import-recipe", tmp_path / "gone.yaml", "--to", tmp_path / "z.toml"), "cannot be read"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            run(*words)
