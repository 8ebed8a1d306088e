"""LoRA adapters on the command line: a problem file described, searched and exported both ways."""

import json

import numpy as np
import pytest
import tiny
import torch
from lora import base_model, merged_by_peft, train
from runs import cli, rows

from moofusion.algorithms import ParetoRouter
from moofusion.problems import get_problem

peft = pytest.importorskip("peft")
# peft asks transformers by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
TASKS = ("mood", "topic")


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """A problem file: two adapters of one classifier, texts labelled by them with some noise."""
    folder = tmp_path_factory.mktemp("adapters")
    base_model("bert").save_pretrained(folder / "base")
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(folder / "base")
    lines = ['title = "texts"', "[pool]", 'base = "base"', "[pool.experts]"]
    lines += [f'{name} = "{name}"' for name in TASKS]
    for seed, name in enumerate(TASKS):
        train("bert", folder / name, seed, 1.0, r=2 + seed)
        expert = merged_by_peft("bert", folder / name)
        (folder / f"{name}-data").mkdir()
        for i, split in enumerate(("train", "validation", "test")):
            texts = tiny.sentences(40, 10 * seed + i)
            with torch.no_grad():
                inputs = [tokenizer(text, return_tensors="pt") for text in texts]
                scores = torch.cat([expert(**one).logits for one in inputs])
            gap = scores[:, 1] - scores[:, 0]
            labels = (gap > gap.median()).tolist()
            pairs = zip(texts, labels, strict=True)
            table = [f"{text},{'yes' if label else 'no'}" for text, label in pairs]
            file = folder / f"{name}-data" / f"{split}.csv"
            file.write_text("\n".join(["sentence,answer", *table, ""]))
        lines += ["[[tasks]]", f'name = "{name}"', 'kind = "text-classification"']
        lines += [f'data = "{name}-data"', 'column = "sentence"', 'label = "answer"']
        lines += ['objective = "loss"']
    (folder / "texts.toml").write_text("\n".join([*lines, ""]))
    return folder / "texts.toml"


@pytest.fixture(scope="module")
def run(problem):
    """A finished search. Read only."""
    out = problem.parent / "run"
    options = ("--algorithm", "nsga2:pop_size=4", "--evaluations", 8, "--out", out)
    found = cli("search", problem, *options)
    assert found.code == 0, found.err
    return out


def refused(*args):
    found = cli(*args)
    assert found.code == 2, found.err
    assert "Traceback" not in found.err
    return " ".join(found.err.split())


def losses(model, problem, split):
    return {t.name: t.evaluate(model, split).metrics["loss"] for t in get_problem(problem).tasks}


def test_a_pool_of_adapters_is_described(problem):
    found = cli("describe", problem)
    assert found.code == 0, found.err
    assert all(name in found.out for name in ("mood", "topic", "Task vectors", "Anchors"))


def test_a_point_is_exported_as_a_model_and_as_an_adapter(problem, run, tmp_path):
    """Both, loaded by transformers and by peft, have the metrics that were recorded."""
    from transformers import BertForSequenceClassification

    row = rows(run / "front.csv")[0]
    options = ("--point", 1, "--head", "topic")
    for name, more in (("model", ()), ("adapter", ("--as", "adapter"))):
        found = cli("export", run, *options, *more, "--to", tmp_path / name)
        assert found.code == 0, found.err
    whole = BertForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    base = BertForSequenceClassification.from_pretrained(problem.parent / "base")
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    for split in ("search", "test"):
        recorded = float(row[f"topic:{split}"])
        assert losses(whole, problem, split)["topic"] == pytest.approx(recorded, rel=1e-6)
        assert losses(adapted, problem, split)["topic"] == pytest.approx(recorded, rel=1e-4)
    record = json.loads((tmp_path / "adapter" / "merge.json").read_text())
    assert record["adapter"] == {"how": "svd", "rank": None}
    assert record["metrics"]["test"]["topic"] == float(row["topic:test"])
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 5
    card = (tmp_path / "adapter" / "README.md").read_text()
    for words in ("library_name: peft", "PeftModel.from_pretrained(base,", "## Measured", "number"):
        assert words in card
    assert (tmp_path / "adapter" / "tokenizer.json").exists()


