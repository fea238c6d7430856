"""The label transformer against a plain formulation: torch's own encoder layers, all tokens, a full attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

from fedtrain.methods.networks.flat import Flat
from fedtrain.models.label_transformer import NEGATIVE, POSITIVE, UNKNOWN, LabelTransformer


class Plain(nn.Module):
    """The same network as its paper draws it: ``[B, L, L]`` logits of which the diagonal is taken."""

    def __init__(self, ours: LabelTransformer) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(resnet18(weights=None).children())[:-2])
        width = ours.states.shape[1]
        self.project = nn.Identity() if isinstance(ours.project, nn.Identity) else nn.Conv2d(512, width, 1)
        self.norm = nn.LayerNorm(width)
        self.encoder = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 512, dropout=0.1, activation="relu", batch_first=True, norm_first=False
            )
            for _ in ours.layers
        )
        self.head = nn.Linear(width, len(ours.weight))
        self.labels, self.states = nn.Embedding.from_pretrained(ours.labels.detach()), ours.states
        self.backbone.load_state_dict(
            dict(zip(self.backbone.state_dict(), ours.backbone.state_dict().values(), strict=True))
        )
        self.project.load_state_dict(ours.project.state_dict())
        self.norm.load_state_dict(ours.norm.state_dict())
        with torch.no_grad():
            for mine, theirs in zip(self.encoder, ours.layers, strict=True):
                mine.self_attn.in_proj_weight.copy_(torch.cat([theirs.query.weight, theirs.key_value.weight]))
                mine.self_attn.in_proj_bias.copy_(torch.cat([theirs.query.bias, theirs.key_value.bias]))
                mine.self_attn.out_proj.load_state_dict(theirs.out.state_dict())
                mine.linear1.load_state_dict(theirs.up.state_dict())
                mine.linear2.load_state_dict(theirs.down.state_dict())
                mine.norm1.load_state_dict(theirs.norm1.state_dict())
                mine.norm2.load_state_dict(theirs.norm2.state_dict())
            self.head.weight.copy_(ours.weight)
            self.head.bias.copy_(ours.bias)

    def forward(self, images: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        features = self.project(self.backbone(images))
        tokens = features.flatten(2).permute(0, 2, 1)
        everyone = torch.arange(len(self.labels.weight)).expand(len(images), -1)
        labels = self.labels(everyone) + F.embedding(state, self.states)
        hidden = self.norm(torch.cat([tokens, labels], 1))
        for layer in self.encoder:
            hidden = layer(hidden)
        logits = self.head(hidden[:, tokens.shape[1] :])
        return torch.diagonal(logits, dim1=1, dim2=2)


def made(count: int, width: int, *, learned: bool = False) -> LabelTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(count)
        states = torch.cat([torch.zeros(1, width), F.normalize(torch.randn(2, width), dim=1)])
        labels = None if learned else F.normalize(torch.randn(count, width), dim=1)
        model = LabelTransformer(count, labels, states)
        for layer in model.layers:  # so that no bias is zero and no norm the identity
            for p in layer.parameters():
                p.data += 0.02 * torch.randn_like(p)
        return model


@pytest.mark.parametrize(("count", "width"), [(17, 512), (80, 128), pytest.param(1628, 128, marks=pytest.mark.slow)])
@pytest.mark.parametrize("training", [False, True])
def test_values_and_gradients_are_those_of_the_plain_formulation(count: int, width: int, training: bool) -> None:
    ours = made(count, width)
    theirs = Plain(ours)
    for model in (ours, theirs):
        model.train(training)
    for module in [*ours.modules(), *theirs.modules()]:  # ours draws its own dropout; compare without
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, 64, 64, generator=draws)
    state = torch.randint(3, (3, count), generator=draws)
    weight = torch.randn(3, count, generator=draws)
    (mine, plain) = (ours(images, state), theirs(images, state))
    torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5)
    (mine * weight).sum().backward()
    (plain * weight).sum().backward()
    pairs = [
        (ours.weight.grad, theirs.head.weight.grad),
        (ours.bias.grad, theirs.head.bias.grad),
        (ours.backbone.conv1.weight.grad, theirs.backbone[0].weight.grad),
        (ours.backbone.layer4[1].bn2.weight.grad, theirs.backbone[7][1].bn2.weight.grad),
        (ours.norm.weight.grad, theirs.norm.weight.grad),
    ]
    for mine_layer, their_layer in zip(ours.layers, theirs.encoder, strict=True):
        fused = torch.cat([mine_layer.query.weight.grad, mine_layer.key_value.weight.grad])
        pairs.append((fused, their_layer.self_attn.in_proj_weight.grad))
        pairs.append((mine_layer.up.weight.grad, their_layer.linear1.weight.grad))
    for one, other in pairs:
        scale = float(other.abs().max())
        torch.testing.assert_close(one / scale, other / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [128, 512])
def test_everything_starts_as_the_authors_start_it(width: int) -> None:
    """Each tensor's law by its bound, which so many draws come close to and none exceeds, and by its deviation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LabelTransformer(300, None, torch.zeros(3, width), hidden=256)
    narrow, glorot = width**-0.5, (6 / (4 * width)) ** 0.5
    laws = {
        "labels": narrow,
        "weight": narrow,
        "bias": narrow,
        "layers.0.query.weight": glorot,
        "layers.0.key_value.weight": glorot,
        "layers.0.query.bias": 0.0,
        "layers.0.key_value.bias": 0.0,
        "layers.0.out.weight": narrow,
        "layers.0.out.bias": narrow,
        "layers.0.up.weight": narrow,
        "layers.0.up.bias": narrow,
        "layers.0.down.weight": 256**-0.5,
        "layers.0.down.bias": 256**-0.5,
    }
    found = dict(model.named_parameters())
    mine = {n for n in found if not n.startswith(("backbone.", "project.", "layers.1", "layers.2"))}
    norms = {n for n in mine if "norm" in n}
    assert mine - norms == laws.keys()
    for name, bound in laws.items():
        most = float(found[name].detach().abs().max())
        assert (bound and 0.9) * bound <= most <= bound, name
        assert float(found[name].detach().std()) == pytest.approx(bound / 3**0.5, rel=0.2), name
    assert all(torch.equal(found[n], torch.full_like(found[n], n.endswith("weight"))) for n in norms)
    assert model.labels.detach().norm(dim=1).mean() == pytest.approx(3**-0.5, abs=0.02)  # 0.58, known states have 1


