"""Times training steps of the reference: python benches/reference/step.py STEPS

    pip install stable-pretraining==0.1.8 timm==1.0.31 torch==2.15.0
"""

import resource
import sys
import time

import torch
from stable_pretraining.methods.ibot import iBOT

torch.set_num_threads(2)
model = iBOT().train()
type(model).current_epoch = property(lambda _self: 0)
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4)
views = [torch.randn(4, 3, 224, 224) for _ in range(2)]
for _ in range(int(sys.argv[1])):
    start = time.perf_counter()
    optimizer.zero_grad()
    model(global_views=views).loss.backward()
    optimizer.step()
    for averaged in (model.backbone, model.cls_head, model.patch_head):
        averaged.update_ema_coefficient(0, 100)
        averaged.update_teacher()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.perf_counter() - start:.3f} s, {peak:.0f} MiB", flush=True)
