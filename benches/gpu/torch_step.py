"""The step of `ibot bench` in PyTorch on a GPU, one line of JSON a precision; or, with --parts, the parts that gpu_probe times.

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
flags.add_argument("--image-size", type=int, default=224)
flags.add_argument("--n-cls-prototypes", type=int, default=65536)
flags.add_argument("--n-patch-prototypes", type=int, default=8192)
flags.add_argument("--parts", action="store_true")
flags.add_argument("--rows", type=int, default=25216, help="tokens of the parts")
flags.add_argument("--device", default="cuda", help="cpu for a rehearsal")
flags = flags.parse_args()

DEVICE = flags.device
IS_GPU = DEVICE == "cuda"
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
        self.vit = timm.create_model(flags.encoder, num_classes=0, img_size=flags.image_size)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.vit.embed_dim))
        self.cls_head = head(self.vit.embed_dim, flags.n_cls_prototypes)
        self.patch_head = head(self.vit.embed_dim, flags.n_patch_prototypes)

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
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=IS_GPU)
    center = torch.zeros(1, flags.n_cls_prototypes, device=DEVICE)
    images = torch.randn(2 * flags.batch_size, 3, flags.image_size, flags.image_size, device=DEVICE)
    patches = student.vit.patch_embed.num_patches
    mask = torch.rand(len(images), patches, device=DEVICE).argsort(1) < patches * 3 // 10
    times = []
    for _ in range(flags.steps + WARM_UP):
        wait()
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
        wait()
        times.append(time.perf_counter() - start)
    report = {"precision": precision, "encoder": flags.encoder, "batch_size": flags.batch_size}
    report["median_ms"] = 1e3 * sorted(times[WARM_UP:])[flags.steps // 2]
    if IS_GPU:
        report["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps(report), flush=True)
    del student, teacher, optimizer
    if IS_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def time_products():
    """Layers forward and backward, and a square product; under the names of gpu_probe."""
    rows, images = flags.rows, max(flags.rows // 197, 2)
    layers = [
        ("qkv", rows, 384, 1152),
        ("projection", rows, 384, 384),
        ("fc1", rows, 384, 1536),
        ("fc2", rows, 1536, 384),
        ("heads", rows * 3 // 10, 384, 2048),
        ("heads, layer 2", rows * 3 // 10, 2048, 2048),
        ("patch head", rows * 3 // 10, 256, 8192),
        ("class head", images, 256, 65536),
        ("square", *[min(rows, 4096)] * 3),
    ]
    for name, count, inputs, outputs in layers:
        x, weight = torch.randn(count, inputs, device=DEVICE), torch.randn(inputs, outputs, device=DEVICE)
        d_y = torch.randn(count, outputs, device=DEVICE)
        size = f"{name}, {count} x {inputs} x {outputs}"
        for tf32 in (False, True) if IS_GPU else (False,):
            allow_tf32(tf32)
            for what, work in [
                ("", lambda: x @ weight),
                (", gradient of rows", lambda: d_y @ weight.T),
                (", gradient of weights", lambda: (x.T @ d_y, d_y.sum(0))),  # and of the bias, as gpu_probe
            ]:
                seconds = time_of(work)
                tell(size + what, seconds, tflops=2e-12 * count * inputs * outputs / seconds, tf32=tf32)
    allow_tf32(False)
    for heads, images in [(6, images), (12, images // 2)]:
        q, k, v = (torch.randn(images, heads, 197, 64, device=DEVICE, requires_grad=True) for _ in range(3))
        name = f"attention, {images} x 197, {heads} heads of 64"
        products = 2e-12 * images * heads * 197 * 197 * 64
        seconds = time_of(lambda: F.scaled_dot_product_attention(q, k, v))
        tell(name, seconds, tflops=2 * products / seconds)
        context = F.scaled_dot_product_attention(q, k, v)
        seconds = time_of(lambda: torch.autograd.grad(context, (q, k, v), context, retain_graph=True))
        tell(name + ", gradient", seconds, tflops=5 * products / seconds)


def time_passes():
    """What memory bounds, with the entries of 4 bytes that gpu_probe counts."""
    rows, chosen = flags.rows, flags.rows * 3 // 10
    tokens, hidden = (torch.randn(rows, width, device=DEVICE) for width in (384, 1536))
    source = torch.ones(22_000_000, device=DEVICE)
    norm = nn.LayerNorm(384, eps=1e-6, device=DEVICE)
    places = 3 * torch.arange(chosen, device=DEVICE)
    passes = [
        ("copy", 2 * len(source), source.clone),
        ("layer norm", 2 * tokens.numel(), lambda: F.layer_norm(tokens, [384], norm.weight.data, norm.bias.data)),
        ("gather rows", 2 * chosen * 384, lambda: tokens[places]),
        ("GELU", 2 * hidden.numel(), lambda: F.gelu(hidden)),
        ("column sums", hidden.numel(), lambda: hidden.sum(0)),
    ]
    passes += [("layer norm, gradient", 5 * tokens.numel(), gradient(norm, tokens, list(norm.parameters())))]
    passes += [("GELU, gradient", 3 * hidden.numel(), gradient(F.gelu, hidden, []))]
    for of, count, prototypes in [("class tokens", rows // 197 // 2 * 2, 65536), ("patches", chosen, 8192)]:
        logits = torch.randn(count, prototypes, device=DEVICE)
        passes += [
            (f"Sinkhorn targets of {of}", 6 * logits.numel(), lambda logits=logits: sinkhorn(logits, 0.04)),
            (f"centered targets of {of}", logits.numel(), lambda logits=logits: F.softmax(logits / 0.04, -1)),
        ]
        targets = F.softmax(logits, -1)
        loss = lambda logits, targets=targets: -(targets * F.log_softmax(logits / 0.1, -1)).sum(-1).mean()  # noqa: E731
        passes += [(f"loss of {of}", 2 * logits.numel(), lambda loss=loss, logits=logits: loss(logits))]
        passes += [(f"loss of {of}, gradient", 3 * logits.numel(), gradient(loss, logits, []))]
    for name, entries, work in passes:
        seconds = time_of(work)
        tell(name, seconds, gb_s=4e-9 * entries / seconds)
    time_updates()


def time_updates():
    student = list(Network().to(DEVICE).parameters())
    teacher = [parameter.detach().clone() for parameter in student]
    entries = sum(parameter.numel() for parameter in student)
    for parameter in student:
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer = torch.optim.AdamW(student, lr=1e-4, fused=IS_GPU)
    with torch.no_grad():
        detached = [parameter.detach() for parameter in student]
        norm = lambda: torch.nn.utils.get_total_norm([parameter.grad for parameter in student])  # noqa: E731
        for name, count, work in [
            ("norm of gradients", 1, norm),
            ("moving average", 3, lambda: torch._foreach_lerp_(teacher, detached, 0.004)),
            ("AdamW", 7, optimizer.step),
        ]:
            seconds = time_of(work)
            tell(name, seconds, gb_s=4e-9 * count * entries / seconds)


def gradient(function, x, parameters):
    x = x.detach().requires_grad_()
    y = function(x)
    d_y = torch.ones_like(y)
    return lambda: torch.autograd.grad(y, [x, *parameters], d_y, retain_graph=True)


def tell(part, seconds, **speed):
    print(json.dumps({"part": part, "ms": 1e3 * seconds, **speed}), flush=True)


def time_of(work, rounds=20 if IS_GPU else 2):
    for _ in range(WARM_UP if IS_GPU else 1):
        work()
    wait()
    start = time.perf_counter()
    for _ in range(rounds):
        work()
    wait()
    return (time.perf_counter() - start) / rounds


def wait():
    if IS_GPU:
        torch.cuda.synchronize()


def allow_tf32(allowed):
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


if flags.parts:
    time_products()
    time_passes()
else:
    for name in flags.precisions.split(","):
        time_steps(name)
