"""Random views of training images: torchvision's own, encoded once, one drawn at a step."""

from __future__ import annotations

import io
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import sampled
from PIL import Image
from prompt_federation import bind, judged, same, small_clip
from torchvision import transforms  # type: ignore[import-untyped]

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.dataset.reader import Subset
from fedrsic_data.errors import UsageError
from fedrsic_data.sources.locate import Places
from fedtrain.config import essence
from fedtrain.methods import METHODS
from fedtrain.methods.prompts.cohort import Batch, schedule
from fedtrain.methods.prompts.features import _pictures, features
from fedtrain.models.clip import Preprocessing
from fedtrain.models.views import random_view
from fedtrain.seeds import generator

pytestmark = pytest.mark.usefixtures("random_clip")


@pytest.fixture(scope="module")
def flair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = recipes.override(recipes.load("flair"), sample=True, sets=["sample.users=10", "sample.size=48"])
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    return pipeline.build(planned, tmp_path_factory.mktemp("views") / "flair").path


def authors(size: int, interpolation: str = "bicubic") -> Callable[[Any], Any]:
    """The transforms of training of FedPGP's authors, before the normalisation."""
    return transforms.Compose(  # type: ignore[no-any-return]
        [
            transforms.RandomResizedCrop(
                size, scale=(0.08, 1.0), interpolation=transforms.InterpolationMode(interpolation), antialias=True
            ),
            transforms.RandomHorizontalFlip(0.5),
        ]
    )


def drawn(transform: Callable[[Any], Any], image: Any, draws: torch.Generator) -> Any:
    """An image under a transform of torchvision, which draws as this generator would."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.set_state(draws.get_state())
        return transform(image)


def pixels(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)


def plain_views(method: Any, client: int, views: int) -> torch.Tensor:
    """Features ``[n, views, e]`` of a client's training images, one by one through torchvision and the CLIP."""
    subset, seed = method.context.subset, method.context.seed
    transform = authors(method.clip.preprocessing.size)
    return torch.stack(
        [
            torch.cat(
                [
                    method.clip.encode_images(
                        drawn(
                            transform, pixels(row["image"]["bytes"]), generator(seed, "view", row["sample_id"], view)
                        )[None]
                    )
                    for view in range(views)
                ]
            )
            for row in subset.client(subset.clients[client]).read("train").to_pylist()
        ]
    )


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (256, 199), (37, 300), (3, 200), (200, 3), (32, 32), (1, 1)])
def test_a_view_is_the_one_of_torchvision_to_the_bit(height: int, width: int, interpolation: str) -> None:
    how = Preprocessing(32, (0.5,) * 3, (0.5,) * 3, interpolation)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(height))
    transform, seen = authors(32, interpolation), set()
    for number in range(40):
        view = random_view(image, how, generator(0, "view", number))
        assert torch.equal(view, drawn(transform, image, generator(0, "view", number)))
        seen.add(view.numpy().tobytes())
    assert len(seen) > 30 or max(height, width) > 2 * min(height, width) or height == 1  # or most are the middle