def test_all_unknown_is_the_default() -> None:
    model = made(5, 128).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(images), model(images, torch.full((2, 5), UNKNOWN)))


def test_states_are_not_swapped() -> None:
    model = made(4, 128)
    assert model.states[UNKNOWN].abs().sum() == 0
    seen: list[torch.Tensor] = []
    model.norm.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model.eval()(torch.zeros(1, 3, 64, 64), torch.tensor([[POSITIVE, NEGATIVE, UNKNOWN, POSITIVE]]))
    labels = seen[0][0, -4:]
    expected = model.labels + model.states[[1, 2, 0, 1]]
    torch.testing.assert_close(labels, expected)


def test_dropout_comes_from_the_generator_alone() -> None:
    model = made(5, 128).train()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    before = torch.get_rng_state()
    one, other, same = (model(images, None, torch.Generator().manual_seed(seed)) for seed in (0, 1, 0))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_flat_model_shares_its_memory_with_the_module() -> None:
    model = made(3, 128)
    flat = Flat(model)
    assert flat.parameters.numel() == sum(p.numel() for p in model.parameters())
    assert "labels" not in dict(model.named_parameters())  # frozen: it does not travel
    start, bias = flat.state(), model.bias.detach().clone()
    model.train()(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))).sum().backward()
    assert flat.parameters.grad.norm() > 0
    assert not torch.equal(flat.statistics, start["statistics"])
    assert torch.equal(model.backbone.bn1.running_mean, flat.statistics[:64])
    torch.optim.SGD([flat.parameters], lr=1.0).step()
    assert not torch.equal(model.bias, bias)
    flat.load(start)
    assert torch.equal(model.bias, bias)
    counters = [m.num_batches_tracked for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert int(sum(counters)) > 0
    assert flat.parameters.numel() + flat.statistics.numel() == sum(v.numel() for v in flat.state().values())


def test_channels_last_in_memory_are_the_same_network() -> None:
    """In float64: float32 differs by rounding, which the gradients of a deep network enlarge a thousand times."""
    model, found = made(3, 128).double().train(), []
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        model.zero_grad()
        model(images.contiguous(memory_format=layout), None, torch.Generator().manual_seed(2)).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert found[0].norm() > 0
    assert (found[0] - found[1]).norm() < 1e-10 * found[0].norm()


def test_a_flat_model_with_gaps_has_the_state_of_one_without() -> None:
    """As on a GPU, whose kernels want weights at multiples of 16 bytes."""
    packed, spaced = Flat(made(3, 128)), Flat(made(3, 128), align=64)
    assert spaced.parameters.numel() > packed.parameters.numel()
    assert any(p.data_ptr() % 256 != packed.parameters.data_ptr() % 256 for p in packed.trained)
    assert all((p.data_ptr() - spaced.parameters.data_ptr()) % 256 == 0 for p in spaced.trained)
    assert all(torch.equal(packed.state()[name], value) for name, value in spaced.state().items())
    for flat in (packed, spaced):
        inside, outside = flat.parts(flat.module.backbone)
        optimiser = torch.optim.Adam([{"params": outside}, {"params": inside, "lr": 0.01}], lr=0.1)
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        flat.module.eval()(images).square().sum().backward()
        optimiser.step()
    assert torch.allclose(packed.state()["parameters"], spaced.state()["parameters"], rtol=0, atol=1e-5)
    spaced.load(start := Flat(made(3, 128)).state())
    assert torch.equal(spaced.state()["parameters"], start["parameters"])


def test_learned_embeddings_travel() -> None:
    assert "labels" in dict(made(3, 128, learned=True).named_parameters())
