"""What range calibration is asked to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from mmcl_edge.types import FrozenModel

Method = Literal["minmax", "entropy", "percentile"]
Progress = Callable[[str, float | None, float | None], None]
"""Called with what is done next, how many steps are done, and how many there are."""


class RangesConfig(FrozenModel):
    """Configuration of ``quantize_bundle``."""

    method: Method = Field("minmax", description="How the range of an activation follows from what was seen.")
    per_channel: bool = Field(True, description="One scale for each output channel of a weight, else one for all.")
    keep_accuracy: float = Field(0.005, ge=0, le=1, description="Accuracy that int8 may lose on measured samples.")
    samples: int = Field(64, ge=8, description="At most so many samples give the ranges.")
    measured: int = Field(512, ge=8, description="At most so many other samples measure accuracy.")
    reduce_range: bool | None = Field(
        None, description="Weights of 7 bits, which cannot saturate without VNNI; None: where this machine needs it."
    )
    any_speed: bool = Field(
        False, description="Keep graphs that int8 does not make faster, too; equal input then gives an equal bundle."
    )
