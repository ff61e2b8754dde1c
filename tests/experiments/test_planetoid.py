"""The citation graphs equal those of PyTorch Geometric, read from checked files by a reader that runs nothing."""

import functools
import hashlib
import http.server
import os
import pickle
import shutil
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch_geometric.datasets import Planetoid
from torch_geometric.transforms import NormalizeFeatures

from feedalign.experiments.data import planetoid
from feedalign.experiments.data.graphs import GraphConfig, load_graph
from feedalign.experiments.errors import DataError

TITLES = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
# What the publishers of the split and everybody since state, and the features that are not zero.
SIZES = {
    "cora": (2_708, 5_278, 1_433, 7, 140, 49_216),
    "citeseer": (3_327, 4_552, 3_703, 6, 120, 105_165),
    "pubmed": (19_717, 44_324, 500, 3, 60, 988_031),
}


def copied(data_root: Path, folder: Path, name: str = "cora") -> Path:
    folder.mkdir(parents=True)
    for part in planetoid.KNOWN[name]:
        shutil.copyfile(data_root / "planetoid" / f"ind.{name}.{part}", folder / f"ind.{name}.{part}")
    return folder


@pytest.fixture
def cora(data_root, tmp_path):
    """A copy of Cora that a test may damage."""
    return copied(data_root, tmp_path / "planetoid")


@pytest.fixture
def accepted(cora, monkeypatch):
    """Put other content in a file of Cora, and let its checksum pass: the second lock is what is tested."""

    def replace(part, content):
        (cora / f"ind.cora.{part}").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(planetoid.KNOWN["cora"], part, (digest, len(content)))

    return replace


