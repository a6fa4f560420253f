"""Where trained predictors of CSI keep their weights, and for which antennas there are any."""

from __future__ import annotations

from pathlib import Path


def predictor_weights(folder: Path, name: str, num_tx_ant: int, num_rows: int) -> Path:
    """The file of a predictor's weights for so many ports and rows of a report."""
    return folder / f"csi-{name}-{num_tx_ant}x{num_rows}.safetensors"


def trained_antennas(folder: Path, name: str) -> list[str]:
    """Ports x rows that there are weights for, as "16x1"."""
    return sorted(path.stem.rsplit("-", 1)[1] for path in folder.glob(f"csi-{name}-*.safetensors"))
