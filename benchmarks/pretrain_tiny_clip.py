"""Pretrains the tiny CLIP that comes with fedkit, from nothing, on procedural scenes.

    python benchmarks/pretrain_tiny_clip.py --out fedtrain/models/tiny     # about two minutes of one core

The scenes are painted as those of the sample (``fedrsic_data.sample``), but none is one that a sample shows: another
seed, and developed here (turned, other colours, contrast, haze, blur and grain, drawn anew at every step), so the look
of the sample's sensors is not learned by heart; one of the three is never seen. Every scene comes with a sentence: the
sample's caption, a plain one with the class name, or one that says what is on the ground. The loss is CLIP's (Radford
et al., ICML 2021), but equal sentences of a batch are all right answers, as in UniCL (Yang et al., CVPR 2022).

It stops long before it could be perfect: prompts are to have something to gain. Seeded; on one thread, the same
machine and PyTorch give the same weights.

Writes ``config.json``, ``vocabulary.json`` and ``weights.safetensors`` (float16).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch.nn import functional

import fedrsic_data
from fedrsic_data.sample import CLASSES, caption, render
from fedtrain.methods.prompts.features import features
from fedtrain.models import tiny
from fedtrain.models.clip import frozen
from fedtrain.models.tiny import Tokenizer, pieces

SIZE = 64
CONTEXT = 48
SENSORS = ("resisc45", "optimal31")  # the third is never seen
SEED = 1000  # samples are rendered with the recipe's seed, 0 unless told otherwise
ALSO = {  # what is on the ground of a class
    "agricultural": "field",
    "airplane": "airplane, pavement",
    "baseball_diamond": "field, grass, bare soil",
    "basketball_court": "court, pavement",
    "beach": "sand, sea, water",
    "bridge": "water, pavement, cars",
    "buildings": "buildings, pavement, cars",
    "chaparral": "chaparral, bare soil",
    "circular_farmland": "field",
    "dense_residential": "buildings, pavement, cars",
    "desert": "sand, bare soil",
    "forest": "trees",
    "freeway": "pavement, cars, grass",
    "golf_course": "grass, sand, trees",
    "harbor": "dock, ship, water",
    "intersection": "pavement, cars, buildings",
    "island": "sea, sand, trees, water",
    "lake": "water, trees",
    "medium_residential": "buildings, trees, grass",
    "mobile_home_park": "mobile home, pavement, cars",
    "mountain": "bare soil",
    "overpass": "pavement, cars",
    "parking_lot": "cars, pavement",
    "railway": "bare soil",
    "river": "water, trees",
    "roundabout": "pavement, grass, cars",
    "runway": "pavement, grass",
    "ship": "ship, sea, water",
    "sparse_residential": "buildings, trees, grass",
    "stadium": "field, grass",
    "storage_tank": "tanks, pavement, bare soil",
    "tennis_court": "court, grass",
}
PLAIN = ("a photo of a {}.", "{}.", "a picture of the {}.", "an aerial view of a {}.", "this is a {}.")
GROUND = ("a photo of {}.", "{} seen from above.", "the picture contains {}.", "there is {}.")
OTHER = "the photo contains positive negative X of and no one many several houses roads"  # words prompts use
MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
    "text_cfg": {"context_length": CONTEXT, "width": 128, "heads": 4, "layers": 2},
}


def sentence(name: str, scene_caption: str, rng: np.random.Generator) -> str:
    """One sentence about a scene: its caption, its class, or what is on the ground."""
    kind, spoken = rng.random(), name.replace("_", " ")
    if kind < 0.4:
        return scene_caption
    if kind < 0.8 or name not in ALSO:
        return PLAIN[rng.integers(len(PLAIN))].format(spoken)
    things = ALSO[name].split(", ")
    some = rng.permutation(things)[: rng.integers(1, len(things) + 1)]
    return GROUND[rng.integers(len(GROUND))].format(" and ".join(some))


def scenes(per_class: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Pictures uint8 [n, 3, SIZE, SIZE], their captions, their classes."""
    pictures, captions, classes = [], [], []
    for c, name in enumerate(CLASSES):
        for i in range(per_class):
            scene = render(name, SENSORS[i % len(SENSORS)], seed=SEED, index=i, size=SIZE)
            pictures.append(scene.pixels.transpose(2, 0, 1))
            captions.append(caption(scene, i // len(SENSORS)))
            classes.append(c)
    return np.stack(pictures), captions, np.array(classes)


def vocabulary(captions: list[str]) -> list[str]:
    """Every word that pretraining can meet, in order."""
    texts = [*captions, *CLASSES, *ALSO.values(), *PLAIN, *GROUND, OTHER]
    return sorted({piece for text in texts for piece in pieces(text.replace("_", " ").replace("{}", ""))})


def develop(pictures: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Another look: turned, other colours, contrast, haze, blur and grain; float [n, 3, h, w] in 0..1 in and out."""
    n = len(pictures)

    def uniform(low: float, high: float, channels: int = 1) -> torch.Tensor:
        return low + (high - low) * torch.rand((n, channels, 1, 1), generator=draw)

    x = torch.rot90(pictures, int(torch.randint(4, (), generator=draw)), (2, 3))
    x = x.flip(3) if torch.rand((), generator=draw) < 0.5 else x
    zoom, angle = uniform(0.75, 1.1).flatten(), uniform(-0.4, 0.4).flatten()
    turn = torch.zeros(n, 2, 3)
    turn[:, 0, 0], turn[:, 0, 1] = zoom * angle.cos(), -zoom * angle.sin()
    turn[:, 1, 0], turn[:, 1, 1] = zoom * angle.sin(), zoom * angle.cos()
    grid = functional.affine_grid(turn, list(x.shape), align_corners=False)
    x = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    soft = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = x + uniform(-0.9, 0.9) * (x - soft)
    grey = x.mean(1, keepdim=True)
    x = grey + uniform(0.4, 1.2) * (x - grey)
    x = (x - 0.45) * uniform(0.7, 1.4) + 0.45
    x = x * uniform(0.85, 1.15, 3) * uniform(0.8, 1.2)
    haze = uniform(-0.1, 0.25).clamp_min(0)
    x = x * (1 - haze) + 0.72 * haze
    x = x + uniform(0, 0.05) * torch.randn(x.shape, generator=draw)
    return x.clamp(0, 1)


def encode_text(model: open_clip.CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """As ``model.encode_text``, the sequences cut at the longest: attention is causal."""
    ends = tokens.argmax(1)
    length = int(ends.max()) + 1
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return functional.normalize(x[torch.arange(len(x)), ends] @ model.text_projection, dim=-1)


def contrast(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """CLIP's loss both ways; ``same`` [n, n] says which pairs are right."""
    logits = scale * images @ texts.T
    target = same / same.sum(1, keepdim=True)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def numbered(texts: list[str], tokenizer: Tokenizer) -> torch.Tensor:
    """Sentences as numbers, int64 [n, CONTEXT]."""
    numbers = torch.zeros(len(texts), CONTEXT, dtype=torch.long)
    for row, text in zip(numbers, texts, strict=True):
        tokens = [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]
        row[: len(tokens)] = torch.tensor(tokens)
    return numbers


def optimizer_of(model: open_clip.CLIP, rate: float) -> torch.optim.AdamW:
    """AdamW that leaves gains and biases alone, as CLIP's."""
    parts = [[p for p in model.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False)]
    groups = [{"params": parts[0], "weight_decay": 0.1}, {"params": parts[1], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    start = time.perf_counter()
    pictures, captions, classes = scenes(args.per_class)
    words = vocabulary(captions)
    tokenizer = Tokenizer(words, CONTEXT)
    print(f"{len(pictures):,} scenes in {time.perf_counter() - start:.0f} s, {len(words)} words", flush=True)
    mean, std = (tuple(round(float(v), 4) for v in f(pictures / 255.0, axis=(0, 2, 3))) for f in (np.mean, np.std))
    config = {**MODEL, "text_cfg": {**MODEL["text_cfg"], "vocab_size": tokenizer.vocab_size}}
    torch.manual_seed(args.seed)
    draw, rng = torch.Generator().manual_seed(args.seed), np.random.default_rng(args.seed)
    model = open_clip.CLIP(**config).train()
    optimizer = optimizer_of(model, args.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100) * (1 + math.cos(math.pi * step / args.steps)) / 2
    )
    source = torch.from_numpy(pictures)
    shift, spread = (torch.tensor(v)[:, None, None] for v in (mean, std))
    rows = [np.flatnonzero(classes == c) for c in range(len(CLASSES))]
    losses = []
    for step in range(args.steps):
        chosen = np.concatenate([rng.choice(r, args.times, replace=False) for r in rows])
        texts = [sentence(CLASSES[classes[i]], captions[i], rng) for i in chosen]
        first = {text: i for i, text in reversed(list(enumerate(texts)))}
        kind = torch.tensor([first[text] for text in texts])
        x = (develop(source[chosen].float() / 255, draw) - shift) / spread
        images = model.encode_image(x, normalize=True)
        sentences = encode_text(model, numbered(texts, tokenizer))
        loss = contrast(images, sentences, model.logit_scale.exp(), (kind[:, None] == kind).float())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 25 == 0:
            seconds = time.perf_counter() - start
            print(f"step {step + 1}: loss {np.mean(losses[-25:]):.3f}, {seconds:.0f} s", flush=True)
    write(args.out, model, config, mean, std, words)
    spent = time.perf_counter() - start, time.process_time()
    print(f"{args.out}: {spent[0]:.0f} s in all, {spent[1]:.0f} s of processor time")


def write(out: Path, model: open_clip.CLIP, config: dict, mean: tuple, std: tuple, words: list[str]) -> None:
    """The three files that ``fedtrain.models.tiny`` reads."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in sorted(weights.items())}, out / "weights.safetensors")
    shape = {"model_cfg": config, "preprocess_cfg": {"mean": mean, "std": std}}
    (out / "config.json").write_text(json.dumps(shape, indent=2) + "\n")
    (out / "vocabulary.json").write_text(json.dumps(words, indent=0) + "\n")


def judge(out: Path, data: Path) -> None:
    """Zero-shot accuracy on all rows of every single-label subset of a built sample, as Markdown."""
    config, tokenizer, weights = tiny.parts(out)
    clip = frozen("tiny", config["model_cfg"], tokenizer, weights, config["preprocess_cfg"], "cpu")
    dataset = fedrsic_data.open(data)
    print("| subset | classes | chance | zero-shot | first half | second half | class means |")
    print("|---|---|---|---|---|---|---|")
    for name in dataset.subsets:
        subset = dataset.subset(name)
        if subset.entry.multi_label:
            continue
        count, half = len(subset.classes), -(-len(subset.classes) // 2)
        text = clip.encode_texts([f"a photo of a {c.replace('_', ' ')}." for c in subset.classes])
        train, test = (features(clip, subset, split) for split in ("train", "test"))
        values, labels = (torch.cat([getattr(f, field) for f in (train, test)]) for field in ("values", "labels"))
        first, second = labels < half, labels >= half
        means = functional.one_hot(train.labels, count).float().T @ train.values
        figures = [
            1 / count,
            right(values, labels, text),
            right(values[first], labels[first], text[:half]),
            right(values[second], labels[second] - half, text[half:]),
            right(test.values, test.labels, functional.normalize(means, dim=1)),
        ]
        print(f"| {name} | {count} | " + " | ".join(f"{100 * figure:.1f}" for figure in figures) + " |")


def right(values: torch.Tensor, labels: torch.Tensor, classes: torch.Tensor) -> float:
    """Share of features [n, e] that are nearest to their own class's [C, e]."""
    return (values @ classes.T).argmax(1).eq(labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=225)
    parser.add_argument("--per-class", type=int, default=150, help="scenes of a class")
    parser.add_argument("--times", type=int, default=2, help="scenes of a class in a batch")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1, help="more is faster, but sums depend on their number")
    parser.add_argument("--data", type=Path, help="a built sample: only judge what is in --out on it")
    args = parser.parse_args()
    train(args) if args.data is None else judge(args.out, args.data)


if __name__ == "__main__":
    main()
