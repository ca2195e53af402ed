"""Times training steps of the reference, one JSON object a step: python benches/reference/step.py --steps 5

    pip install -r benches/reference/requirements.txt

The flags are those of `ibot bench`, which runs this for `ibot bench --against benches/reference`.
"""

import argparse
import json
import sys
import time

import timm
import torch
from stable_pretraining.methods.ibot import iBOT

flags = argparse.ArgumentParser()
flags.add_argument("--steps", type=int, default=5, help="steps to time, after one that is not")
flags.add_argument("--threads", type=int, default=2)
flags.add_argument("--encoder", default="vit_small_patch16_224")
flags.add_argument("--patch-size", type=int)
flags.add_argument("--image-size", type=int, default=224)
flags.add_argument("--batch-size", type=int, default=4)
flags.add_argument("--n-cls-prototypes", type=int, default=65536)
flags.add_argument("--n-patch-prototypes", type=int, default=8192)
flags.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="bf16: autocast around the forward pass and the losses")
flags = flags.parse_args()


def peak_mib():
    """Largest resident size of this process; None on Windows, which does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


torch.set_num_threads(flags.threads)
patch = {"patch_size": flags.patch_size} if flags.patch_size else {}
encoder = timm.create_model(flags.encoder, num_classes=0, img_size=flags.image_size, **patch)
model = iBOT(
    encoder,
    image_size=flags.image_size,
    n_cls_prototypes=flags.n_cls_prototypes,
    n_patch_prototypes=flags.n_patch_prototypes,
).train()
type(model).current_epoch = property(lambda _self: 0)
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4)
views = [torch.randn(flags.batch_size, 3, flags.image_size, flags.image_size) for _ in range(2)]
for number in range(flags.steps + 1):
    start = time.perf_counter()
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=flags.precision == "bf16"):
        loss = model(global_views=views).loss
    loss.backward()
    optimizer.step()
    for averaged in (model.backbone, model.cls_head, model.patch_head):
        averaged.update_ema_coefficient(0, 100)
        averaged.update_teacher()
    seconds = time.perf_counter() - start
    if number > 0:
        print(json.dumps({"total_s": seconds, "peak_rss_mib": peak_mib()}), flush=True)
