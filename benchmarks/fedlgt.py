"""A FedLGT round beside its plain formulation, in one run: seconds, share of the device's matrix rate, memory on a GPU.

Both sides train the same clients on the same photographs with networks of the same size: ResNet-18 on 256 x 256
pixels, three encoder layers of width 512, random weights. Clients have as many photographs as FLAIR's users do.

Plain: a DataLoader per client and epoch that decodes JPEG files, torch's own encoder layers that keep their attention
maps, a [B, L, L] head of which the diagonal is taken, the guide's forward pass on every batch, Adam tensor by tensor,
models collected and averaged key by key.
fedkit: `fedtrain.methods.fedlgt` as it is.

    python benchmarks/fedlgt.py                    # coarse: 17 labels
    python benchmarks/fedlgt.py --labels fine      # 1,628 labels
    python benchmarks/fedlgt.py --device cuda --timed 50
    python benchmarks/fedlgt.py --device cuda --trace FILE   # and the operators of our round, by time
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import platform
import resource
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms
from torchvision.models import resnet18

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.dataset import schema
from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.sources.locate import Places
from fedtrain.methods.aggregate import WeightedMean
from fedtrain.methods.base import Context
from fedtrain.methods.fedlgt import FedLGT, FedLGTSettings, known_labels, states_of, uncertain, unknown_loss
from fedtrain.models.label_transformer import LabelTransformer

LABELS = {"coarse": 17, "fine": 1628}
SIZES = {1: 18500, 2: 6614, 3: 3480, 4: 2126, 5: 1636, 6: 1178, 7: 871, 8: 766, 9: 563, 10: 465}  # FLAIR's users
USERS, MEAN = 41131, 8.35


def sizes(count: int, most: int) -> list[int]:
    """Photographs of clients at even steps of FLAIR's law; beyond ten, a power law with its mean."""
    tail = USERS - sum(SIZES.values())
    rest = USERS * MEAN - sum(size * users for size, users in SIZES.items())
    each = np.linspace(0, 1, tail, endpoint=False)
    beyond = 11 / (1 - each) ** 0.62
    beyond *= rest / beyond.sum()
    law = np.sort(np.concatenate([np.repeat(list(SIZES), list(SIZES.values())), beyond.clip(11, 4151)]))
    return np.minimum(law[((np.arange(count) + 0.5) / count * len(law)).astype(int)].astype(int), most).tolist()