def test_a_view_is_within_two_grey_levels_of_the_authors_with_pillow() -> None:
    """Pillow rounds after each of its two passes."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image, how = Image.fromarray(coarse).resize((201, 160)), Preprocessing(64, (0.5,) * 3, (0.5,) * 3)
    for number in range(40):
        wanted = np.asarray(drawn(authors(64), image, generator(0, number))).astype(int)
        view = random_view(torch.from_numpy(np.array(image)).permute(2, 0, 1), how, generator(0, number))
        apart = np.abs(view.permute(1, 2, 0).numpy() - wanted)
        assert apart.max() <= 2
        assert (apart > 1).mean() < 0.01


def test_the_features_of_training_images_are_those_of_their_views(sample_build: Path) -> None:
    method = bind(sample_build, "promptfl", seed=5, views=3)
    rows = method.images.rows("train")
    assert rows.images.shape == (len(rows), 3, method.clip.embed_dim)
    assert rows.images.dtype == torch.float32
    for client in (0, 4):
        torch.testing.assert_close(rows.images[rows.of(client)], plain_views(method, client, 3), rtol=1e-4, atol=1e-5)
    other = bind(sample_build, "promptfl", seed=6, views=3).images.rows("train").images
    assert (rows.images - other).abs().amax(-1).gt(1e-4).float().mean() > 0.9
    assert (rows.images[:, 0] - rows.images[:, 1]).abs().amax(-1).gt(1e-4).float().mean() > 0.9


def test_an_image_has_the_same_views_at_whichever_client_it_is(tmp_path: Path) -> None:
    def held(*sets: str) -> dict[str, torch.Tensor]:
        method = bind(sampled(tmp_path / "-".join(sets) / "fed", "sample.per_class=2", *sets).path, "local", views=2)
        subset: Subset = method.context.subset
        ids = [i for name in subset.clients for i in subset.client(name).read("train").column("sample_id").to_pylist()]
        return dict(zip(ids, method.images.rows("train").images, strict=True))

    few, many = held("clients=2"), held("clients=5")
    both = few.keys() & many.keys()
    assert len(both) > 20
    assert [name for name in few if name in both] != [name for name in many if name in both]
    for name in both:
        torch.testing.assert_close(few[name], many[name], rtol=0, atol=1e-6)


def test_held_out_images_are_seen_as_ever(sample_build: Path) -> None:
    one, several = bind(sample_build, "fedpgp"), bind(sample_build, "fedpgp", views=4)
    assert torch.equal(one.images.rows("test").images, several.images.rows("test").images)
    assert judged(one) == judged(several)


def test_views_are_encoded_once(tmp_path: Path, encoded: list[int]) -> None:
    build = sampled(tmp_path / "fed", "sample.per_class=2").path
    rows = bind(build, "promptfl", views=2).images.rows("train")
    assert sum(encoded) == 2 * len(rows)
    again = bind(build, "fedpgp", views=2).images.rows("train")
    assert sum(encoded) == 2 * len(rows)
    assert torch.equal(rows.images, again.images)
    bind(build, "promptfl", views=2, seed=1).images.rows("train")
    assert sum(encoded) == 4 * len(rows)
    bind(build, "promptfl", views=3).images.rows("train")
    assert sum(encoded) == 7 * len(rows)
    bind(build, "promptfl").images.rows("train")
    assert sum(encoded) == 8 * len(rows)
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 4


def test_the_memory_of_views_is_said(sample_build: Path) -> None:
    method, said = bind(sample_build, "promptfl"), list[str]()
    found = features(small_clip(), method.context.subset, "train", views=4, say=said.append)
    megabytes = len(found) * 4 * 32 * 4 / 1e6
    assert said == [
        f"encoding 4 views ({megabytes:.1f} MB) of {len(found)} images of fed-ucmerced/train with clip small"
    ]


def test_views_that_no_memory_holds_are_refused_before_any_is_made(
    sample_build: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    subset = bind(sample_build, "promptfl").context.subset
    count = subset.entry.rows["train"]
    monkeypatch.setattr("fedtrain.methods.prompts.features._memory", lambda: 2 * count * 3 * 32 * 4)
    words = f"train: 4 views of {count} images take .* GB as float32, .* this machine has .*: use fewer views, or"
    with pytest.raises(UsageError, match=words):
        features(small_clip(), subset, "train", views=4)
    assert not encoded
    assert features(small_clip(), subset, "train", views=3).values.shape == (count, 3, 32)


def test_few_views_wait_to_be_encoded(sample_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most = 0, 0

    def made(*arguments: Any) -> list[torch.Tensor]:
        nonlocal alive, most
        pictures = _pictures(*arguments)
        alive += len(pictures)
        most = max(most, alive)
        for picture in pictures:
            weakref.finalize(picture, died)
        return pictures

    def died() -> None:
        nonlocal alive
        alive -= 1

    monkeypatch.setattr("fedtrain.methods.prompts.features._pictures", made)
    subset = bind(sample_build, "promptfl").context.subset.part(["client-0000"])
    found = features(small_clip(), subset, "train", views=400)
    assert len(found) * 400 > 2 * most, "views of all images are in memory at once"
    assert most <= 512 + 128 + 16, "a batch, and what waits for it"
    few = features(small_clip(), subset, "train", views=20)
    assert torch.allclose(found.values[:, :20], few.values, atol=1e-6), "views are numbered as ever"


def plain_round(method: Any, client: int, round_: int, views: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A client's tensors after a round by ``torch.optim.SGD``, and which view each step took of each row."""
    s, context, rows = method.settings, method.context, method.images.rows("train")
    mine = rows.of(client)
    images, labels = plain_views(method, client, views), rows.labels[mine]
    table = schedule(torch.arange(len(images)), s.batch, s.epochs, generator(context.seed, "batches", round_, client))
    chosen = torch.randint(views, table.shape, generator=generator(context.seed, "views", round_, client))
    shared = method.shared()
    state = {k: v.clone()[None].requires_grad_() for k, v in {**shared, **method.personal(client)}.items()}
    decays = {name: 0.0 if name == "bias" else s.weight_decay for name in state}
    groups = [{"params": [value], "weight_decay": decays[name]} for name, value in state.items()]
    optimiser = torch.optim.SGD(groups, s.lr, momentum=s.momentum)
    for at, view in zip(table, chosen, strict=True):
        at, view = at[at >= 0], view[at >= 0]
        batch = Batch(images[at, view][None], labels[at][None], torch.full((1, len(at)), 1 / len(at)))
        optimiser.zero_grad()
        method.loss(state, batch, shared).sum().backward()
        optimiser.step()
    return {name: value.detach()[0] for name, value in state.items()}, chosen


