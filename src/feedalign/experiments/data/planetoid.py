"""Cora, CiteSeer and PubMed: citation graphs, eight files each, most of them pickles.

Pickles can run code: every file is checked by its hash before the first one is opened, and what opens them makes
nothing but arrays, matrices and lists.

References:
    Sen et al., *Collective classification in network data*, 2008. Namata et al., *Query-driven active surveying for
    collective classification*, 2012. Yang, Cohen & Salakhutdinov, *Revisiting semi-supervised learning with graph
    embeddings*, ICML 2016, for the split and the files.
"""

import pickle
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from feedalign.experiments.data.graph_data import GraphData, both_directions, mask
from feedalign.experiments.data.pickles import ARRAYS, Admitted, ArraysOnly
from feedalign.experiments.data.root import File, Place, fetch
from feedalign.experiments.errors import DataError

URL = "https://github.com/kimiyoung/planetoid/raw/master/data"
VALIDATION = 500
ADMITTED: Admitted = {
    **ARRAYS,
    # The path under which the SciPy of 2016 pickled it; SciPy 2 knows it no longer.
    ("scipy.sparse.csr", "csr_matrix"): csr_matrix,
    # What the neighbours of a node are listed in, under its name in Python 2.
    ("collections", "defaultdict"): defaultdict,
    ("__builtin__", "list"): list,
}
# SHA-256 and bytes of every upstream file.
KNOWN: dict[str, dict[str, tuple[str, int]]] = {
    "cora": {
        "x": ("23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab", 22_119),
        "tx": ("b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a", 148_025),
        "allx": ("9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543", 257_305),
        "y": ("94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1", 4_054),
        "ty": ("41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad", 28_135),
        "ally": ("2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71", 47_959),
        "graph": ("58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d", 59_847),
        "test.index": ("297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875", 5_000),
    },
    "citeseer": {
        "x": ("d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6", 31_087),
        "tx": ("539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21", 260_321),
        "allx": ("2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668", 595_021),
        "y": ("8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924", 3_014),
        "ty": ("55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce", 24_135),
        "ally": ("f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95", 55_623),
        "graph": ("d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7", 61_987),
        "test.index": ("2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4", 5_000),
    },
    "pubmed": {
        "x": ("fbe9cb5c47200d1b7769a26e579be3b7130b556831f9d850e77c4c74f2599b33", 23_172),
        "tx": ("4eb5f5d0f30f26497eb0ac6ac9719d09c67e284f1ed0385c93f3ef27a671da3d", 405_505),
        "allx": ("508e538e2abdccdd54c4d3e9f49d638b4af7107d85845f66ddea5a5152658b7e", 7_578_385),
        "y": ("e6c807633307a07ed659249006536a147c7999c797f11a2560752990181b41b3", 854),
        "ty": ("ee2e0d4819d9fbcc403689c3bf2e49face401b605932f093bc58ab6461130fdd", 12_135),
        "ally": ("0c37bbe3b5014ec365e9d393cf4791925e5ed94fb194305d74f064a8d7b50f0e", 224_739),
        "graph": ("5b89f0036ca22909471f1e6558eb42fa06e0c730a577bde5b058b40638f81dc9", 471_808),
        "test.index": ("b101d421688bbaecbd82e8a18f1e282378d6830f3a37666f28ebc47f844341b5", 6_000),
    },
}


def files(name: str, title: str) -> dict[str, File]:
    """Return the eight files of a graph: in one folder as upstream, or in the layout of PyTorch Geometric.

    Args:
        name: As in the names of the files.
        title: As PyTorch Geometric writes it.
    """
    return {
        part: File(
            places=tuple(
                Place(f"{folder}/ind.{name}.{part}", f"sha256:{digest}", size)
                for folder in ("planetoid", f"{title}/raw")
            ),
            urls=(f"{URL}/ind.{name}.{part}",),
        )
        for part, (digest, size) in KNOWN[name].items()
    }


def reader(name: str, title: str) -> Callable[..., GraphData]:
    """Return a function that reads the graph with its public split from a data root."""

    def read(root: Path, *, download: bool = True) -> GraphData:
        # All eight are checked before the first is opened.
        paths = {part: fetch(file, root, download=download) for part, file in files(name, title).items()}
        return assemble(name, paths)

    return read


def assemble(name: str, paths: dict[str, Path]) -> GraphData:
    """Return the graph in eight files that have been checked.

    The test nodes are stored in another order than they are numbered in. Of 15 numbers of CiteSeer the files know edges
    but neither features nor labels: as in all software that reads them, these nodes get zeros and label 0. They are in
    no part of the public split, but a stratified one does deal them out. 48 other nodes of CiteSeer have no edges.
    Citations of oneself, of which there are some, are dropped.

    Raises:
        DataError: A pickle wants to make something that is neither an array, a matrix nor a list, or a matrix
            that has entries outside itself.
    """
    stored = {part: _unpickle(path) for part, path in paths.items() if part != "test.index"}
    test = torch.tensor([int(line) for line in paths["test.index"].read_text(encoding="ascii").split()])
    x = _in_order(_dense(stored["allx"]), _dense(stored["tx"]), test)
    one_hot = _in_order(_dense(stored["ally"]), _dense(stored["ty"]), test)
    nodes, training = len(x), len(stored["y"])
    links = [(node, other) for node, others in stored["graph"].items() for other in others]
    return GraphData(
        name=name,
        x=x,
        edge_index=both_directions(torch.tensor(links).T, nodes),
        y=one_hot.argmax(dim=1),
        classes=one_hot.shape[1],
        train=mask(torch.arange(training), nodes),
        validation=mask(torch.arange(training, training + VALIDATION), nodes),
        test=mask(test, nodes),
    )


def _unpickle(path: Path) -> Any:
    contents = "NumPy arrays, SciPy matrices and lists"
    with path.open("rb") as file:
        try:
            stored = ArraysOnly(file, encoding="latin1", admitted=ADMITTED, contents=contents).load()
            if isinstance(stored, csr_matrix):
                stored.check_format()  # SciPy would write to an index out of range
        except (pickle.UnpicklingError, ValueError) as error:
            raise DataError(f"{path} is not what it should be. {error}") from error
    return stored


def _dense(stored: Any) -> Tensor:
    array = stored.toarray() if isinstance(stored, csr_matrix) else stored
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


def _in_order(first: Tensor, last: Tensor, numbers: Tensor) -> Tensor:
    """Return rows ``[N, ...]``: ``first`` as they come, then ``last`` at their numbers, zeros where none is."""
    rows = first.new_zeros(int(numbers.max()) + 1, first.shape[1])
    rows[: len(first)] = first
    rows[numbers] = last
    return rows
