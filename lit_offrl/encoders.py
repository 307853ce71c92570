"""Networks that see images: convolutional encoders in front of any other network."""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_offrl.errors import InputError

Image = tuple[int, ...]
"""Where an image lies in a flattened observation: its first column, then its shape."""
EncoderName = Literal["nature", "impala"]
SIDE = 32
"""Least height and width of what counts as an image: smaller grids are numbers like any other."""
MAX_CHANNELS = 16


class Pixels(NamedTuple):
    """What a network has to know of observations with images, in place of their number.

    Args:
        obs_dim: O, pixels and other numbers.
        images: Where the images lie.
        encoder: What looks at them.
    """

    obs_dim: int
    images: tuple[Image, ...]
    encoder: EncoderName


ObsDim = int | Pixels
"""O, or for observations with images what :func:`observed` makes of it."""


def observed(obs_dim: int, images: tuple[Image, ...], encoder: EncoderName) -> ObsDim:
    """What networks are told of observations: the plain number where there are no images."""
    return Pixels(obs_dim, tuple(map(tuple, images)), encoder) if images else obs_dim


def encoder_of(obs_dim: ObsDim) -> tuple[nn.Module, int]:
    """Make what turns observations (..., O) into features (..., H), and return it with H."""
    if isinstance(obs_dim, int):
        return nn.Identity(), obs_dim
    encoder = Encoder(obs_dim)
    return encoder, encoder.width


