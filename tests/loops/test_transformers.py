"""A GPT-2 with random weights: the loss is computed inside the model, and Trainer does the loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import feedalign as fa
from loops.oracle import backward

VOCABULARY, LENGTH, STEPS = 101, 12, 20


@pytest.fixture(scope="module")
def gpt2() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        import transformers

        yield transformers


def build(transformers: Any) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=None, attn_implementation="eager",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return transformers.GPT2LMHeadModel(config).double()


class Text(Dataset[dict[str, Tensor]]):
    """Sentences in which every word decides the next."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        words = [index % 13 + 1]
        for _ in range(LENGTH - 1):
            words.append((3 * words[-1] + 1) % 13 + 1)
        tokens = torch.tensor(words)
        labels = tokens.clone()
        labels[0] = -100  # no word predicts the first; Trainer counts those to predict by this
        return {"input_ids": tokens, "labels": labels}


def batch(count: int = 5) -> dict[str, Tensor]:
    items = [Text()[i] for i in range(count)]
    return {key: torch.stack([item[key] for item in items]) for key in items[0]}


def by_hand(plain: nn.Module, matrices: list[Tensor], inputs: dict[str, Tensor]) -> Tensor:
    """Add DFA's gradients to those of a GPT-2 that nothing is attached to; return the loss."""
    gpt, positions = plain.transformer, torch.arange(LENGTH)
    causal = torch.full((LENGTH, LENGTH), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)[None, None]

    def first(tokens: Tensor) -> Tensor:
        return _tensor(gpt.h[0](gpt.wte(tokens) + gpt.wpe(positions), attention_mask=causal))

    def second(x: Tensor) -> Tensor:
        return _tensor(gpt.h[1](x, attention_mask=causal))

    def head(x: Tensor) -> Tensor:
        return plain.lm_head(gpt.ln_f(x))

    def loss_of(logits: Tensor) -> Tensor:  # in single precision, as there
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), inputs["labels"][:, 1:].flatten())

    return backward([first, second], head, matrices, inputs["input_ids"], loss_of)


def _tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def test_every_block_receives_dfa(gpt2: Any) -> None:
    model, plain = build(gpt2), build(gpt2)
    assert plain.lm_head.weight is plain.transformer.wte.weight  # tied: it learns in two ways
    handle = fa.attach(model, fa.DFA(seed=0), points="auto", output="lm_head")
    assert [str(point) for point in handle.points] == ["transformer.h.0", "transformer.h.1"]
    loss = model(**batch()).loss
    loss.backward()
    torch.testing.assert_close(loss.detach(), by_hand(plain, handle.planner.matrices(), batch()))
    for (name, found), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")  # by its newest name
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_trainer_equals_a_loop_by_hand(gpt2: Any, tmp_path: Path, checkpointing: bool) -> None:
    model, plain = build(gpt2), build(gpt2)
    handle = fa.attach(model, fa.DFA(seed=0), points="auto", output="lm_head")
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    runs: list[None] = []
    model.transformer.h[0].mlp.register_forward_pre_hook(lambda *_: runs.append(None))
    arguments = gpt2.TrainingArguments(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, max_steps=STEPS, per_device_train_batch_size=4,
        gradient_accumulation_steps=2, optim="sgd", learning_rate=0.3, lr_scheduler_type="constant", max_grad_norm=1.0,
        logging_steps=1, save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = gpt2.Trainer(model=model, args=arguments, train_dataset=Text())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    optimizer = torch.optim.SGD(plain.parameters(), 0.3)
    for found in losses:  # Trainer sees all of the eight sentences at every step, in some order
        optimizer.zero_grad()
        expected = by_hand(plain, handle.planner.matrices(), batch(len(Text())))
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        assert found == pytest.approx(expected.item(), rel=1e-4)
    assert len(runs) == STEPS * 2 * (2 if checkpointing else 1)  # accumulated twice a step; run again when checkpointed
    assert len(losses) == STEPS
    assert losses[-1] < 0.8 * losses[0]
    for (name, found), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_without_output_the_module_that_made_the_logits_is_found(gpt2: Any) -> None:
    found, named = build(gpt2), build(gpt2)
    handle = fa.attach(found, fa.DFA(seed=0), points="auto")
    fa.attach(named, fa.DFA(seed=0), points="auto", output="lm_head")
    for model in (found, named):
        model(**batch()).loss.backward()
    assert handle.output == "lm_head"
    for (name, parameter), other in zip(found.named_parameters(), named.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), name