class Files(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """JPEG files and multi-hot labels, decoded on access."""

    def __init__(self, files: list[bytes], labels: list[list[int]], count: int) -> None:
        self.files, self.labels, self.count = files, labels, count
        self.transform = transforms.Compose(
            [
                transforms.Resize((256, 256)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        target = torch.zeros(self.count)
        target[self.labels[i]] = 1
        return self.transform(Image.open(io.BytesIO(self.files[i])).convert("RGB")), target


class PlainLayer(nn.TransformerEncoderLayer):
    """torch's encoder layer, whose attention maps are kept."""

    def _sa_block(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        out, self.maps = self.self_attn(x, x, x, need_weights=True)
        return self.dropout1(out)


class Plain(nn.Module):
    """The network as it is drawn."""

    def __init__(self, labels: torch.Tensor, states: torch.Tensor) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(resnet18(weights=None).children())[:-2])
        self.labels, self.states = nn.Embedding.from_pretrained(labels), nn.Embedding.from_pretrained(states)
        width = labels.shape[1]
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(PlainLayer(width, 4, 512, 0.1, batch_first=True) for _ in range(3))
        self.head = nn.Linear(width, len(labels))

    def forward(self, images: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Logits of images with labels in these states."""
        tokens = self.backbone(images).flatten(2).transpose(1, 2)
        hidden = self.norm(torch.cat([tokens, self.labels.weight + self.states(state)], 1))
        for layer in self.layers:
            hidden = layer(hidden)
        return torch.diagonal(self.head(hidden[:, tokens.shape[1] :]), dim1=1, dim2=2)


def plain_round(clients: list[Files], model: Plain, settings: FedLGTSettings, device: torch.device) -> None:
    models, weights = [], []
    for files in clients:
        guide, local = copy.deepcopy(model), copy.deepcopy(model)
        guide.eval()
        optimiser = torch.optim.Adam([p for p in local.parameters() if p.requires_grad], lr=settings.lr, foreach=False)
        local.train()
        for _ in range(settings.epochs):
            for images, targets in DataLoader(files, batch_size=settings.batch, shuffle=True, num_workers=2):
                images, targets = images.to(device), targets.to(device).bool()
                known = known_labels(*targets.shape, settings.known, torch.Generator()).to(device)
                with torch.no_grad():
                    unknown = torch.zeros(targets.shape, dtype=torch.long, device=device)
                    unsure = uncertain(guide(images, unknown).sigmoid(), settings.margin)
                known = known & ~unsure
                optimiser.zero_grad()
                loss = unknown_loss(local(images, states_of(targets, known)), targets, known)
                loss.backward()
                nn.utils.clip_grad_norm_(local.parameters(), settings.clip_norm)
                optimiser.step()
                loss.item()
        models.append(copy.deepcopy(local.state_dict()))
        weights.append(len(files) / sum(len(f) for f in clients))
    mean = {key: sum(w * m[key] for w, m in zip(weights, models, strict=True)) for key in models[0]}
    model.load_state_dict(mean)


def ours_round(method: FedLGT, clients: range) -> None:
    start = method.shared()
    mean = WeightedMean()
    for update in method.train(start, [{}] * len(clients), list(clients), 1):
        mean.add(update.shared, update.rows)
    mean.over(start)


def federation(folder: Path, counts: list[int], labels: str) -> Path:
    """A built dataset of clients with so many photographs of 256 pixels."""
    rng = np.random.default_rng(0)
    jpegs = []
    for _ in range(32):
        coarse = rng.integers(0, 256, (16, 16, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC).save(out, "JPEG", quality=92)
        jpegs.append(out.getvalue())
    count, n = LABELS[labels], sum(counts) + 1
    names = [f"label_{i:04d}" for i in range(count)]
    feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}
    features = {"image": {"_type": "Image"}, "labels": feature}
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    drawn = [sorted(rng.choice(count, 4, replace=False).tolist()) for _ in range(n)]
    table = pa.table(
        {
            "image": pa.array([{"bytes": jpegs[i % 32], "path": f"{i}.jpg"} for i in range(n)], schema.IMAGE),
            "labels": pa.array(drawn, pa.list_(pa.int64())),
            "user": [f"u{k:03d}" for k, c in enumerate(counts) for _ in range(c)] + ["v"],
            "split": ["train"] * (n - 1) + ["test"],
        }
    ).replace_schema_metadata(meta)
    pq.write_table(table, folder / "rows.parquet")
    data = {
        "fedkit": 1,
        "name": "bench",
        "subsets": {"bench": {"sources": ["rows"]}},
        "sources": {"rows": {"kind": "hub", "path": str(folder / "rows.parquet"), "user": "user", "split": "split"}},
        "split_by": "source",
        "splits": {},
        "partition": {"name": "natural"},
    }
    planned = pipeline.prepare(recipes.from_json(data, "bench"), Places(offline=True))
    return pipeline.build(planned, folder / "built").path


def measured(device: torch.device, action: Any, digits: int = 2) -> dict[str, float]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    after, children2 = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
    used += children2.ru_utime + children2.ru_stime - children.ru_utime - children.ru_stime
    found = {"seconds": time.perf_counter() - start, "processor seconds": used}
    if device.type == "cuda":
        found["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
    return {name: round(value, digits) for name, value in found.items()}


def arithmetic(method: FedLGT, clients: range) -> float:
    """Floating-point operations of our round (convolutions, products, attention), counted while it runs plainly."""
    method.recordable = False
    with FlopCounterMode(display=False) as counter:
        ours_round(method, clients)
    return float(counter.get_total_flops())


def operators(method: FedLGT, clients: range) -> str:
    """A table of the operators of our round, by the processor's time and by the device's."""
    with torch.profiler.profile() as trace:
        ours_round(method, clients)
    found = trace.key_averages()
    return "\n".join(found.table(sort_by=f"self_{side}_time_total", row_limit=25) for side in ("cpu", "device"))


def matrix_rate(device: torch.device) -> float:
    """Floating-point operations a second of a large product of matrices, the best of five."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    a @ b
    return 2 * side**3 / min(measured(device, lambda: a @ b, 6)["seconds"] for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", choices=LABELS, default="coarse")
    parser.add_argument("--clients", type=int, default=50, help="of the round; FLAIR's law at so many even steps")
    parser.add_argument("--timed", type=int, default=8, help="of them that both sides train, at even steps")
    parser.add_argument("--most", type=int, default=64, help="photographs of a client at most, both sides alike")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--trace", type=Path, help="file for a table of the operators of our round")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    law = sizes(arguments.clients, arguments.most)
    step = len(law) / arguments.timed
    counts = [law[int((i + 0.5) * step)] for i in range(arguments.timed)]
    settings = FedLGTSettings(image_size=256, backbone_weights="none", ule="none", ca_mle=True)
    with tempfile.TemporaryDirectory() as folder:
        subset = Dataset(federation(Path(folder), counts, arguments.labels)).subset("bench")
        clients = [c for c in subset.clients if subset.client(c).rows("train")]
        rows = [subset.client(c).rows("train") for c in clients]
        context = Context(subset, subset.clients, (*rows, 0), 0, device, clip="tiny")
        draws = torch.Generator().manual_seed(0)
        table = F.normalize(torch.randn(LABELS[arguments.labels], 512, generator=draws), dim=1)
        states = torch.cat([torch.zeros(1, 512), F.normalize(torch.randn(2, 512, generator=draws), dim=1)])

        class Drawn(FedLGT):
            """FedLGT with random embeddings of its labels."""

            def build(self) -> nn.Module:
                return LabelTransformer(len(table), table, states)

        method = Drawn(context, settings)
        files = []
        for client in clients:
            part = subset.client(client).read("train")
            jpegs = [row["bytes"] for row in part.column("image").to_pylist()]
            files.append(Files(jpegs, part.column("labels").to_pylist(), len(table)))
        model = Plain(table, states).to(device)
        every = range(len(clients))
        if device.type == "cuda":  # loading kernels is nobody's round: each side trains its largest client first
            largest = max(every, key=lambda i: rows[i])
            ours_round(method, range(largest, largest + 1))
            plain_round(files[largest : largest + 1], copy.deepcopy(model), settings, device)
        first = measured(device, lambda: ours_round(method, every))
        ours = measured(device, lambda: ours_round(method, every)) if device.type == "cuda" else first
        plain = measured(device, lambda: plain_round(files, model, settings, device))
        if arguments.trace:
            arguments.trace.write_text(operators(method, every))
        work, rate = arithmetic(method, every), matrix_rate(device)  # last: it warms what was to be timed cold
    print(f"machine    {torch.cuda.get_device_name() if device.type == 'cuda' else platform.processor() or 'CPU'}, "
          f"{os.cpu_count()} cores, torch {torch.__version__}")  # fmt: skip
    print(f"clients    {arguments.timed} of {arguments.clients}, photographs {rows}, labels {LABELS[arguments.labels]}")
    print(f"settings   {asdict(settings)}")
    print(f"plain      {plain}")
    if device.type == "cuda":
        print(f"first      {first}, fedkit's first round: images are decoded and steps recorded")
    print(f"fedkit     {ours}")
    print(f"work       {work / 1e12:.2f} TFLOP, {sum(rows) * settings.epochs / ours['seconds']:.1f} images/s")
    print(
        f"rate       {work / ours['seconds'] / 1e9:.0f} GFLOP/s, {work / ours['seconds'] / rate:.0%} of a product of "
        f"matrices ({rate / 1e9:.0f}); at that rate, and nothing else, {plain['seconds'] * rate / work:.2f} times"
    )
    for name in ("seconds", "processor seconds"):
        print(f"ratio      {plain[name] / ours[name]:.2f} in {name}")


if __name__ == "__main__":
    main()
