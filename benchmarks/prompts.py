"""The speed of a round of FedPGP, next to the plain formulation of the same round, in one run.

    python benchmarks/prompts.py                                      # CPU; a few minutes
    python benchmarks/prompts.py --device cuda                        # with peak memory
    python benchmarks/prompts.py --write benchmarks/results/prompts.md

Both sides: ViT-B/16 at its real size with random weights, 21 classes, 10 clients, 16 shots, batches of 16, 2 local
epochs, a prompt of 16 vectors, float32. Rows, batches and steps are those of the same federation, UC Merced's counts.

- plain: clients one after the other; each step encodes its 16 images, and 21 sequences of 77 tokens for each of three
  texts: the shared prompt, the personal one, the anchor (the last without gradients); ``torch.optim.SGD``.
- fedkit: ``fedtrain.methods.fedpgp`` as the engine calls it, all clients stacked, on features of the images that are
  encoded once for all rounds; what that takes is measured apart and printed.

The plain side's steps are all alike, so some of them are timed, half before and half after fedkit's round, and the
round is projected from their median. fedkit's round is timed whole.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from torch.nn import functional

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.dataset.reader import Subset
from fedrsic_data.sources.locate import Places
from fedtrain.methods.base import Context
from fedtrain.methods.fedpgp import FedPGP, FedPGPSettings
from fedtrain.methods.prompts import inputs
from fedtrain.methods.prompts.features import Features
from fedtrain.models.clip import Clip
from fedtrain.models.prompts import PromptEncoder

SPEC, GATE = "ViT-B-16:random", 20.0


def federation(folder: Path) -> Subset:
    """UC Merced's counts: 21 classes of 100 images, 10 clients by Dirichlet(0.5); the pictures are tiny."""
    sets = ["sample.per_class=100", "sample.size=32"]
    wanted = recipes.override(recipes.load("fed-rsic"), subsets=["fed-ucmerced"], sample=True, sets=sets)
    pipeline.build(pipeline.prepare(recipes.from_json(wanted, "benchmark"), Places(offline=True)), folder)
    return fedrsic_data.open(folder).subset("fed-ucmerced")


def random_features(clip: Clip, subset: Subset, split: str, **_: object) -> Features:
    """Unit vectors in the place of encoded images: what they hold makes no difference to the time."""
    table = subset.read(split, ["label"])
    values = torch.randn(len(table), clip.embed_dim, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([subset.client(c).rows(split) for c in subset.clients])
    client = torch.repeat_interleave(torch.arange(len(counts)), counts)
    labels = torch.tensor(table.column("label").to_pylist())
    return Features(functional.normalize(values, dim=1).to(clip.device), labels, client, client * 0, ("sample",))


def prepared(subset: Subset, device: torch.device) -> FedPGP:
    """The method as the engine makes it."""
    counts = tuple(subset.client(c).rows("train") for c in subset.clients)
    context = Context(subset, subset.clients, counts, seed=0, device=device, clip=SPEC)
    return FedPGP(context, FedPGPSettings())


class Plain:
    """A step as it is written down: every class a sequence of 77 tokens, nothing kept from step to step."""

    names: ClassVar[tuple[str, ...]] = ("sigma", "u", "v")  # of the tensors in training

    def __init__(self, method: Any) -> None:
        self.clip, self.settings = method.clip, method.settings
        model, names = self.clip.model, [name.replace("_", " ") for name in method.base.names]
        length = self.settings.length
        self.tokens = self.clip.tokenize([f"{'X ' * length}{name}." for name in names]).to(self.clip.device)
        self.anchor = self.clip.tokenize([f"a photo of a {name}." for name in names]).to(self.clip.device)
        self.ends = self.tokens.argmax(1)
        embedded = model.token_embedding(self.tokens)
        self.before, self.after = embedded[:, :1], embedded[:, 1 + length :]
        state = {**method.shared(), **method.personal(0)}
        self.state = [state[name].clone().requires_grad_() for name in self.names]
        settings = self.settings
        self.sgd = torch.optim.SGD(self.state, settings.lr, settings.momentum, weight_decay=settings.weight_decay)

    def text(self, context: torch.Tensor) -> torch.Tensor:
        """Features of all classes under a context [m, d]."""
        model = self.clip.model
        x = torch.cat((self.before, context.expand(len(self.tokens), -1, -1), self.after), dim=1)
        x = model.ln_final(model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask))
        x = x[torch.arange(len(x), device=x.device), self.ends] @ model.text_projection
        return functional.normalize(x, dim=-1)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """One step of one client."""
        with torch.no_grad():
            seen = self.clip.model.encode_image(images, normalize=True)
            anchor = self.clip.model.encode_text(self.anchor, normalize=True)
        sigma, u, v = self.state
        general, own = self.text(sigma), self.text(sigma + u @ v)
        contrast = ((general * own).sum(-1) - (general * anchor).sum(-1)) / self.settings.tau
        loss = functional.cross_entropy(self.clip.scale * seen @ own.T, labels)
        loss = loss + self.settings.mu * functional.softplus(contrast).mean()
        self.sgd.zero_grad()
        loss.backward()
        self.sgd.step()


@dataclass(frozen=True)
class Cost:
    """Wall seconds, processor seconds, and on a GPU the peak of its memory in GiB."""

    wall: float
    cpu: float
    peak: float = 0.0


