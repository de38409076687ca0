"""A noisy quadratic as a network of two classes; docs/noisy_quadratic.md derives what it does.

The probability that it gives to class 1 is exp(-loss), so that the ordinary cross entropy of
class 1 *is* the loss, and the ordinary update is the update of the quadratic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALLEST_LOSS = 1e-6  # a probability of exactly 1 has no logit

# B batch, D coordinates, Q levels


class Quadratic(nn.Module):
    """Maps images [B, 1, 1, D + 2] with values in 0..1 to logits [B, 2].

    The first D pixels are noise, 0, 1/2 and 1 standing for -1, 0 and 1; the last two are the
    level q = 128 * (128 * high + low). The logits are (0, z) with P(class 1) = exp(-loss),

        loss = scale[q] * 1/2 sum_i curvature_i (w_i - displacement_i noise_i)^2 + shift[q].

    Args:
        curvatures, displacements, start: one number a coordinate, [D].
        scales, shifts: one number a level, [Q].

    `start` with random signs (torch's generator) is where w begins.
    """

    curvatures: Tensor
    displacements: Tensor
    scales: Tensor
    shifts: Tensor

    def __init__(
        self,
        *,
        curvatures: list[float],
        displacements: list[float],
        start: list[float],
        scales: list[float],
        shifts: list[float],
    ) -> None:
        super().__init__()
        buffers = {
            "curvatures": curvatures,
            "displacements": displacements,
            "scales": scales,
            "shifts": shifts,
        }
        for name, values in buffers.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
        start_D = torch.tensor(start, dtype=torch.float32)
        signs_D = 2 * torch.randint(2, start_D.shape).float() - 1
        self.w = nn.Parameter(signs_D * start_D)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        pixels_BW = x_BCHW[:, 0, 0]
        noise_BD = 2 * pixels_BW[:, :-2] - 1
        level_B = (128 * (128 * pixels_BW[:, -2] + pixels_BW[:, -1])).round().long()
        distance_BD = self.w - self.displacements * noise_BD
        quadratic_B = 0.5 * (self.curvatures * distance_BD.square()).sum(1)
        loss_B = self.scales[level_B] * quadratic_B + self.shifts[level_B]
        loss_B = loss_B.clamp(min=SMALLEST_LOSS)
        # log(p / (1 - p)) of p = exp(-loss), without forming p
        z_B = -loss_B - torch.log(-torch.expm1(-loss_B))
        return torch.stack([torch.zeros_like(z_B), z_B], 1)
