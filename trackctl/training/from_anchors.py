"""A box-adaptive head that starts as the trained anchor head of another tracker: a new modality needs far fewer steps.

Both heads are the same up to their last 1x1 convolutions, which are converted here. All of it is [ours].
"""

from __future__ import annotations

import torch

from trackctl.runtime.errors import InputError, WeightsError
from trackctl.training.bcrnet import BCRNet
from trackctl.training.model import TrackerModel
from trackctl.training.siamban import BANHead
from trackctl.training.siamrpn import SiamRPN


@torch.no_grad()
def take_head(model: torch.nn.Module, trained: TrackerModel) -> None:
    """Replace the weights of neck and head.

    The class logits become the mean over the anchors. The distances are those of the box that the squarest anchor, of side a,
    predicts: left = w / 2 - a dx with w = a exp(dw), so that to first order in dx and dw
    log(left) = log(a / 2) + dw - 2 dx, and likewise for the other sides.

    Args:
        model: BCR-Net.
        trained: a tracker with anchors, and with the model's levels and width.

    Raises:
        InputError: one of them has another head.
        WeightsError: levels or width differ.
    """
    if not isinstance(model, BCRNet) or not isinstance(trained, SiamRPN):
        raise InputError(
            f"got the head of {type(trained).__name__} for {type(model).__name__}, expected one with anchors for BCRNet: "
            "leave head out of the recipe"
        )
    kept = {name: value for name, value in trained.rpn.state_dict().items() if ".out." not in name}
    own = model.ban.state_dict()
    wanted = {name for name in own if ".out." not in name and not name.endswith(".scale")}
    if kept.keys() != wanted or any(own[name].shape != value.shape for name, value in kept.items()):
        raise WeightsError(f"the head of {type(trained).__name__} has other levels or another width: take another tracker's")
    model.neck.load_state_dict(trained.neck.state_dict())
    model.ban.load_state_dict(kept, strict=False)
    _convert(model.ban, trained)


def _convert(head: BANHead, trained: SiamRPN) -> None:
    anchors = trained.decode.anchors
    width, height = trained.decode.boxes.reshape(4, anchors, -1)[2:, :, 0]
    squarest = int((width / height).log().abs().argmin())
    starts = torch.stack((width, height))[:, squarest].mul(0.5).log()  # log of half the anchor's sides
    for own, theirs in zip(
        (*head.branches[0], *head.branches[1]), (*trained.rpn.branches[0], *trained.rpn.branches[1]), strict=True
    ):
        for name in ("weight", "bias"):
            theirs_flat = theirs.out.get_parameter(name)
            rows = theirs_flat.reshape(-1, anchors, *theirs_flat.shape[1:])  # (2 or 4, A, ...)
            if own in head.branches[0]:
                made = rows.mean(dim=1)
            else:
                dx, dy, dw, dh = rows[:, squarest]
                made = torch.stack((dw - 2.0 * dx, dh - 2.0 * dy, dw + 2.0 * dx, dh + 2.0 * dy))
                if name == "bias":
                    made = made + starts.repeat(2)
            own.out.get_parameter(name).copy_(made)
