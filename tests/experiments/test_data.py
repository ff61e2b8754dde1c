"""Data sets are found, checked before they are opened, downloaded, split; or an error says what to do."""

import functools
import gzip
import http.server
import os
import pickle
import shutil
import tarfile
import threading
import tracemalloc

import pytest
import torch

from feedalign.experiments.data import DATASETS, DataConfig, cifar, load, mnist
from feedalign.experiments.data import data_root as chosen_root
from feedalign.experiments.data.images import prepare
from feedalign.experiments.data.root import File, Place, fetch
from feedalign.experiments.errors import DataError

LABELS = mnist.MNIST[3]


@pytest.fixture
def server(data_root):
    """Serve the upstream files over HTTP on this machine, and count nothing but bytes."""
    handler = functools.partial(QuietHandler, directory=str(data_root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def batches(data_root, tmp_path_factory):
    """A data root in torchvision's layout for CIFAR-10, with one training batch."""
    root = tmp_path_factory.mktemp("cifar")
    with tarfile.open(data_root / "cifar-10" / "cifar-10-python.tar.xz") as archive:
        for member in archive:
            archive.extract(member, root, filter="data")
            if member.name.endswith("data_batch_1"):
                break
    return root


def test_digits_need_no_file_and_are_standardised(tmp_path):
    torch.manual_seed(1)
    data = load(DataConfig("digits"), tmp_path, download=False)
    torch.manual_seed(2)
    again = load(DataConfig("digits"), tmp_path, download=False)
    assert data.counts == {"train": 1200, "validation": 200, "test": 397}
    assert data.shape == (1, 8, 8)
    assert data.classes == 10
    assert data.train.images.dtype == torch.float32
    assert data.train.labels.dtype == torch.int64
    assert data.train.images.mean().abs() < 1e-5
    assert abs(data.train.images.std() - 1) < 1e-5
    assert torch.equal(data.train.images, again.train.images)  # whatever the global random numbers are


def test_parts_do_not_overlap_and_keep_their_labels():
    raw = DATASETS["digits"].read(None)
    data = prepare("digits", raw, validation=200)

    def samples(images, labels):
        pixels = (images * data.std[0] + data.mean[0]).mul(255).round().to(torch.uint8)
        return [(bytes(image.flatten().tolist()), label) for image, label in zip(pixels, labels.tolist(), strict=True)]

    upstream = [(bytes(i.flatten().tolist()), int(label)) for i, label in zip(*raw.train, strict=True)]
    assert sorted(samples(*data.train) + samples(*data.validation)) == sorted(upstream)
    assert len(samples(*data.test)) == 397


def test_split_follows_its_seed():
    first, second = (load(DataConfig("digits", split_seed=seed)) for seed in (0, 1))
    assert not torch.equal(first.validation.labels, second.validation.labels)
    assert torch.equal(first.test.labels, second.test.labels)


def test_limit_shortens_the_training_part_only():
    whole, short = load(DataConfig("digits")), load(DataConfig("digits", limit=100))
    assert short.counts == {"train": 100, "validation": 200, "test": 397}
    assert torch.equal(short.train.labels, whole.train.labels[:100])
    assert torch.equal(short.validation.labels, whole.validation.labels)


def test_label_noise_touches_training_labels_only():
    clean, noisy = load(DataConfig("digits")), load(DataConfig("digits", label_noise=0.5))
    changed = (clean.train.labels != noisy.train.labels).float().mean()
    assert 0.4 < changed < 0.5  # a tenth of the labels drawn are the true ones
    assert torch.equal(clean.validation.labels, noisy.validation.labels)
    assert torch.equal(clean.test.labels, noisy.test.labels)
    assert torch.equal(noisy.train.labels, load(DataConfig("digits", label_noise=0.5)).train.labels)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig("mnits"), "There is no data set 'mnits'. Did you mean 'mnist'?"),
        (DataConfig("digits", validation=1400), "expected to hold out 0 to 1,399, found 1,400"),
        (DataConfig("digits", validation=-1), "expected to hold out 0 to 1,399, found -1"),
        (DataConfig("digits", limit=0), "limit of at least 1 training sample, found 0"),
        (DataConfig("digits", label_noise=1.5), r"label noise in \[0, 1\], found 1.5"),
    ],
)
def test_impossible_requests_are_refused(config, message):
    with pytest.raises(DataError, match=message):
        load(config)


def test_mnist_is_mnist(data_root):
    data = load(DataConfig("mnist"), data_root, download=False)
    assert data.counts == {"train": 55_000, "validation": 5_000, "test": 10_000}
    assert data.shape == (1, 28, 28)
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.mean[0] == pytest.approx(0.1307, abs=2e-4)  # the figures everybody uses
    assert data.std[0] == pytest.approx(0.3081, abs=2e-4)


