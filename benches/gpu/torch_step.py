"""The step of `ibot bench` in PyTorch on an NVIDIA GPU, one line of JSON a precision; or, with --products, its matrix products.

Needs torch and timm alone, so that it runs on a bare machine; benches/reference/step.py times the reference itself.
"""

import argparse
import copy
import json
import time

import timm
import torch
import torch.nn.functional as F
from torch import nn

flags = argparse.ArgumentParser(description=__doc__)
flags.add_argument("--encoder", default="vit_small_patch16_224")
flags.add_argument("--batch-size", type=int, default=64)
flags.add_argument("--steps", type=int, default=5, help="steps to time, after three that are not")
flags.add_argument("--precisions", default="fp32,tf32,bf16")
flags.add_argument("--products", action="store_true")
flags = flags.parse_args()

DEVICE = "cuda"
WARM_UP = 3


def head(width, prototypes):
    layers = [nn.Linear(width, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256)]
    return nn.ModuleDict({"mlp": nn.Sequential(*layers), "prototypes": nn.Linear(256, prototypes, bias=False)})


def logits(of, x):
    return of["prototypes"](F.normalize(of["mlp"](x), dim=-1))


class Network(nn.Module):
    """Backbone and both heads; gives the logits of class tokens and of masked patches."""

    def __init__(self):
        super().__init__()
        self.vit = timm.create_model(flags.encoder, num_classes=0)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.vit.embed_dim))
        self.cls_head = head(self.vit.embed_dim, 65536)
        self.patch_head = head(self.vit.embed_dim, 8192)

    def forward(self, images, mask, hides):
        tokens = self.vit.patch_embed(images)
        if hides:
            tokens = torch.where(mask[..., None], self.mask_token.to(tokens.dtype), tokens)
        tokens = self.vit.norm(self.vit.blocks(self.vit.norm_pre(self.vit._pos_embed(tokens))))
        return logits(self.cls_head, tokens[:, 0]), logits(self.patch_head, tokens[:, 1:][mask])


@torch.no_grad()
def sinkhorn(teacher_logits, temperature, iterations=3):
    log_q = teacher_logits.float() / temperature
    for _ in range(iterations):
        log_q = log_q - torch.logsumexp(log_q, 0, keepdim=True)
        log_q = log_q - torch.logsumexp(log_q, 1, keepdim=True)
    return log_q.exp()


def time_steps(precision):
    allow_tf32(precision == "tf32")
    torch.manual_seed(0)
    student = Network().to(DEVICE).train()
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
    center = torch.zeros(1, 65536, device=DEVICE)
    images = torch.randn(2 * flags.batch_size, 3, 224, 224, device=DEVICE)
    patches = student.vit.patch_embed.num_patches
    mask = torch.rand(len(images), patches, device=DEVICE).argsort(1) < patches * 3 // 10
    times = []
    for _ in range(flags.steps + WARM_UP):
        torch.cuda.synchronize()
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                teacher_cls, teacher_patch = teacher(images, mask, False)
            student_cls, student_patch = student(images, mask, True)
        targets = F.softmax((teacher_cls.float() - center) / 0.04, -1)
        center.mul_(0.9).add_(teacher_cls.float().mean(0, keepdim=True), alpha=0.1)
        # each view learns the other view's target
        cls_log_probs = F.log_softmax(student_cls.float() / 0.1, -1)
        cls_loss = -(targets.roll(flags.batch_size, 0) * cls_log_probs).sum(-1).mean()
        patch_log_probs = F.log_softmax(student_patch.float() / 0.1, -1)
        patch_loss = -(sinkhorn(teacher_patch, 0.04) * patch_log_probs).sum(-1).mean()
        (cls_loss + patch_loss).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 3.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 0.004)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    report = {"precision": precision, "encoder": flags.encoder, "batch_size": flags.batch_size}
    report["median_ms"] = 1e3 * sorted(times[WARM_UP:])[flags.steps // 2]
    report["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps(report), flush=True)
    del student, teacher, optimizer
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def time_products():
    """The products of gpu_probe, and the sum that is a bias gradient."""
    rows = 2 * flags.batch_size * 197
    sizes = [
        ("qkv", rows, 384, 1152),
        ("projection", rows, 384, 384),
        ("fc1", rows, 384, 1536),
        ("fc2", rows, 1536, 384),
        ("fc1, weight gradient", 384, rows, 1536),
        ("fc2, weight gradient", 1536, rows, 384),
        ("patch head", rows * 3 // 10, 256, 8192),
        ("class head", 2 * flags.batch_size, 256, 65536),
    ]
    for name, m, k, n in sizes:
        for tf32 in (False, True):
            allow_tf32(tf32)
            left, right = torch.randn(m, k, device=DEVICE), torch.randn(k, n, device=DEVICE)
            seconds = time_of(lambda: left @ right)
            print(json.dumps({"product": name, "m k n": [m, k, n], "tf32": tf32, "ms": seconds * 1e3,
                              "tflops": 2e-12 * m * k * n / seconds}), flush=True)
    d_y = torch.randn(rows, 1536, device=DEVICE)
    print(json.dumps({"column sums": list(d_y.shape), "ms": time_of(lambda: d_y.sum(0)) * 1e3}), flush=True)


def time_of(work, rounds=20):
    for _ in range(WARM_UP):
        work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(rounds):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / rounds


def allow_tf32(allowed):
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


if flags.products:
    time_products()
else:
    for name in flags.precisions.split(","):
        time_steps(name)
