"""Text classification: sorting by length and trimming change nothing but the speed."""

import numpy as np
import pytest
import tiny
import torch
from torch.nn.functional import cross_entropy

from moofusion.errors import DataError
from moofusion.tasks import LabelledData, TensorClassification, TextClassification


@pytest.fixture(scope="module")
def data():
    texts = tiny.sentences(40, seed=1)
    labels = np.random.default_rng(0).integers(0, 3, 40)
    return LabelledData({"search": texts}, {"search": labels}, ("x", "y", "z"))


def _model(name):
    import transformers

    classes = {
        "bert": (transformers.BertForSequenceClassification, tiny.bert_config),
        "gpt2": (transformers.GPT2ForSequenceClassification, tiny.gpt2_config),
        "llama": (transformers.LlamaForSequenceClassification, tiny.llama_config),
    }
    model_class, config = classes[name]
    model = tiny.build(model_class, config(labels=3), 3)
    return tiny.drift(model, 4, 0.3)


def _one_by_one(model, data):
    """Metrics of unpadded texts, each alone through the model."""
    tokenizer, scores = tiny.tokenizer(), []
    with torch.no_grad():
        for text in data.items["search"]:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            scores.append(model(input_ids=ids).logits[0])
    labels = torch.from_numpy(data.labels["search"])
    loss = cross_entropy(torch.stack(scores).double(), labels)
    hits = (torch.stack(scores).argmax(1) == labels).double().mean()
    return float(hits), float(loss)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_padding_sorting_and_trimming_change_no_metric(architecture, batch_size, data):
    model = _model(architecture)
    accuracy, loss = _one_by_one(model, data)
    task = TextClassification("t", data, tokenizer=tiny.tokenizer(), batch_size=batch_size)
    found = task.evaluate(model, "search").metrics
    assert 0 < accuracy < 1
    assert found["accuracy"] == pytest.approx(accuracy)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)


def test_batches_are_only_as_long_as_they_must_be(data):
    task = TextClassification("t", data, tokenizer=tiny.tokenizer(), batch_size=8)
    lengths = sorted(len(text.split()) for text in data.items["search"])
    widths = [inputs["input_ids"].shape[1] for inputs, _ in task.batches("search")]
    assert widths == [max(lengths[i : i + 8]) for i in range(0, 40, 8)]


def test_labels_stay_with_their_texts(data):
    task = TextClassification("t", data, tokenizer=tiny.tokenizer())
    inputs, labels = task.data("search")
    tokenizer = tiny.tokenizer()
    wanted = sorted(zip(data.items["search"], data.labels["search"].tolist(), strict=True))
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in inputs["input_ids"]]
    assert sorted(zip(texts, labels.tolist(), strict=True)) == wanted


def test_long_texts_are_cut(data):
    task = TextClassification("t", data, tokenizer=tiny.tokenizer(), max_length=5)
    assert task.data("search")[0]["input_ids"].shape[1] == 5


def test_empty_texts_do_no_harm():
    """Tokenizers without special tokens turn an empty text into no token at all."""
    texts = ["", "a b c", "", "d"]
    data = LabelledData({"search": texts}, {"search": np.array([0, 1, 2, 0])}, ("x", "y", "z"))
    found = [
        TextClassification("t", data, tokenizer=tiny.tokenizer(), batch_size=size).evaluate(
            _model("gpt2"), "search"
        )
        for size in (1, 4)
    ]
    assert all(measurement.is_finite for measurement in found)
    assert found[0].metrics["accuracy"] == found[1].metrics["accuracy"]


def test_left_padding_is_never_cut_into(data):
    """Tensors tokenized by the user may be padded on the left."""
    encoded = tiny.tokenizer()(
        data.items["search"], padding=True, padding_side="left", return_tensors="pt"
    )
    labels = torch.from_numpy(data.labels["search"])
    task = TensorClassification("t", {"search": (dict(encoded), labels)}, classes=3, batch_size=6)
    inputs, _ = task.data("search")
    seen = torch.cat([batch["input_ids"][:, -1] for batch, _ in task.batches("search")])
    assert torch.equal(seen, inputs["input_ids"][:, -1])
    assert (seen != 0).all()


def test_a_tokenizer_without_padding_uses_its_end_token(data):
    from transformers import PreTrainedTokenizerFast

    core = tiny.tokenizer().backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="[PAD]")
    task = TextClassification("t", data, tokenizer=tokenizer)
    expected = TextClassification("t", data, tokenizer=tiny.tokenizer()).data("search")
    assert torch.equal(task.data("search")[0]["input_ids"], expected[0]["input_ids"])


def test_a_tokenizer_that_cannot_pad_is_refused(data):
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer().backend_tokenizer)
    with pytest.raises(DataError, match=r"'t'.*neither a padding nor an end-of-sequence token"):
        TextClassification("t", data, tokenizer=tokenizer).data("search")


def test_the_tokenizer_is_found_in_a_folder(data, tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    task = TextClassification("t", data, tokenizer=tmp_path)
    expected = TextClassification("t", data, tokenizer=tiny.tokenizer())
    assert task.fingerprint("search") == expected.fingerprint("search")


def test_a_folder_without_tokenizer_is_named(data, tmp_path):
    with pytest.raises(DataError, match="'t': no tokenizer in") as caught:
        TextClassification("t", data, tokenizer=tmp_path).data("search")
    assert str(tmp_path) in str(caught.value)


def test_an_empty_split_is_named():
    data = LabelledData({"search": []}, {"search": np.zeros(0, np.int64)}, ("x", "y"))
    with pytest.raises(DataError, match="'t': split 'search' is empty"):
        TextClassification("t", data, tokenizer=tiny.tokenizer()).data("search")


def test_gradients_flow(data):
    model = _model("bert")
    task = TextClassification("t", data, tokenizer=tiny.tokenizer())
    task.evaluate(model, "search")
    task.loss(model, "search", np.arange(7)).backward()
    assert model.bert.embeddings.word_embeddings.weight.grad.abs().sum() > 0
