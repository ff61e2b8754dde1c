"""``feedalign generate``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from feedalign.cli.console import say, standard_output
from feedalign.cli.options import Omitted


@dataclass(frozen=True)
class Generate:
    """Go on with a text by the weights of a language model that was trained with --keep.

    Example: feedalign generate runs/lm/python-small/bp-seed0 --prompt "def " --temperature 0.8 --top-k 40

    Attributes:
        run_folder: Folder of the run, such as runs/lm/python-small/bp-seed0.
        prompt: What to go on from.
        tokens: How many to sample.
        temperature: Above 1 makes rare tokens likelier, below 1 rarer; 0 always takes the likeliest.
        top_k: Sample among so many likeliest tokens only.
        seed: Decides what is sampled.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    prompt: str = ""
    tokens: int = 100
    temperature: float = 1.0
    top_k: Omitted[int] = None
    seed: int = 0

    def run(self) -> None:
        """Print the prompt and what follows."""
        from feedalign.experiments.lm.generation import generate, restored

        text = generate(
            restored(self.run_folder),
            self.prompt,
            tokens=self.tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            seed=self.seed,
        )
        say(standard_output(), text)