def sides(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Axes of height and width of an image, None if the shape is none of an image.

    An image is (H, W), (H, W, C), (C, H, W) or a stack (S, H, W, C), of at least 32 by 32 pixels.

    >>> sides((84, 84, 3)), sides((4, 84, 84)), sides((4, 84, 84, 3)), sides((7, 7, 3))
    ((0, 1), (1, 2), (1, 2), None)
    """
    axes = {2: [(0, 1)], 3: [(0, 1), (1, 2)], 4: [(1, 2)]}.get(len(shape), [])
    for rows, columns in axes:
        others = [n for axis, n in enumerate(shape) if axis not in (rows, columns)]
        if min(shape[rows], shape[columns]) >= SIDE and math.prod(others) <= MAX_CHANNELS:
            return rows, columns
    return None


class Encoder(nn.Module):
    """Flattened observations to features: images by convolutions, other numbers as they are.

    Convolutions start as He et al. have it (2015, https://arxiv.org/abs/1502.01852), so that what
    a few pixels say passes through all layers.

    Args:
        pixels: Where the images lie, and what looks at them.
    """

    def __init__(self, pixels: Pixels) -> None:
        super().__init__()
        self.images = pixels.images
        self.nets = nn.ModuleList(_convolutions(shape, pixels.encoder) for _, *shape in self.images)
        for layer in self.nets.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.sections, self.kinds = _sections(pixels)
        with torch.no_grad():
            self.width: int = self(torch.zeros(1, pixels.obs_dim)).shape[-1]

    def forward(self, obs: Tensor) -> Tensor:
        """Map obs (..., O), pixels from 0 to 255, to features (..., H)."""
        parts = torch.split(obs.flatten(0, -2), self.sections, dim=-1)
        nets = iter(zip(self.nets, self.images, strict=True))
        features = []
        for part, is_image in zip(parts, self.kinds, strict=True):
            if is_image:
                net, (_, *shape) = next(nets)
                features.append(net(channels_first(part, tuple(shape)).to(_dtype(net)) / 255))
            else:
                features.append(part)
        return torch.cat(features, -1).reshape(*obs.shape[:-1], -1)


def _dtype(net: nn.Module) -> torch.dtype:
    return next(net.parameters()).dtype


def _sections(pixels: Pixels) -> tuple[list[int], list[bool]]:
    """Widths of the parts of an observation in order, and which of them are images."""
    sections: list[int] = []
    kinds: list[bool] = []
    for start, *shape in pixels.images:
        if gap := start - sum(sections):
            sections, kinds = [*sections, gap], [*kinds, False]
        sections, kinds = [*sections, math.prod(shape)], [*kinds, True]
    if gap := pixels.obs_dim - sum(sections):
        sections, kinds = [*sections, gap], [*kinds, False]
    return sections, kinds


def channels_first(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """View flattened images (B, P) of a shape as (B, C, H, W)."""
    found = sides(shape)
    assert found is not None  # `image_parts` chose it
    images = rows.view(-1, *shape).movedim([axis + 1 for axis in found], [-2, -1])
    return images.reshape(rows.shape[0], -1, *images.shape[-2:])  # len() would fix B in an export


def _convolutions(shape: list[int], encoder: EncoderName) -> nn.Sequential:
    found = sides(tuple(shape))
    if found is None:
        raise InputError(f"Images of shape {tuple(shape)} are too small for an encoder.")
    channels = math.prod(shape) // math.prod(shape[axis] for axis in found)
    if encoder == "nature":
        if min(shape[axis] for axis in found) < NATURE_SIDE:
            raise InputError(
                f"Images of shape {tuple(shape)} are too small for the encoder `nature`, which "
                f"needs {NATURE_SIDE} by {NATURE_SIDE} pixels: set `model.encoder` to impala."
            )
        return nature_cnn(channels)
    return impala_cnn(channels)


NATURE_SIDE = 36


def nature_cnn(channels: int) -> nn.Sequential:
    """Convolutions of DQN (Mnih et al. 2015, https://doi.org/10.1038/nature14236), flattened.

    Its layer of 512 units is the first of the network behind: ``hidden`` (512,).
    """
    return nn.Sequential(
        nn.Conv2d(channels, 32, 8, stride=4),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.Flatten(),
    )


def impala_cnn(channels: int, depths: tuple[int, ...] = (16, 32, 32)) -> nn.Sequential:
    """Residual convolutions of IMPALA (Espeholt et al. 2018, https://arxiv.org/abs/1802.01561).

    Its layer of 256 units is the first of the network behind: ``hidden`` (256,).
    """
    layers: list[nn.Module] = []
    for depth in depths:
        layers += [
            nn.Conv2d(channels, depth, 3, padding=1),
            nn.MaxPool2d(3, stride=2, padding=1),
            _Residual(depth),
            _Residual(depth),
        ]
        channels = depth
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten())


class _Residual(nn.Module):
    """``x + conv(relu(conv(relu(x))))``."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(depth, depth, 3, padding=1)
        self.second = nn.Conv2d(depth, depth, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.second(F.relu(self.first(F.relu(x))))
        return x + residual


def shifted(rows: Tensor, image: Image, offsets: Tensor, pad: int) -> None:
    """Shift images by up to ``pad`` pixels, the edge repeated (in place).

    Random shifts keep a critic from learning single pixels by heart (Kostrikov et al. 2020,
    https://arxiv.org/abs/2004.13649).

    Args:
        rows: Flattened observations, (B, O).
        image: Which of their columns.
        offsets: Rows and columns that each is moved by, from 0 to 2 pad, (B, 2); pad: not at all.
        pad: Largest shift in pixels.
    """
    start, *shape = image
    found = sides(tuple(shape))
    assert found is not None
    part = rows[:, start : start + math.prod(shape)].view(-1, *shape)
    images = part.movedim([axis + 1 for axis in found], [1, 2])  # (B, H, W, ...), a view
    height, width = images.shape[1:3]
    at = [
        (torch.arange(n, device=rows.device) + offset[:, None] - pad).clamp(0, n - 1)
        for n, offset in zip((height, width), offsets.unbind(-1), strict=True)
    ]
    which = torch.arange(len(rows), device=rows.device)[:, None, None]
    images.copy_(images[which, at[0][:, :, None], at[1][:, None, :]])
