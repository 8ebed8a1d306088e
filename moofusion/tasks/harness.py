"""Any task of EleutherAI's lm-evaluation-harness, measured on the merged model in memory."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import xxhash
from numpy.typing import NDArray
from torch import nn

from moofusion.errors import ConfigurationError, DataError, UnknownNameError
from moofusion.tasks.base import Measurement, Metric, Task
from moofusion.tasks.data import shuffled

__all__ = ["HarnessTask"]


class HarnessTask(Task):
    """A task of the lm-evaluation-harness (Gao et al. 2021), as the harness itself measures it.

    The harness has no search split. The documents it evaluates on are put into a fixed order (see
    :func:`moofusion.tasks.data.shuffled`): the first ones are for search, others for test. Nothing
    is written to disk for a candidate: the merged model goes to the harness as it is. There is no
    differentiable loss, and groups of tasks are not supported, as each of their members can be a
    task of its own. Needs ``moofusion[lm]``.

    Args:
        name: Name of the task.
        task: Name of the task in the harness; `name` by default.
        tokenizer: Tokenizer, or the folder or hub id it is loaded from.
        search: Documents for search.
        test: Documents for test; None takes all the others, 0 none.
        metric: Metric of the harness (``"acc"``, ``"acc_norm"``, ``"exact_match"``), with the name
            of the filter where the task has several (``"exact_match,strict-match"``).
        folder: Folder with task files of your own, beside those of the harness.
        few_shot: Examples before each question; the task's own number by default.
        batch_size: Sequences per forward pass.
        max_length: Longest sequence in tokens; the model's own by default.
        head: Module of the pool that carries the head; language models need none.

    Raises:
        ConfigurationError: The harness is not installed, or has no such task or metric.
        DataError: The task cannot be loaded, or has fewer documents than asked for.

    Example:
        >>> import json, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "sums.jsonl").write_text(json.dumps({"q": "1 + 1 =", "a": 1}))
        >>> _ = (folder / "sums.yaml").write_text(json.dumps({
        ...     "task": "sums", "dataset_path": "json", "test_split": "test",
        ...     "dataset_kwargs": {"data_files": {"test": str(folder / "sums.jsonl")}},
        ...     "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_target": "a",
        ...     "doc_to_choice": ["1", "2"], "metric_list": [{"metric": "acc"}]}))
        >>> HarnessTask("sums", tokenizer="gpt2", search=1, folder=folder)
        HarnessTask('sums', objective=acc, search=1)
    """

    def __init__(
        self,
        name: str,
        *,
        task: str | None = None,
        tokenizer: str | Path | Any,
        search: int,
        test: int | None = None,
        metric: str = "acc",
        folder: str | Path | None = None,
        few_shot: int | None = None,
        batch_size: int = 8,
        max_length: int | None = None,
        head: str | None = None,
    ) -> None:
        self.task = task or name
        self.batch_size, self.max_length = batch_size, max_length
        self._tokenizer = tokenizer
        self._loading = (folder, few_shot)
        self._loaded: Any = None
        harness = self._harness
        directions: dict[str, bool] = harness.higher_is_better()
        plain = metric.partition(",")[0]
        if plain not in directions:
            raise UnknownNameError(f"metric of the harness' task {self.task!r}", plain, directions)
        direction = "max" if directions[plain] else "min"
        share = direction == "max"
        self.metrics = (
            Metric(
                plain,
                direction,
                best=1.0 if share else 0.0,
                worst=1.0 if share else None,
                percent=share,
            ),
        )
        super().__init__(name, head=head)
        self._metric = metric
        count = len(harness.eval_docs)
        rest = count - search if test is None else test
        if search < 1 or rest < 0 or search + rest > count:
            raise DataError(
                f"task {name!r}: {search} documents for search and {test} for test of the {count} "
                f"that the harness' task {self.task!r} has"
            )
        order = [int(index) for index in shuffled(count)]
        rows = {"search": order[:search], "test": order[search : search + rest]}
        self._rows = {split: sorted(found) for split, found in rows.items() if found}

    def __getstate__(self) -> dict[str, Any]:
        # The harness' task holds functions that cannot be copied; it is loaded where it is needed.
        return self.__dict__ | {"_loaded": None}

    @property
    def _harness(self) -> Any:
        """The task in the harness, loaded if need be."""
        if self._loaded is None:
            self._loaded = _load(self.task, *self._loading)
        return self._loaded

    def has_split(self, split: str) -> bool:
        """Whether there are documents for `split`."""
        return split in self._rows

    def n_samples(self, split: str) -> int:
        """Number of documents of `split`."""
        self.require(split)
        return len(self._rows[split])

    def passes(
        self, split: str, indices: NDArray[Any] | None = None, *, gradient: bool = False
    ) -> tuple[int, int]:
        """A pass for every request that the harness makes: each choice of a question is one."""
        self.require(split)
        harness, rows = self._harness, self._rows[split]
        rows = rows if indices is None else [rows[index] for index in indices]
        count = len(rows)
        if harness.OUTPUT_TYPE == "multiple_choice":
            count = sum(len(harness.doc_to_choice(harness.eval_docs[row])) for row in rows)
            if "acc_mutual_info" in harness.higher_is_better():
                count *= 2  # each choice without its question, too
        count *= harness.config.repeats or 1
        return (0, count) if gradient else (count, 0)

    def evaluate(self, module: nn.Module, split: str) -> Measurement:
        """Let the harness measure `module` on the documents of `split`."""
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        self.require(split)
        with _quiet():
            model = HFLM(
                pretrained=module,
                tokenizer=self.tokenizer,
                batch_size=self.batch_size,
                max_length=self.max_length,
            )
            found = evaluate(
                model,
                {"tasks": {self.task: self._harness}},
                samples={self.task: self._rows[split]},
                bootstrap_iters=0,
                log_samples=False,
            )
        measured: dict[str, Any] = found["results"][self.task]
        plain = self.metrics[0].name
        keys = [key for key in measured if key in (self._metric, f"{self._metric},none")]
        keys = keys or [key for key in measured if key.startswith(f"{plain},")]
        if len(keys) != 1 or ("," in self._metric and keys != [self._metric]):
            known = [key for key in measured if key.startswith(f"{plain},")]
            raise UnknownNameError(f"metric of task {self.name!r}", self._metric, known)
        return Measurement({plain: float(measured[keys[0]])}, self.passes(split)[0])

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded if need be."""
        if isinstance(self._tokenizer, str | Path):
            from moofusion.tasks.text import load_tokenizer

            self._tokenizer = load_tokenizer(self._tokenizer, self.name)
        if self._tokenizer.eos_token_id is None:
            raise DataError(
                f"task {self.name!r}: the tokenizer has no end-of-sequence token, which the "
                "harness needs; set its eos_token"
            )
        return self._tokenizer

    def fingerprint(self, split: str) -> str:
        """Hash of the documents and settings."""
        self.require(split)
        documents = self._harness.eval_docs
        digest = xxhash.xxh3_128(
            repr(
                (
                    type(self).__name__,
                    self.name,
                    self.task,
                    self._metric,
                    self._loading[1],
                    self.batch_size,
                    self.max_length,
                    self._harness.dump_config(),
                )
            ).encode()
        )
        for row in self._rows[split]:
            digest.update(json.dumps(documents[row], sort_keys=True, default=repr).encode())
        return digest.hexdigest()