def test_rank_way_and_precision_of_an_adapter(run, tmp_path):
    from safetensors.torch import load_file

    options = ("export", run, "--by", "knee", "--as", "adapter")
    small = cli(*options, "--rank", 1, "--dtype", "float16", "--to", tmp_path / "small")
    exact = cli(*options, "--how", "cat", "--to", tmp_path / "exact")
    assert (small.code, exact.code) == (0, 0), small.err + exact.err
    stored = load_file(tmp_path / "small" / "adapter_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert max(len(v) for k, v in stored.items() if "lora_A" in k) == 1
    assert "rank 1" in (tmp_path / "small" / "README.md").read_text()


def test_options_of_adapters_that_make_no_sense(run, tmp_path):
    to = ("--by", "knee", "--to", tmp_path / "out")
    assert "--rank 2 says how to write an adapter" in refused("export", run, *to, "--rank", 2)
    assert "expected model or adapter" in refused("export", run, *to, "--as", "lora")
    wrong = refused("export", run, *to, "--as", "adapter", "--how", "mean")
    assert "'mean'" in wrong
    assert "with how='svd' alone" in refused(
        "export", run, *to, "--as", "adapter", "--how", "cat", "--rank", 2
    )
    assert not (tmp_path / "out").exists()


def test_a_router_makes_adapters_too(problem, tmp_path):
    opened = get_problem(problem, space="module-wise")
    router = ParetoRouter(opened, rng=np.random.default_rng(0), zero_init=True)
    router.save(tmp_path / "router.safetensors")
    options = ("--router", tmp_path / "router.safetensors", "--preference", "0.3,0.7")
    found = cli("export", *options, "--as", "adapter", "--to", tmp_path / "out")
    assert found.code == 0, found.err
    base = base_model("bert")
    written = dict(peft.PeftModel.from_pretrained(base, tmp_path / "out").merge_and_unload()
                   .named_parameters())  # fmt: skip
    flat = opened.evaluator.weights(router.coefficients("0.3,0.7"))
    for entry in opened.evaluator.pool.layout.entries:
        merged = flat[entry.slice].view(entry.shape)
        assert torch.allclose(written[f"bert.{entry.name}"], merged, atol=1e-5), entry.name


def test_a_recipe_of_adapters_is_merged_both_ways(problem, tmp_path):
    """`moofusion merge` gives the weights that a merge in memory has, whole and as an adapter."""
    from transformers import BertForSequenceClassification

    folder = problem.parent
    experts = "".join(f'{name} = "{folder / name}"\n' for name in TASKS)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'base = "{folder / "base"}"\n[experts]\n{experts}\n'
        "[coefficients]\nmood = 0.6\ntopic = 0.3\n"
    )
    for name, more in (("model", ()), ("adapter", ("--as", "adapter", "--how", "cat"))):
        found = cli("merge", recipe, *more, "--to", tmp_path / name)
        assert found.code == 0, found.err
    whole = BertForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    base = BertForSequenceClassification.from_pretrained(folder / "base")
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    theirs = dict(adapted.named_parameters())
    opened = get_problem(problem)
    flat = opened.evaluator.weights(opened.space.coefficients([[0.6, 0.3]])[0])
    body = dict(whole.bert.named_parameters())
    for entry in opened.evaluator.pool.layout.entries:
        merged = flat[entry.slice].view(entry.shape)
        assert torch.allclose(body[entry.name], merged, atol=1e-6), entry.name
        assert torch.allclose(theirs[f"bert.{entry.name}"], merged, atol=1e-6), entry.name
    assert torch.allclose(whole.classifier.weight, theirs["classifier.weight"])
    assert "no merge by 'ties'" in refused(
        "merge", _with_ties(recipe), "--as", "adapter", "--how", "cat", "--to", tmp_path / "out"
    )


def _with_ties(recipe):
    recipe.write_text(recipe.read_text() + '[merge]\nmethod = "ties"\n')
    return recipe
