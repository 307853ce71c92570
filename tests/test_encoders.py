"""Networks that see images."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_offrl.encoders import (
    Encoder,
    EncoderName,
    Pixels,
    channels_first,
    encoder_of,
    observed,
    shifted,
    sides,
)
from lit_offrl.errors import InputError
from lit_offrl.networks import DiscreteQNetwork, QNetwork, ValueNetwork


def pixels(*shape: int, encoder: EncoderName = "nature", before: int = 0, after: int = 0) -> Pixels:
    return Pixels(before + math.prod(shape) + after, ((before, *shape),), encoder)


def images(count: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, width), generator=generator, dtype=torch.uint8)


def residual(net: nn.Module, name: str, x: Tensor) -> Tensor:
    p = dict(net.named_parameters())
    h = x.relu()
    for conv in ("first", "second"):
        h = F.conv2d(h, p[f"{name}.{conv}.weight"], p[f"{name}.{conv}.bias"], padding=1)
        h = h.relu() if conv == "first" else h
    return x + h


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((84, 84), (0, 1)),
        ((84, 84, 4), (0, 1)),
        ((4, 84, 84), (1, 2)),
        ((4, 64, 96, 3), (1, 2)),
        ((32, 31), None),
        ((7, 7, 3), None),
        ((84, 84, 17), None),
        ((84,), None),
        ((6, 84, 84, 3), None),  # 18 channels
    ],
)
def test_what_counts_as_an_image(shape: tuple[int, ...], expected: tuple[int, int] | None) -> None:
    assert sides(shape) == expected


def test_the_nature_network_is_that_of_dqn() -> None:
    encoder = Encoder(pixels(4, 84, 84))
    obs = images(3, 4 * 84 * 84)
    p = dict(encoder.named_parameters())
    h = obs.view(3, 4, 84, 84).float() / 255
    for i, stride in ((0, 4), (2, 2), (4, 1)):
        h = F.conv2d(h, p[f"nets.0.{i}.weight"], p[f"nets.0.{i}.bias"], stride=stride).relu()
    assert encoder.width == 64 * 7 * 7
    assert [len(p[f"nets.0.{i}.weight"]) for i in (0, 2, 4)] == [32, 64, 64]
    torch.testing.assert_close(encoder(obs), h.flatten(1))


def test_the_impala_network_has_three_residual_parts() -> None:
    encoder = Encoder(pixels(32, 40, 3, encoder="impala"))
    obs = images(2, 32 * 40 * 3)
    p = dict(encoder.named_parameters())
    h = obs.view(2, 32, 40, 3).permute(0, 3, 1, 2).float() / 255
    for i in (0, 4, 8):
        h = F.conv2d(h, p[f"nets.0.{i}.weight"], p[f"nets.0.{i}.bias"], padding=1)
        h = F.max_pool2d(h, 3, stride=2, padding=1)
        for j in (i + 2, i + 3):
            h = residual(encoder, f"nets.0.{j}", h)
    assert encoder.width == 32 * 4 * 5
    torch.testing.assert_close(encoder(obs), h.relu().flatten(1))


def test_numbers_around_an_image_stay_as_they_are_and_where_they_are() -> None:
    encoder = Encoder(pixels(36, 36, before=2, after=1))
    obs = torch.cat([torch.tensor([[5.0, -6.0]]), images(1, 36 * 36).float(), torch.ones(1, 1)], 1)
    features = encoder(obs)
    assert features[0, [0, 1, -1]].tolist() == [5, -6, 1]
    alone = encoder.nets[0](obs[:, 2:-1].view(1, 1, 36, 36) / 255)
    torch.testing.assert_close(features[:, 2:-1], alone)


def test_bytes_and_numbers_of_the_same_size_are_the_same_image() -> None:
    encoder = Encoder(pixels(36, 36))
    obs = images(2, 36 * 36)
    assert encoder(obs).equal(encoder(obs.float()))


def test_channels_may_come_first_or_last() -> None:
    first = images(2, 3 * 40 * 36).view(2, 3, 40, 36)
    last = first.permute(0, 2, 3, 1)
    assert channels_first(first.flatten(1), (3, 40, 36)).equal(first)
    assert channels_first(last.flatten(1), (40, 36, 3)).equal(first)
    stacked = images(1, 2 * 40 * 36 * 3).view(1, 2, 40, 36, 3)
    found = channels_first(stacked.flatten(1), (2, 40, 36, 3)).view(1, 2, 3, 40, 36)
    assert found.equal(stacked.permute(0, 1, 4, 2, 3))


def test_leading_axes_are_kept() -> None:
    encoder = Encoder(pixels(36, 36))
    obs = images(6, 36 * 36)
    assert encoder(obs.view(2, 3, -1)).equal(encoder(obs).view(2, 3, -1))


def test_two_images_are_seen_by_two_networks() -> None:
    both = Pixels(2 * 36 * 36, ((0, 36, 36), (36 * 36, 36, 36)), "nature")
    encoder = Encoder(both)
    obs = images(2, 2 * 36 * 36)
    halves = [
        net(part.view(2, 1, 36, 36) / 255)
        for net, part in zip(encoder.nets, obs.chunk(2, 1), strict=True)
    ]
    torch.testing.assert_close(encoder(obs), torch.cat(halves, 1))


def test_without_images_nothing_comes_before_a_network() -> None:
    assert observed(5, (), "nature") == 5
    encoder, width = encoder_of(5)
    assert isinstance(encoder, nn.Identity)
    assert width == 5


def test_a_small_image_needs_the_other_encoder() -> None:
    with pytest.raises(InputError, match=r"set `model\.encoder` to impala"):
        Encoder(pixels(32, 40))
    assert Encoder(pixels(32, 40, encoder="impala")).width == 32 * 4 * 5


def test_all_networks_take_images() -> None:
    seen, obs = pixels(36, 36), images(3, 36 * 36)
    assert ValueNetwork(seen, (8,))(obs).shape == (3,)
    assert DiscreteQNetwork(seen, 4, (8,), 2)(obs).shape == (2, 3, 4)
    q, action = QNetwork(seen, 2, (8,), 2), torch.zeros(5, 3, 2)
    assert q(obs, action).shape == (2, 5, 3)
    torch.testing.assert_close(q(obs, action[:1])[:, 0], q(obs, action[0]))


@pytest.mark.parametrize("shape", [(36, 40, 3), (3, 36, 40), (36, 40)])
def test_a_shift_is_a_crop_of_the_image_with_its_edge_repeated(shape: tuple[int, ...]) -> None:
    before, pad = 2, 4
    rows = images(5, before + math.prod(shape) + 1)
    offsets = torch.tensor([[0, 0], [8, 8], [4, 4], [1, 6], [7, 3]])
    moved = rows.clone()
    shifted(moved, (before, *shape), offsets, pad)
    assert moved[:, [0, 1, -1]].equal(rows[:, [0, 1, -1]])
    whole = channels_first(rows[:, before:-1], shape).float()
    padded = F.pad(whole, (pad, pad, pad, pad), mode="replicate")
    found = channels_first(moved[:, before:-1], shape)
    for i, (y, x) in enumerate(offsets.tolist()):
        torch.testing.assert_close(found[i].float(), padded[i, :, y : y + 36, x : x + 40])
