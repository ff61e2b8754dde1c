"""Lightning: the rule is on the inner model, and Trainer does the loop."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import feedalign as fa
from loops.oracle import backward, chain, samples


class Classifier(lightning.LightningModule):
    """The smallest LightningModule around a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.model(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        x, _ = batch
        assert not self.model(x).requires_grad

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*samples(30)), batch_size=6)


# Lightning asks for worker processes for a loader of 30 samples, and calls what torch has renamed.
@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_equals_the_plain_loop(tmp_path: Path) -> None:
    model = chain()
    handle = fa.attach(model, fa.DFA(seed=4), "[0-2]")
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=3, default_root_dir=tmp_path, logger=False, gradient_clip_val=0.5,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Classifier(model), loader(), loader())
    expected, matrices = chain(), handle.planner.matrices()
    optimizer = torch.optim.SGD(expected.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        for x, y in loader():
            optimizer.zero_grad()
            backward(expected[:3], expected[3], matrices, x, lambda z, y=y: F.cross_entropy(z, y))
            nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
            optimizer.step()
    assert trainer.global_step == 15
    for found, parameter, start in zip(model.parameters(), expected.parameters(), chain().parameters(), strict=True):
        torch.testing.assert_close(found, parameter, rtol=1e-10, atol=1e-12)
        assert not torch.equal(found, start)