@pytest.mark.parametrize("name", ["promptfl", "fedpgp"])
@pytest.mark.parametrize("kind", ["sample_build", "flair"])
def test_a_step_trains_on_one_view_of_each_image_drawn_by_round_and_client(
    kind: str, name: str, request: pytest.FixtureRequest
) -> None:
    method = bind(request.getfixturevalue(kind), name, seed=2, views=3, batch=4, lr=0.02)
    method.stack = 9
    clients, shared = [3, 0], method.shared()
    choices = []
    for round_ in (1, 2):
        for update in method.train(shared, [method.personal(c) for c in clients], clients, round_):
            wanted, chosen = plain_round(method, update.client, round_, 3)
            choices.append(chosen.flatten().tolist())
            assert same({**update.shared, **update.personal}, wanted, 1e-4)
            assert all((wanted[key] - value).abs().max() > 1e-3 for key, value in shared.items() if key != "bias")
    assert {view for choice in choices for view in choice} == {0, 1, 2}
    assert len({tuple(choice[:8]) for choice in choices}) == 4


@pytest.mark.parametrize("name", ["promptfl", "fedrsclip"])
def test_views_do_not_depend_on_the_cohort(sample_build: Path, name: str) -> None:
    method = bind(sample_build, name, views=3, lr=0.05)
    shared, clients = method.shared(), [5, 1, 3]
    together = {u.client: u for u in method.train(shared, [method.personal(c) for c in clients], clients, 2)}
    for client in clients:
        (alone,) = method.train(shared, [method.personal(client)], [client], 2)
        assert same(alone.shared, together[client].shared)
        assert same(alone.personal, together[client].personal)


def test_a_site_trains_as_its_client_does_in_the_federation(sample_build: Path) -> None:
    whole = bind(sample_build, "promptfl", views=3, lr=0.05)
    held = whole.context
    client = held.clients[4]
    site = replace(
        held, subset=held.subset.part([client]), clients=(client,), rows=(held.rows[4],), cache=None, numbers=(4,)
    )
    own = METHODS["promptfl"](site, whole.settings)
    (there,) = own.train(own.shared(), [{}], [0], 3)
    (here,) = whole.train(whole.shared(), [{}], [4], 3)
    assert same(here.shared, there.shared, 1e-5)


def test_one_view_is_the_default_and_changes_nothing(sample_build: Path) -> None:
    plain, asked = bind(sample_build, "fedpgp", lr=0.05), bind(sample_build, "fedpgp", lr=0.05, views=1)
    rows = plain.images.rows("train")
    assert rows.images.shape == (len(rows), plain.clip.embed_dim)
    for left, right in zip(*(m.train(m.shared(), [m.personal(2)], [2], 1) for m in (plain, asked)), strict=True):
        assert same(left.shared, right.shared)
        assert left.loss == right.loss


def test_one_view_is_a_run_of_before_there_were_views() -> None:
    one, several, before = ({"method_settings": {"lr": 0.1, **more}} for more in ({"views": 1}, {"views": 2}, {}))
    assert essence(one) == essence(before) != essence(several)


@pytest.mark.parametrize("views", [0, -2])
def test_fewer_views_than_one_are_refused(sample_build: Path, views: int) -> None:
    with pytest.raises(UsageError, match=f"views={views}"):
        bind(sample_build, "promptfl", views=views)


def test_views_of_patches_are_refused(sample_build: Path) -> None:
    with pytest.raises(UsageError, match="views=2: this method reads the patches of images"):
        bind(sample_build, "fedotp", views=2)
