"""AdamW and Muon as `regard_nn::optimizer` steps them, in PyTorch."""

import math

import torch


def orthogonal(x):
    """Every singular value about 1: five rounds of Newton and Schulz."""
    turned = x.shape[0] > x.shape[1]
    # The outputs begin at zero, so the first gradients before them are zero, too.
    x = (x.T if turned else x) / x.norm().clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x.T if turned else x


class Optimizer:
    """Muon for the parameters that `hidden` names, AdamW for the rest; what has one axis does not decay."""

    def __init__(self, model, hidden, decay, parts=lambda name: 1):
        named = [(name, p, p.dim() > 1 and hidden(name)) for name, p in model.named_parameters()]
        self.decay = decay
        # Several matrices may lie in one, as query, key and value do.
        self.matrices = [(p, torch.zeros_like(p), parts(name)) for name, p, inside in named if inside]
        rest = [p for _, p, inside in named if not inside]
        groups = [
            {"params": [p for p in rest if p.dim() > 1], "weight_decay": decay},
            {"params": [p for p in rest if p.dim() == 1], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-8)

    @torch.no_grad()
    def step(self, rate):
        """One step; the gradients are none afterwards."""
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        for p, mean, count in self.matrices:
            mean.lerp_(p.grad, 0.05)
            parts = (0.95 * mean + 0.05 * p.grad).flatten(1).chunk(count)
            turned = torch.cat([orthogonal(one) * 0.2 * math.sqrt(max(one.shape)) for one in parts])
            p.mul_(1 - self.decay * rate).sub_(rate * turned.view_as(p))
            p.grad = None


def share_of_rate(done, warmup):
    """A rising line, then half a cosine: what share of the highest rate there is when the share `done` is done."""
    if done < warmup:
        return max(done / warmup, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
