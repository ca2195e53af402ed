"""Times what this crate's kernels replace, in PyTorch on the CPU: python benches/reference/loss_and_ema.py --rounds 7

    pip install -r benches/reference/requirements.txt

One JSON object an operation, with the median of its rounds.
"""

import argparse
import json
import time

import torch
from stable_pretraining.methods.ibot import iBOT
from stable_pretraining.losses.utils import sinkhorn_knopp

flags = argparse.ArgumentParser()
flags.add_argument("--rounds", type=int, default=7, help="rounds to time, after one that is not")
flags.add_argument("--threads", type=int, default=2)
flags = flags.parse_args()
torch.set_num_threads(flags.threads)
ROWS, PROTOTYPES = 944, 8192


def report(operation, work):
    times = []
    for _ in range(flags.rounds + 1):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    times = sorted(times[1:])
    print(json.dumps({"operation": operation, "ms": times[len(times) // 2]}), flush=True)


teacher = torch.randn(ROWS, PROTOTYPES)
student = torch.randn(ROWS, PROTOTYPES, requires_grad=True)
report("Sinkhorn targets, 3 iterations, 944 x 8192", lambda: sinkhorn_knopp(teacher, 0.04, ROWS, n_iterations=3))


def loss_with_targets():
    student.grad = None
    targets = torch.softmax(teacher / 0.04, dim=-1)
    loss = -(targets * torch.log_softmax(student / 0.1, dim=-1)).sum(dim=-1).mean()
    loss.backward()


report("patch loss forward + backward, 944 x 8192", loss_with_targets)

model = iBOT()
parts = (model.backbone.teacher, model.cls_head.teacher, model.patch_head.teacher)
teachers = [p.detach().clone() for part in parts for p in part.parameters()]
students = [p.detach().clone() for p in teachers]


@torch.no_grad()
def ema():
    for averaged, trained in zip(teachers, students):
        averaged.mul_(0.996).add_(trained, alpha=0.004)


report("EMA, ViT-S/16 and default heads", ema)
report("EMA, ViT-S/16 and default heads, torch._foreach_lerp_", lambda: torch._foreach_lerp_(teachers, students, 0.004))
