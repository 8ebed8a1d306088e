"""Objectives beside the tasks, as problem files name them: distance, sparsity, forgetting."""

import hub
import numpy as np
import pytest
import tiny
import torch
from torch.nn.functional import kl_div

import moofusion
from moofusion import get_problem
from moofusion.errors import ConfigurationError
from moofusion.problems import problem_spec

FILE = """
[pool]
base = "base"
[pool.experts]
a = "a"
b = "b"
[merge]
method = "ties"
density = 0.3
[[tasks]]
name = "a"
kind = "language-modeling"
data = "text"
context = 8
[[tasks]]
name = "far"
kind = "base-distance"
[[tasks]]
name = "spare"
kind = "sparsity"
tolerance = 1e-6
[[tasks]]
name = "forgot"
kind = "forgetting"
on = { kind = "language-modeling", data = "old", context = 6 }
"""
OLD = tiny.sentences(4, 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import GPT2LMHeadModel

    place = tmp_path_factory.mktemp("kinds")
    config = tiny.gpt2_config(vocab_size=18, n_positions=24)
    base = tiny.build(GPT2LMHeadModel, config)
    tiny.save(base, place / "base")
    for i, name in enumerate(("a", "b")):
        tiny.save(tiny.drift(tiny.build(GPT2LMHeadModel, config), i, 0.3), place / name)
    hub.gpt2_tokenizer().save_pretrained(place / "base")
    for name, texts in {"text": tiny.sentences(5, 1), "old": OLD}.items():
        (place / name).mkdir()
        for split in ("validation", "test"):
            (place / name / f"{split}.txt").write_text("\n".join(texts))
    (place / "kinds.toml").write_text(FILE)
    return place


def test_a_file_with_all_of_them_is_searched_and_exported(folder, tmp_path):
    """What the file measures is what plain transformers says of the exported model."""
    from transformers import GPT2LMHeadModel

    problem = get_problem(folder / "kinds.toml", device="cpu")
    names = [task.objective.name for task in problem.tasks]
    assert names == ["bits_per_byte", "distance", "sparsity", "kl"]
    assert problem.evaluate(np.zeros((1, 2)))[0, 1:] == pytest.approx(0, abs=1e-6)

    result = moofusion.search(problem, "random", evaluations=4, seed=2)
    front = result.front
    assert len(front) > 0
    result.export(tmp_path / "merged", point=len(front))

    base, merged = (
        GPT2LMHeadModel.from_pretrained(place).eval()
        for place in (folder / "base", tmp_path / "merged")
    )
    theirs = torch.cat([p.detach().flatten() for p in base.parameters()])
    ours = torch.cat([p.detach().flatten() for p in merged.parameters()])
    values = front.values("test")[-1]
    assert values[1] == pytest.approx(float((ours - theirs).norm() / theirs.norm()), rel=1e-4)
    same = float(((ours - theirs).abs() <= 1e-6).float().mean())
    assert 0.4 < same < 0.8
    assert values[2] == pytest.approx(same, abs=1e-3)
    data = problem.tasks[3]._data.data("test")
    with torch.no_grad():
        p, q = (m(input_ids=data["ids"]).logits[:, :-1].log_softmax(-1) for m in (base, merged))
    lost = kl_div(q, p, reduction="none", log_target=True).sum(-1)[data["predicted"][:, 1:]]
    assert values[3] == pytest.approx(float(lost.mean()), rel=1e-4)


def test_they_belong_to_no_expert(folder):
    """Cut down to one task, its expert stays alone; the base is what they compare with."""
    spec = problem_spec(folder / "kinds.toml", tasks=["a", "spare"])
    assert list(spec.pool.experts) == ["a"]
    assert list(problem_spec(folder / "kinds.toml", tasks=["spare"]).pool.experts) == ["a", "b"]
    problem = get_problem(folder / "kinds.toml", objective="loss", device="cpu")
    names = [task.objective.name for task in problem.tasks]
    assert names == ["loss", "distance", "sparsity", "kl"]
    other = {"tasks.forgot.on.context": 9}
    assert get_problem(folder / "kinds.toml", overrides=other).tasks[3]._data.context == 9


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"sparsity"', '"sparsty"', r"unknown kind 'sparsty' in 'tasks\.2'; did you mean 'sparsi"),
        ("tolerance = 1e-6", "tolerence = 1", r"'tasks\.2\.tolerence'; did you mean 'tolerance'"),
        ("tolerance = 1e-6", "tolerance = -1", r"'tasks\.2\.tolerance' should .*, got -1"),
        ("tolerance = 1e-6", 'data = "old"', r"'tasks\.2\.data'; expected one of head, kind, name"),
        ("context = 6", "contxt = 6", r"'tasks\.3\.on\.contxt'; did you mean 'context'"),
        ("on = { kind", "at = { kind", r"'tasks\.3\.on' is missing; unknown key 'tasks\.3\.at'"),
        (
            'on = { kind = "language-modeling"',
            'on = { kind = "generation"',
            r"unknown kind 'generation' in 'tasks\.3\.on'.*'language-modeling'",
        ),
        ('data = "old"', 'data = "gone"', "'gone'"),
    ],
)
def test_wrong_ones_are_explained(folder, tmp_path, old, new, message):
    assert FILE.count(old) == 1
    text = FILE.replace(old, new).replace("[pool]", f'folder = "{folder}"\n[pool]', 1)
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(moofusion.errors.MoofusionError, match=message):
        get_problem(tmp_path / "wrong.toml", device="cpu")


def test_keys_that_are_called_like_a_kind_are_shown(folder):
    with pytest.raises(ConfigurationError, match=r"key 'pool\.experts\.sparsity'"):
        problem_spec(folder / "kinds.toml", overrides={"pool.experts.sparsity": 3})