def peak() -> float:
    """The largest resident size of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def cost(work: Callable[[], object], device: torch.device) -> Cost:
    """The seconds and memory that some work takes; on a GPU, until the GPU has finished it."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if cuda:
        torch.cuda.synchronize()
    spent = time.perf_counter() - wall, time.process_time() - cpu
    return Cost(*spent, torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0)


@dataclass(frozen=True)
class Found:
    """The measurements: the plain side per step, fedkit's per round."""

    facts: str
    steps: int
    timed: int
    step: Cost
    ours: Cost
    tokens: int
    once: str

    @property
    def ratio(self) -> float:
        """The plain side's seconds per round over those of fedkit."""
        return self.step.wall * self.steps / self.ours.wall


def measure(args: argparse.Namespace, folder: Path) -> Found:
    """Both sides, in turns."""
    device = torch.device(args.device)
    subset = federation(folder / "data")
    with mock.patch.object(inputs, "features", random_features):
        method = prepared(subset, device)
        clients = [c for c in range(len(subset.clients)) if method.context.rows[c]]
        counts = [len(method.trained_rows(c)) for c in clients]
    steps = sum(method.settings.epochs * -(-n // method.settings.batch) for n in counts)
    plain, size = Plain(method), method.clip.preprocessing.size
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(method.settings.batch, 3, size, size, generator=draw).to(device)
    labels = torch.randint(len(method.base), (len(images),), generator=draw).to(device)
    encoder = PromptEncoder(method.clip, method.base.names, method.settings.length)
    with torch.no_grad():
        apart = (encoder(plain.state[0][None])[0] - plain.text(plain.state[0])).abs().max().item()
    assert apart < 1e-5, apart

    shared, personal = method.shared(), [method.personal(c) for c in clients]

    def round_() -> None:
        assert len(list(method.train(shared, personal, clients, 1))) == len(clients)

    def some(count: int) -> list[Cost]:
        return [cost(lambda: plain.step(images, labels), device) for _ in range(count)]

    some(1)  # what is allocated and loaded at the first call is nobody's
    encoder(torch.stack([plain.state[0]] * 2)).sum().backward()
    method.base.fixed("a photo of a {}.")
    timed = some(-(-args.steps // 2))
    ours = cost(round_, device)
    timed += some(args.steps // 2)
    with torch.no_grad():
        batch = cost(lambda: method.clip.model.encode_image(images), device)
    step = Cost(*(statistics.median(getattr(c, name) for c in timed) for name in ("wall", "cpu", "peak")))
    held = sum(method.context.rows)
    facts = (
        f"ViT-B/16 with random weights, 21 classes, {len(clients)} clients, {sum(counts):,} training rows (16 shots), "
        f"2 local epochs: {steps} client steps. The text features of the two sides differ by at most {apart:.0e}."
    )
    once = f"Not in the round: the {held:,} training images, encoded once for all rounds, methods and seeds:"
    return Found(
        facts, steps, len(timed), step, ours, encoder.tokens, f"{once} {batch.wall / len(images) * held:.0f} s."
    )


def report(found: Found, args: argparse.Namespace) -> str:
    """The result as Markdown."""
    cuda = args.device == "cuda"
    device = torch.cuda.get_device_name() if cuda else f"CPU, {args.threads} threads of {os.cpu_count()} cores"
    machine = (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, PyTorch {torch.__version__}"
    )
    peaks = f"Peak GPU memory: plain {found.step.peak:.2f} GiB, fedkit {found.ours.peak:.2f} GiB."
    verdict, spent = "PASS" if found.ratio >= GATE else "FAIL", found.step.cpu * found.steps / found.ours.cpu
    row = "| {} | {:.1f} | {:.1f} | {:.3f} | {} |"
    lines = [
        "# A round of FedPGP beside its plain formulation",
        "",
        f"`benchmarks/prompts.py`, {time.strftime('%Y-%m-%d')}: {device}; {machine}.",
        f"Load at the start {args.load:.1f}. {found.facts}",
        "",
        "| side | seconds a round | processor seconds | seconds a client step | |",
        "|---|---|---|---|---|",
        row.format(
            "plain",
            found.step.wall * found.steps,
            found.step.cpu * found.steps,
            found.step.wall,
            f"projected from the median of {found.timed} steps; 3 x 21 x 77 tokens and 16 images a step",
        ),
        row.format(
            "fedkit",
            found.ours.wall,
            found.ours.cpu,
            found.ours.wall / found.steps,
            f"the whole round; 2 x {found.tokens} tokens a step",
        ),
        "",
        f"Ratio: **{found.ratio:.1f}** ({verdict}: at least {GATE:.0f} on a CPU); of processor seconds {spent:.1f}.",
        "",
        f"{found.once} {peaks if cuda else f'Peak memory of the process, both sides in it: {peak():.1f} GiB.'}",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=8, help="plain steps to time")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--write", type=Path, help="file for the result")
    args = parser.parse_args()
    args.load = os.getloadavg()[0]
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    text = report(found, args)
    print(text)
    if args.write:
        args.write.write_text(text)
    if args.device == "cpu" and found.ratio < GATE:
        sys.exit(1)


if __name__ == "__main__":
    main()
