"""Which nodes train, validate and test, when it is not the public split."""

import warnings
from dataclasses import replace

import torch
from sklearn.model_selection import StratifiedKFold

from feedalign.experiments.data.graph_data import GraphData, mask
from feedalign.experiments.errors import DataError

FOLDS = 5


def stratified(data: GraphData, seed: int) -> GraphData:
    """Return the graph with 20 % of the nodes of each class in training, 20 % in validation and 60 % in test.

    The nodes are shuffled by ``seed`` and dealt to five folds: the first trains, the second validates, the others
    test. With seed 55 these are the folds of PyTorch Geometric's example of DNA, after which the published runs are
    made. A class of fewer than five nodes may be missing from a part.

    Raises:
        DataError: No class has five nodes.

    References:
        Fey, *Just jump: dynamic neighborhood aggregation in graph neural networks*, 2019.
    """
    largest = int(data.y.bincount().max())
    if largest < FOLDS:
        raise DataError(
            f"Graph {data.name!r}: expected a class of at least {FOLDS} nodes for a stratified split, found {largest} "
            "in the largest. Do use its public split."
        )
    labels = data.y.cpu().numpy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        dealt = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels)
        train, validation, *test = (torch.from_numpy(fold) for _, fold in dealt)
    first, second, rest = (mask(part, data.nodes).to(data.y.device) for part in (train, validation, torch.cat(test)))
    return replace(data, train=first, validation=second, test=rest)
