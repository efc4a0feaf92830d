"""Gradient-boosted trees of scikit-learn, which tables often suit better than a network.

They take what a network's preprocessor takes, not what it makes of it: numbers as they are, NaN
where missing, and each category as the number of its place in the vocabulary.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self, assert_never

import numpy as np
from scipy.special import softmax
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from app.bundle.tensors import Array, Tensors
from training.data.split import Split
from training.errors import Unsuitable
from training.models.space import Between, Setting, Space
from training.preprocess.tensors import Lookup, Preprocess
from training.tasks import Classification, MultiLabel, Regression, Task


@dataclass(frozen=True)
class TreeCandidate:
    """Boosted trees that may be chosen.

    Attributes:
        space: what a search may vary, by the estimator's own names.
        settings: what is not as scikit-learn has it by default.
    """

    name: str
    description: str
    space: Space = field(default_factory=dict)
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def tuned(self, settings: Mapping[str, Setting]) -> Self:
        return replace(self, settings={**self.settings, **settings})


#: As scikit-learn has them by default, but as many as the validation rows ask for.
TREES = TreeCandidate(
    "trees",
    "gradient-boosted trees of scikit-learn",
    {
        "learning_rate": Between(0.01, 0.3, log=True),
        "max_leaf_nodes": Between(7, 127, log=True),
        "min_samples_leaf": Between(5, 100, log=True),
        "l2_regularization": Between(0.0, 10.0),
    },
    {
        "learning_rate": 0.1,
        "max_iter": 500,
        "max_leaf_nodes": 31,
        "min_samples_leaf": 20,
        "l2_regularization": 0.0,
    },
)


class Trees:
    """Fitted trees with what is before them: from the graph's inputs to the answer.

    Attributes:
        preprocess: whose inputs these trees take; its statistics are not used.
        temperature: what the sums of the leaves are divided by before they become scores
            (Guo et al. 2017, arXiv:1706.04599).
    """

    framework = "scikit-learn"

    def __init__(self, preprocess: Preprocess, estimator: Any, task: Task) -> None:
        self.preprocess = preprocess
        self.estimator = estimator
        self.task = task
        self.temperature = 1.0

    def raw(self, inputs: Tensors) -> Array:
        """The sums of the leaves, float64 [rows, labels]; of two classes the first has 0, the
        second the logarithm of its odds. Without a temperature."""
        sums: Array = self.estimator.decision_function(table(self.preprocess, inputs))
        return np.stack([np.zeros(len(sums)), sums], axis=1) if sums.ndim == 1 else sums

    def answers(self, inputs: Tensors) -> Array:
        """float32, scores [rows, labels] or values [rows]."""
        if isinstance(self.task, Regression):
            found = self.estimator.predict(table(self.preprocess, inputs))
        else:
            found = softmax(self.raw(inputs) / self.temperature, axis=1)
        answers: Array = found.astype(np.float32)
        return answers

    def reference(self, inputs: Tensors) -> dict[str, Array]:
        """What scikit-learn answers, as the graph's outputs."""
        return self.task.outputs(self.answers(inputs))

    @property
    def lookup(self) -> Lookup | None:
        return self.preprocess.lookup

    @property
    def parameter_count(self) -> int:
        """Nodes of all trees."""
        return sum(len(nodes) for nodes in _nodes(self.estimator))

    @property
    def weights_sha256(self) -> str:
        """Hash of the temperature and of every tree, field by field, as there may be gaps between
        the fields."""
        digest = hashlib.sha256(np.float64(self.temperature).tobytes())
        for nodes in _nodes(self.estimator):
            for name in nodes.dtype.names or ():
                digest.update(np.ascontiguousarray(nodes[name]).tobytes())
        return digest.hexdigest()


def table(preprocess: Preprocess, inputs: Tensors) -> Array:
    """The graph's inputs side by side, categories as numbers: float32 [rows, columns]."""
    parts = [part.numpy().astype(np.float32) for part in preprocess.features(inputs)]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def fit_trees(
    candidate: TreeCandidate, preprocess: Preprocess, split: Split, *, seed: int, threads: int
) -> Trees:
    """Fit to the training rows, and end, as networks do, when the loss of the validation rows no
    longer falls. The same seed and rows give the same trees.

    Raises:
        Unsuitable: trees cannot be had for this task or these rows.
    """
    train, held = split.train, split.validation
    estimator = estimator_for(train.task, seed=seed, **candidate.settings)
    estimator.set_params(early_stopping=True)
    if isinstance(train.task, Classification) and len(np.unique(train.targets)) < train.task.width:
        raise Unsuitable("a class has no row among the training rows")
    with threadpool_limits(threads):
        estimator.fit(
            table(preprocess, train.inputs),
            train.targets,
            X_val=table(preprocess, held.inputs),
            y_val=held.targets,
        )
    for nodes in _nodes(estimator):
        nodes["num_threshold"] = rounded_down(nodes["num_threshold"])
    return Trees(preprocess, estimator, train.task)


def estimator_for(task: Task, *, seed: int, **settings: Setting) -> Any:
    """An unfitted estimator, with scikit-learn's defaults where nothing else is said.

    Raises:
        Unsuitable: there is none for the task.
    """
    match task:
        case Classification():
            return HistGradientBoostingClassifier(random_state=seed, **settings)
        case Regression():
            return HistGradientBoostingRegressor(random_state=seed, **settings)
        case MultiLabel():
            raise Unsuitable("boosted trees answer with one label only")
        case _:
            assert_never(task)


def rounded_down(thresholds: Array) -> Array:
    """The largest float32 that is not above each threshold, float64 [nodes].

    Rows are float32, so that `row <= threshold` stays what it was, and a graph, which has its
    thresholds in float32, decides as scikit-learn does. To the nearest would flip some.
    """
    nearest = thresholds.astype(np.float32)
    below = np.nextafter(nearest, np.float32(-np.inf), dtype=np.float32)
    return np.where(nearest > thresholds, below, nearest).astype(np.float64)


def _nodes(estimator: Any) -> list[Array]:
    """The nodes of each tree; scikit-learn has no public name for them."""
    return [tree.nodes for step in estimator._predictors for tree in step]
