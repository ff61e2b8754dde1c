"""A picture of what a hidden layer has learned: t-SNE of its activities, coloured by class."""

from typing import Any

import torch
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from torch import Tensor, nn

from feedalign.experiments.data import Samples

PERPLEXITY = 30.0


def hidden(model: nn.Module, reader: nn.Module, images: Tensor) -> Tensor:
    """Return what ``reader``, a layer of ``model``, is given for the images, in evaluation mode ``[N, D]``."""
    seen: list[Tensor] = []
    hook = reader.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(images)
    finally:
        hook.remove()
        model.train(training)
    return seen[0].flatten(1).float()


def embed(activities: Tensor, samples: Samples, layer: str, rule: str, seed: int = 0) -> dict[str, Any]:
    """Return t-SNE of the activities of a layer, as a record holds it.

    The silhouette is that of the classes among the activities themselves, from -1 to 1. It does not depend on
    t-SNE, whose distances mean little.

    Args:
        activities: ``[N, D]``.
        samples: What they belong to.
        layer: Name of the layer.
        rule: Name of the learning rule.
        seed: Of t-SNE.

    References:
        van der Maaten & Hinton, *Visualizing Data using t-SNE*, JMLR 2008.
        Rousseeuw, *Silhouettes*, Journal of Computational and Applied Mathematics 1987.
    """
    features, labels = activities.cpu().numpy(), samples.labels.cpu().numpy()
    perplexity = min(PERPLEXITY, (len(labels) - 1) / 3)
    points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)
    return {
        "layer": layer,
        "rule": rule,
        "points": [[round(float(x), 3), round(float(y), 3)] for x, y in points],
        "labels": labels.tolist(),
        "silhouette": float(silhouette_score(features, labels)),
    }