def test_fashion_mnist_has_its_own_files(data_root):
    raw = DATASETS["fashion-mnist"].read(data_root, download=False)
    assert torch.bincount(raw.train.labels).tolist() == [6000] * 10
    assert raw.train.images.float().mean() / 255 == pytest.approx(0.2860, abs=1e-4)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_in_the_layout_of_torchvision(packed, data_root, tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file in (data_root / "mnist").iterdir():
        content = file.read_bytes()
        name = file.name if packed else file.stem
        (folder / name).write_bytes(content if packed else gzip.decompress(content))
    found = DATASETS["mnist"].read(tmp_path, download=False)
    upstream = DATASETS["mnist"].read(data_root, download=False)
    assert torch.equal(found.train.images, upstream.train.images)
    assert torch.equal(found.test.labels, upstream.test.labels)


def test_cifar_tells_how_many_images_there_are(data_root):
    raw = DATASETS["cifar10"].read(data_root, download=False)
    assert raw.train.images.shape == (30_000, 3, 32, 32)
    assert raw.test.images.shape == (10_000, 3, 32, 32)
    assert raw.test.labels[:4].tolist() == [3, 8, 8, 0]
    assert torch.bincount(raw.test.labels).tolist() == [1000] * 10


def test_cifar_unpacked_or_packed_by_gzip(batches, tmp_path):
    unpacked = cifar.read(batches, download=False)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as archive:
        for name in ("data_batch_1", "test_batch"):
            archive.add(batches / cifar.FOLDER / name, f"{cifar.FOLDER}/{name}")
    packed = cifar.read(tmp_path, download=False)
    assert torch.equal(packed.test.images, unpacked.test.images)
    assert torch.equal(packed.train.images, unpacked.train.images)
    assert len(unpacked.train.labels) == 10_000


def test_cifar_without_test_images_is_refused(batches, tmp_path):
    folder = tmp_path / cifar.FOLDER
    folder.mkdir()
    (folder / "data_batch_1").symlink_to(batches / cifar.FOLDER / "data_batch_1")
    with pytest.raises(
        DataError, match="not complete: expected test_batch and at least data_batch_1, found data_batch_1"
    ):
        cifar.read(tmp_path, download=False)


def test_truncated_archive_is_refused(data_root, tmp_path):
    whole = data_root / "cifar-10" / "cifar-10-python.tar.xz"
    with whole.open("rb") as file:
        (tmp_path / whole.name).write_bytes(file.read(1_000_000))
    with pytest.raises(DataError, match=r"cifar-10-python.tar.xz is truncated or damaged"):
        cifar.read(tmp_path, download=False)


class Malice:
    """A pickle that makes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickle_with_another_hash_is_never_opened(batches, tmp_path):
    folder = tmp_path / cifar.FOLDER
    folder.mkdir()
    (folder / "test_batch").symlink_to(batches / cifar.FOLDER / "test_batch")
    (folder / "data_batch_1").write_bytes(pickle.dumps(Malice(tmp_path / "made")))
    with pytest.raises(DataError, match=r"data_batch_1 is truncated or damaged: .* it was not opened"):
        cifar.read(tmp_path, download=False)
    assert not (tmp_path / "made").exists()


def test_unpickler_admits_arrays_only(tmp_path):
    pickled = tmp_path / "malice"
    pickled.write_bytes(pickle.dumps(Malice(tmp_path / "made")))
    with (
        pickled.open("rb") as file,
        pytest.raises(pickle.UnpicklingError, match=r"NumPy arrays only, found posix.mkdir"),
    ):
        cifar.ArraysOnly(file).load()
    assert not (tmp_path / "made").exists()


def copy(data_root, tmp_path):
    path = tmp_path / LABELS.places[0].path
    path.parent.mkdir(parents=True)
    shutil.copyfile(data_root / LABELS.places[0].path, path)
    return path


def test_truncated_file_is_refused(data_root, tmp_path):
    path = copy(data_root, tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"ubyte.gz is truncated: expected 4,542 bytes, found 4,541. Delete it"):
        fetch(LABELS, tmp_path)


def test_changed_file_is_refused(data_root, tmp_path):
    path = copy(data_root, tmp_path)
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"damaged or was changed: expected sha256 f7ae60.*, found .* It was not opened"
    ):
        fetch(LABELS, tmp_path)


def repacked(path, content=None):
    """Pack the content of a gzip file anew: with a name and a time in its header, and less tightly."""
    content = gzip.decompress(path.read_bytes()) if content is None else content
    with path.open("wb") as file, gzip.GzipFile("other-name", "wb", 1, file, mtime=1_234_567_890) as packed:
        packed.write(content)


def test_mnist_that_was_packed_anew_is_mnist(data_root, tmp_path):
    shutil.copytree(data_root / "mnist", tmp_path / "mnist")
    for file in mnist.MNIST:
        path = tmp_path / file.places[0].path
        before = path.read_bytes()
        repacked(path)
        assert path.read_bytes() != before
        assert fetch(file, tmp_path, download=False) == path
    found = DATASETS["mnist"].read(tmp_path, download=False)
    upstream = DATASETS["mnist"].read(data_root, download=False)
    assert torch.equal(found.train.images, upstream.train.images)
    assert torch.equal(found.test.labels, upstream.test.labels)


@pytest.mark.parametrize("change", ["one byte", "one more", "cut off", "no gzip"])
def test_other_content_that_was_packed_anew_is_refused(change, data_root, tmp_path):
    path = copy(data_root, tmp_path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[100] ^= change == "one byte"
    repacked(path, bytes(content) + b"x" * (change == "one more"))
    if change == "cut off":
        path.write_bytes(path.read_bytes()[:-9])
    if change == "no gzip":
        path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"ubyte.gz is (not the upstream file|truncated): expected 4,542 bytes"):
        fetch(LABELS, tmp_path, download=False)


def test_a_packed_file_is_unpacked_no_further_than_its_content_is_long(data_root, tmp_path):
    """A small file may unpack to more than there is memory for."""
    path = copy(data_root, tmp_path)
    with gzip.open(path, "wb") as packed:
        for _ in range(8):
            packed.write(bytes(2**24))  # 128 MiB in all
    tracemalloc.start()
    with pytest.raises(DataError, match="is not the upstream file"):
        fetch(LABELS, tmp_path, download=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


PAGES = (
    b"<!DOCTYPE html>\n<html><body>403 Forbidden</body></html>",
    b"\xef\xbb\xbf\n  <html lang='en'><head><title>Sign in</title></head></html>",
    b"<?xml version='1.0'?>\n<!-- saved -->\n<!doctype HTML><HTML></HTML>",
)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("size", [None, 4_542])
def test_a_page_under_the_name_of_a_file_is_called_one(page, size, data_root, tmp_path):
    path = copy(data_root, tmp_path)
    path.write_bytes(page.ljust(size or 0))  # of another size than the file, and of the same
    with pytest.raises(DataError, match=r"ubyte.gz is an HTML page, saved under the name of a data file.* Delete it"):
        fetch(LABELS, tmp_path, download=False)


def test_a_page_under_the_name_of_an_archive_or_a_batch_is_called_one(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(PAGES[0])
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz is an HTML page"):
        cifar.read(tmp_path, download=False)
    (tmp_path / cifar.FOLDER).mkdir()
    (tmp_path / cifar.FOLDER / "test_batch").write_bytes(PAGES[0])
    with pytest.raises(DataError, match=r"test_batch is an HTML page"):
        cifar.read(tmp_path, download=False)


def test_a_file_that_merely_holds_a_tag_is_no_page(tmp_path):
    (tmp_path / "labels").write_bytes(b"text with <html> in it")
    with pytest.raises(DataError, match="is not the upstream file: expected 3 bytes, found 22"):
        fetch(File((Place("labels", "sha256:0", 3),), ()), tmp_path)


def test_missing_file_names_the_places_and_the_ways_out(tmp_path):
    with pytest.raises(DataError) as caught:
        load(DataConfig("mnist"), tmp_path, download=False)
    message = str(caught.value)
    assert str(tmp_path / "mnist" / "train-images-idx3-ubyte.gz") in message
    assert str(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte") in message
    assert "FEEDALIGN_DATA" in message
    assert "'digits' needs no file" in message


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_no_network_is_told(name, tmp_path, monkeypatch):
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # the discard port: nothing listens
    with pytest.raises(DataError, match=r"could not be downloaded from http.*\(ProxyError\). Is there a network\?"):
        load(DataConfig(name), tmp_path)


def served(server, path=LABELS.places[0].path):
    return File(LABELS.places, (f"{server}/{path}",))


def test_download_lands_in_the_upstream_layout(server, data_root, tmp_path):
    path = fetch(served(server), tmp_path)
    assert path == tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    assert path.read_bytes() == (data_root / LABELS.places[0].path).read_bytes()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_download_goes_on_to_the_next_mirror(server, tmp_path):
    file = File(LABELS.places, (f"{server}/nowhere", *served(server).urls))
    assert fetch(file, tmp_path).is_file()


def test_download_with_another_checksum_is_thrown_away(server, tmp_path):
    other = served(server, mnist.MNIST[1].places[0].path)
    with pytest.raises(DataError, match=r"sent has another checksum than sha256:f7ae60.*thrown away"):
        fetch(other, tmp_path)
    assert not list((tmp_path / "mnist").iterdir())


def test_server_errors_are_told(server, tmp_path):
    with pytest.raises(DataError, match=r"could not be downloaded from .*nowhere \(HTTP 404\)"):
        fetch(served(server, "nowhere"), tmp_path)


def test_unwritable_data_root_is_told(server, tmp_path):
    (tmp_path / "mnist").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="could not be saved to"):
        fetch(served(server), tmp_path)


def test_data_root_order(tmp_path, monkeypatch):
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path / "variable"))
    assert chosen_root(tmp_path / "argument") == tmp_path / "argument"
    assert chosen_root() == tmp_path / "variable"
    monkeypatch.delenv("FEEDALIGN_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert chosen_root() == tmp_path / "cache" / "feedalign"


def test_unpacked_size_is_part_of_the_check(tmp_path):
    place = Place("labels", "sha256:0", 3)
    (tmp_path / "labels").write_bytes(b"four")
    with pytest.raises(DataError, match="is not the upstream file: expected 3 bytes, found 4"):
        fetch(File((place,), ()), tmp_path)
