"""Image classification: pictures of every form through the model's own processor."""

import numpy as np
import PIL.Image
import pytest
import torch

from moofusion.errors import DataError
from moofusion.tasks import ImageClassification, LabelledData

LABELS = {"search": np.arange(6) % 2}
GREY = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def _data(images):
    return LabelledData({"search": images}, LABELS, ("even", "odd"))


def _processor(**options):
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(**({"do_resize": False} | options))


def _grey_processor(**options):
    return _processor(image_mean=[0.5], image_std=[0.5], **options)


def _pixels(images, processor):
    return ImageClassification("shapes", _data(images), processor=processor).data("search")[0][
        "pixel_values"
    ]


def _pil(images):
    return [PIL.Image.fromarray(image) for image in images]


def test_grey_pictures_are_scaled_and_normalized():
    found = _pixels(GREY, _grey_processor())
    expected = torch.from_numpy(GREY).float()[:, None] / 255 * 2 - 1
    assert torch.allclose(found, expected, atol=1e-6)


def test_colour_pictures_are_scaled_and_normalized():
    found = _pixels(RGB, _processor(image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.2, 0.1]))
    scaled = RGB / 255.0 - np.array([0.5, 0.4, 0.3])
    expected = (scaled / np.array([0.5, 0.2, 0.1])).transpose(0, 3, 1, 2)
    assert np.allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("form", [_pil, list, lambda x: x[..., None]])
def test_grey_pictures_of_any_form_give_the_same(form):
    assert torch.equal(_pixels(form(GREY), _grey_processor()), _pixels(GREY, _grey_processor()))


def test_colour_pictures_of_any_form_give_the_same():
    assert torch.equal(_pixels(_pil(RGB), _processor()), _pixels(RGB, _processor()))


@pytest.mark.parametrize("form", [_pil, lambda x: x, lambda x: x[..., None]])
def test_grey_pictures_suit_a_colour_model(form):
    repeated = np.repeat(GREY[..., None], 3, axis=-1)
    assert torch.equal(_pixels(form(GREY), _processor()), _pixels(repeated, _processor()))


def test_pictures_of_mixed_modes_suit_a_colour_model():
    mixed = [image.convert("RGBA") if i % 2 else image for i, image in enumerate(_pil(RGB))]
    assert torch.equal(_pixels(mixed, _processor()), _pixels(RGB, _processor()))


def test_colour_pictures_suit_a_grey_model():
    expected = np.stack([np.asarray(image.convert("L")) for image in _pil(RGB)])
    assert torch.equal(_pixels(_pil(RGB), _grey_processor()), _pixels(expected, _grey_processor()))


def test_pictures_of_all_sizes_are_resized():
    sizes = [(8, 8), (5, 9), (20, 4), (1, 1), (7, 7), (8, 6)]
    images = [PIL.Image.fromarray(GREY[i]).resize(size) for i, size in enumerate(sizes)]
    processor = _grey_processor(do_resize=True, size={"height": 8, "width": 8})
    found = _pixels(images, processor)
    assert found.shape == (6, 1, 8, 8)
    alone = processor(images=np.asarray(images[1])[..., None], input_data_format="channels_last")
    assert np.allclose(found[1].numpy(), alone["pixel_values"][0], atol=1e-6)


def test_pictures_that_do_not_suit_the_processor_are_named():
    images = [PIL.Image.fromarray(GREY[i]).resize((4 + i, 4)) for i in range(6)]
    with pytest.raises(DataError, match="'shapes': the images of split 'search'"):
        _pixels(images, _grey_processor())


def test_many_pictures_are_processed_in_order():
    images = np.arange(2300, dtype=np.uint16).astype(np.uint8)[:, None, None].repeat(2, 1)
    data = LabelledData({"search": images}, {"search": np.zeros(2300, np.int64)}, ("a",))
    found = ImageClassification("x", data, processor=_grey_processor(do_normalize=False))
    pixels = found.data("search")[0]["pixel_values"]
    assert (pixels[:, 0, 0, 0] * 255).round().to(torch.uint8).tolist() == images[:, 0, 0].tolist()


def test_the_processor_is_found_in_a_folder(images, vit_folders):
    task = ImageClassification("dots", images["dots"], processor=vit_folders.base)
    same = ImageClassification("dots", images["dots"], processor=_grey_processor())
    assert task.fingerprint("search") == same.fingerprint("search")


def test_a_folder_without_processor_is_named(images, tmp_path):
    task = ImageClassification("dots", images["dots"], processor=tmp_path)
    with pytest.raises(DataError, match="'dots': no image processor in") as caught:
        task.data("search")
    assert str(tmp_path) in str(caught.value)


def test_accuracy_is_that_of_plain_transformers(vit_tasks, images, vit_folders):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    for task in vit_tasks:
        model = AutoModelForImageClassification.from_pretrained(vit_folders.experts[task.name])
        processor = AutoImageProcessor.from_pretrained(vit_folders.base)
        pictures = [PIL.Image.fromarray(image) for image in images[task.name].items["test"]]
        with torch.no_grad():
            guess = model.eval()(**processor(pictures, return_tensors="pt")).logits.argmax(1)
        accuracy = (guess.numpy() == images[task.name].labels["test"]).mean()
        assert task.evaluate(model, "test").metrics["accuracy"] == pytest.approx(accuracy)
        assert accuracy > 0.7