@pytest.mark.parametrize("name", TITLES)
def test_graphs_equal_those_of_pytorch_geometric(name, data_root, tmp_path):
    copied(data_root, tmp_path / TITLES[name] / "raw", name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own reading
        theirs = Planetoid(str(tmp_path), TITLES[name])[0]
    ours = load_graph(GraphConfig(name, normalise=False), data_root, download=False)
    assert torch.equal(ours.x, theirs.x)
    assert torch.equal(ours.edge_index, theirs.edge_index)
    assert torch.equal(ours.y, theirs.y)
    assert torch.equal(ours.train, theirs.train_mask)
    assert torch.equal(ours.validation, theirs.val_mask)
    assert torch.equal(ours.test, theirs.test_mask)
    normalised = load_graph(GraphConfig(name), tmp_path, download=False)  # and from the layout it uses
    torch.testing.assert_close(normalised.x, NormalizeFeatures()(theirs.clone()).x)


@pytest.mark.parametrize("name", TITLES)
def test_graphs_have_their_known_sizes(name, data_root):
    data = load_graph(GraphConfig(name, normalise=False), data_root, download=False)
    nodes, edges, features, classes, train, filled = SIZES[name]
    assert data.counts == {
        "nodes": nodes,
        "edges": edges,
        "features": features,
        "train": train,
        "validation": 500,
        "test": 1000,
    }
    assert data.classes == classes
    assert int(data.x.count_nonzero()) == filled
    assert data.y[data.train].bincount().tolist() == [20] * classes


def test_nodes_of_citeseer_without_features_or_edges(data_root):
    data = load_graph(GraphConfig("citeseer"), data_root, download=False)
    empty = data.x.count_nonzero(dim=1) == 0
    alone = data.edge_index[1].bincount(minlength=data.nodes) == 0
    assert (int(empty.sum()), int(alone.sum()), int((empty & alone).sum())) == (15, 48, 0)
    assert not (empty & (data.train | data.validation | data.test)).any()
    assert (data.y[empty] == 0).all()
    assert data.x.isfinite().all()


def test_a_changed_pickle_is_never_opened(cora, tmp_path):
    path = cora / "ind.cora.tx"
    size = planetoid.KNOWN["cora"]["tx"][1]
    path.write_bytes(pickle.dumps(Malice(tmp_path / "made")).ljust(size, b"\0"))
    with pytest.raises(DataError, match=r"ind.cora.tx is damaged or was changed: .* It was not opened. Delete it"):
        load_graph(GraphConfig("cora"), tmp_path)
    assert not (tmp_path / "made").exists()


def test_all_files_are_checked_before_the_first_is_opened(cora, accepted, tmp_path):
    accepted("allx", pickle.dumps(Malice(tmp_path / "made")))
    (cora / "ind.cora.test.index").write_bytes(b"2692\n")
    with pytest.raises(DataError, match=r"ind.cora.test.index is truncated: expected 5,000 bytes, found 5"):
        load_graph(GraphConfig("cora"), tmp_path)


class Malice:
    """A pickle that makes a folder when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"mkdir {self.path}",)


@pytest.mark.parametrize("part", ["allx", "graph", "y"])
def test_a_pickle_whose_checksum_passes_still_runs_nothing(part, accepted, tmp_path):
    content = pickle.dumps(Malice(tmp_path / "made"), protocol=2)
    accepted(part, content)
    with pytest.raises(
        DataError,
        match=rf"ind.cora.{part} is not what it should be. Expected a pickle of NumPy arrays, SciPy matrices and "
        r"lists only, found posix.system. Do not open it.",
    ):
        load_graph(GraphConfig("cora"), tmp_path)
    assert not (tmp_path / "made").exists()
    pickle.loads(content)  # it is malicious indeed
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("call", [("builtins", "eval"), ("builtins", "getattr"), ("numpy", "load"), ("os", "system")])
def test_nothing_else_can_be_called(call, accepted, tmp_path):
    module, name = call
    accepted("tx", b"".join([b"c", module.encode(), b"\n", name.encode(), b"\n(S'1'\ntR."]))
    with pytest.raises(DataError, match=rf"found {module}.{name}"):
        load_graph(GraphConfig("cora"), tmp_path)


def test_a_matrix_with_entries_outside_itself_is_refused(accepted, tmp_path):
    matrix = csr_matrix(np.eye(3, dtype=np.float32))
    matrix.indices[0] = 1_000_000
    content = pickle.dumps(matrix, protocol=3)
    accepted("tx", content.replace(b"scipy.sparse._csr", b"scipy.sparse.csr").replace(b"numpy._core", b"numpy.core"))
    with pytest.raises(DataError, match=r"ind.cora.tx is not what it should be. .*ind"):
        load_graph(GraphConfig("cora"), tmp_path)


def test_a_missing_file_names_the_places_and_the_graph_that_needs_none(tmp_path):
    with pytest.raises(DataError) as caught:
        load_graph(GraphConfig("pubmed"), tmp_path, download=False)
    message = str(caught.value)
    assert str(tmp_path / "planetoid" / "ind.pubmed.x") in message
    assert str(tmp_path / "PubMed" / "raw" / "ind.pubmed.x") in message
    assert "nor does the graph 'karate'" in message


def test_no_network_is_told(tmp_path, monkeypatch):
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # the discard port: nothing listens
    with pytest.raises(DataError, match=r"ind.cora.x \(ProxyError\). Is there a network\?"):
        load_graph(GraphConfig("cora"), tmp_path)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_a_download_lands_in_the_upstream_layout(data_root, tmp_path, monkeypatch):
    handler = functools.partial(QuietHandler, directory=str(data_root / "planetoid"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(planetoid, "URL", f"http://127.0.0.1:{server.server_address[1]}")
        read = planetoid.reader("cora", "Cora")
        downloaded = read(tmp_path)
        server.shutdown()
    assert len(list((tmp_path / "planetoid").iterdir())) == 8
    assert torch.equal(downloaded.x, read(data_root, download=False).x)
    assert torch.equal(read(tmp_path, download=False).y, downloaded.y)