def _load(name: str, folder: str | Path | None, few_shot: int | None) -> Any:
    """A task of the harness, with the seed and the number of examples set."""
    try:
        import lm_eval.tasks  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "tasks of the lm-evaluation-harness need lm_eval, which is not installed: "
            "pip install 'moofusion[lm]'"
        ) from error
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise ConfigurationError(
            f"the harness' task {name!r}: there is no folder {str(folder)!r}; expected one with "
            "task files (*.yaml)"
        )
    with _quiet():
        # The thousands of the harness' own take seconds to index, so your own come first.
        managers = [] if folder is None else [_manager(str(Path(folder).expanduser()))]
        if not any(name in manager.all_subtasks for manager in managers):
            managers.append(_manager(None))
        if name not in managers[-1].all_subtasks:
            raise UnknownNameError(
                "task of the lm-evaluation-harness", name, (), hint="`lm-eval ls tasks` lists them."
            )
        try:
            task = managers[-1].load([name])["tasks"][name]
            if few_shot is not None:
                task.set_config(key="num_fewshot", value=few_shot)
            task.set_fewshot_seed(seed=1234)  # the harness' own default
            len(task.eval_docs)
        except Exception as error:  # data sets fail in a dozen ways
            raise DataError(f"the harness' task {name!r} cannot be loaded: {error}") from error
    return task


@lru_cache
def _manager(folder: str | None) -> Any:
    """The harness' index of the tasks of a folder, or of its own."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=folder is None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness' own reports and bars off the screen; what matters is raised."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
