"""Trains one of the PyTorch peers on a folder of images: python peers.py PEER --data FOLDER --steps N --out FOLDER

PEER is reference (stable_pretraining.methods.iBOT), lightly-dino or lightly-ibot. Writes teacher.safetensors and
student.safetensors, backbones under timm's names, and prints one JSON object: the losses, and the seconds of each step with its
views.

reference     The class's defaults. It leaves optimizer and views to its user: AdamW at 5e-4, as in its authors' results on
              Imagenette, with warm-up over the first tenth of the steps; views of ibot's preset stable-pretraining.
lightly-dino  examples/pytorch/dino.py of lightly: its head, loss, optimizer, views and momentum, on this transformer.
lightly-ibot  examples/pytorch/ibot.py of lightly, the same way.

Local crops are as large a share of the transformer's input as in lightly: the multiple of the patch next to 96 / 224.
Images are decoded before the first step.
"""

import argparse
import copy
import json
import math
import os
import random
import time
from pathlib import Path

import torch
from model import MEAN, SHAPES, STD, timm_model
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2


class Images(Dataset):
    """Images of a folder in memory, on white where they are transparent, as ibot has them."""

    def __init__(self, folder: Path, views) -> None:
        paths = sorted(path for path in folder.rglob("*.png"))
        self.images = [on_white(Image.open(path)) for path in paths]
        self.views = views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, at: int):
        return self.views(self.images[at])


def on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image).convert("RGB")


def local_size(shape) -> int:
    patch = shape["patch_size"]
    return patch * round(shape["img_size"] * 96 / 224 / patch)


def crops(shape):
    """Sizes of crops for lightly's transforms."""
    return {"global_crop_size": shape["img_size"], "local_crop_size": local_size(shape)}


def frozen(module):
    for parameter in module.parameters():
        parameter.requires_grad = False
    return module


class Peer:
    """`views(image)` makes the views of an image, `loss(views, at)` has the gradients that `update(loss, at)` applies;
    `teacher` and `student` are timm's transformers."""

    def __init__(self, model: str, steps: int, steps_per_epoch: int) -> None:
        self.shape, self.steps, self.steps_per_epoch = SHAPES[model], steps, steps_per_epoch
        self.epochs = math.ceil(steps / steps_per_epoch)


class Reference(Peer):
    PEAK = 5e-4

    def __init__(self, model: str, *lengths: int) -> None:
        from stable_pretraining.methods.ibot import iBOT

        super().__init__(model, *lengths)
        side = self.shape["img_size"]
        self.method = iBOT(timm_model(model), image_size=side).train()
        self.epoch = 0
        type(self.method).current_epoch = property(lambda _: self.epoch)
        trained = [parameter for parameter in self.method.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=self.PEAK, weight_decay=0.04)
        view = v2.Compose([
            v2.RandomResizedCrop(side, scale=(0.4, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(7, sigma=(0.1, 2.0))], p=0.5),
            v2.RandomSolarize(128, p=0.2),
            v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD),
        ])  # fmt: skip
        self.views = lambda image: [view(image), view(image)]
        self.teacher, self.student = self.method.backbone.teacher, self.method.backbone.student

    def loss(self, views, at: int) -> torch.Tensor:
        self.epoch = at // self.steps_per_epoch
        return self.method(global_views=views).loss

    def update(self, loss: torch.Tensor, at: int) -> None:
        warm_up = max(1, self.steps // 10)
        done = (at - warm_up) / max(1, self.steps - warm_up)
        rate = (at + 1) / warm_up if at < warm_up else 0.5 * (1 + math.cos(math.pi * done))
        for group in self.optimizer.param_groups:
            group["lr"] = self.PEAK * rate
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for averaged in (self.method.backbone, self.method.cls_head, self.method.patch_head):
            averaged.update_ema_coefficient(self.epoch, self.epochs)
            averaged.update_teacher()


class LightlyDino(Peer):
    def __init__(self, model: str, *lengths: int) -> None:
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead
        from lightly.transforms.dino_transform import DINOTransform

        super().__init__(model, *lengths)
        width = self.shape["embed_dim"]
        self.student = timm_model(model, dynamic_img_size=True)
        self.student_head = DINOProjectionHead(width, 512, 64, 2048, freeze_last_layer=1)
        self.teacher = frozen(copy.deepcopy(self.student))
        self.teacher_head = frozen(DINOProjectionHead(width, 512, 64, 2048))
        self.criterion = DINOLoss(output_dim=2048, warmup_teacher_temp_epochs=5)
        trained = [*self.student.parameters(), *self.student_head.parameters()]
        self.optimizer = torch.optim.Adam(trained, lr=0.001)
        self.views = DINOTransform(**crops(self.shape))

    def loss(self, views, at: int) -> torch.Tensor:
        from lightly.models.utils import update_momentum
        from lightly.utils.scheduler import cosine_schedule

        epoch = at // self.steps_per_epoch
        momentum = cosine_schedule(min(epoch, self.epochs - 1), max(2, self.epochs), 0.996, 1.0)
        update_momentum(self.student, self.teacher, m=momentum)
        update_momentum(self.student_head, self.teacher_head, m=momentum)
        with torch.no_grad():
            targets = [self.teacher_head(self.teacher(view)) for view in views[:2]]
        outputs = [self.student_head(self.student(view)) for view in views]
        return self.criterion(targets, outputs, epoch=epoch)

    def update(self, loss: torch.Tensor, at: int) -> None:
        loss.backward()
        self.student_head.cancel_last_layer_gradients(current_epoch=at // self.steps_per_epoch)
        self.optimizer.step()
        self.optimizer.zero_grad()


class LightlyIbot(Peer):
    PROTOTYPES = 8192

    def __init__(self, model: str, *lengths: int) -> None:
        from lightly.loss import DINOLoss, IBOTPatchLoss
        from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
        from lightly.models.utils import update_drop_path_rate
        from lightly.transforms.ibot_transform import IBOTTransform

        super().__init__(model, *lengths)
        # init_values of the example, LayerScale of 1e-5, stays
        vit = timm_model(model, dynamic_img_size=True, init_values=1e-5)
        self.masked_teacher = MaskedVisionTransformerTIMM(vit=vit, antialias=False, pos_embed_initialization="skip")
        self.masked_student = copy.deepcopy(self.masked_teacher)
        update_drop_path_rate(self.masked_student.vit, drop_path_rate=0.1, mode="uniform")
        frozen(self.masked_teacher).eval()
        width = self.shape["embed_dim"]
        self.student_head = DINOProjectionHead(input_dim=width, output_dim=self.PROTOTYPES, norm_last_layer=False)
        self.teacher_head = frozen(DINOProjectionHead(input_dim=width, output_dim=self.PROTOTYPES)).eval()
        self.cls_criterion = DINOLoss(output_dim=self.PROTOTYPES, teacher_temp=0.07)
        self.patch_criterion = IBOTPatchLoss(output_dim=self.PROTOTYPES, teacher_temp=0.07)
        trained = [*self.masked_student.parameters(), *self.student_head.parameters()]
        self.optimizer = torch.optim.AdamW(trained, lr=0.001)
        self.views = IBOTTransform(**crops(self.shape))
        self.teacher, self.student = self.masked_teacher.vit, self.masked_student.vit

    def loss(self, views, at: int) -> torch.Tensor:
        from lightly.models.utils import random_block_mask
        from lightly.utils.scheduler import linear_warmup_schedule

        whole, local = torch.cat(views[:2]), torch.cat(views[2:])
        grid = self.teacher.patch_embed.grid_size
        blocks = random_block_mask(size=(len(whole), *grid), device=whole.device)
        mask = torch.cat([torch.zeros(len(whole), 1, dtype=torch.bool), blocks.flatten(start_dim=1)], 1)
        with torch.no_grad():
            tokens = self.masked_teacher.encode(whole)
            targets = self.teacher_head(tokens[:, 0])
            patch_targets = self.teacher_head(tokens[mask])
        tokens = self.masked_student.encode(whole, mask=mask)
        outputs = self.student_head(tokens[:, 0])
        patch_outputs = self.student_head(tokens[mask])
        local_outputs = self.student_head(self.masked_student.encode(local, mask=None)[:, 0])
        # 30 of the example's 50 epochs
        temperature = linear_warmup_schedule(step=at, warmup_steps=int(0.6 * self.steps), start_value=0.04, end_value=0.07)
        outputs = torch.cat([outputs, local_outputs]).chunk(len(views))
        loss = self.cls_criterion(teacher_out=targets.chunk(2), student_out=outputs, teacher_temp=temperature)
        return loss + self.patch_criterion(
            teacher_out=patch_targets, student_out=patch_outputs, mask=blocks, teacher_temp=temperature
        )

    def update(self, loss: torch.Tensor, at: int) -> None:
        from lightly.models.utils import update_momentum
        from lightly.utils.scheduler import cosine_schedule

        loss.backward()
        self.student_head.cancel_last_layer_gradients(at // self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["weight_decay"] = cosine_schedule(step=at, max_steps=self.steps, start_value=0.04, end_value=0.4)
        self.optimizer.step()
        self.optimizer.zero_grad()
        momentum = cosine_schedule(step=at, max_steps=self.steps, start_value=0.992, end_value=1.0)
        update_momentum(self.masked_student, self.masked_teacher, m=momentum)
        update_momentum(self.student_head, self.teacher_head, m=momentum)


PEERS = {"reference": Reference, "lightly-dino": LightlyDino, "lightly-ibot": LightlyIbot}


def seed_worker(_worker: int) -> None:
    random.seed(torch.initial_seed() % 2**32)
    torch.set_num_threads(1)


def save(vit, path: Path) -> None:
    save_file({name: value.detach().clone().contiguous() for name, value in vit.state_dict().items()}, path)


def main(flags) -> None:
    random.seed(flags.seed)
    torch.manual_seed(flags.seed)
    torch.set_num_threads(flags.threads)
    images = Images(flags.data, None)
    per_epoch = len(images) // flags.batch_size
    peer = PEERS[flags.peer](flags.model, flags.steps, per_epoch)
    images.views = peer.views
    many = {"num_workers": flags.threads, "worker_init_fn": seed_worker, "persistent_workers": True}
    loader = DataLoader(images, flags.batch_size, shuffle=True, drop_last=True, **many)

    def batches():
        while True:
            yield from loader

    flags.out.mkdir(parents=True, exist_ok=True)
    snapshots = {flags.steps * part // flags.snapshots for part in range(1, flags.snapshots)}
    seconds, losses, started = [], [], time.perf_counter()
    for at, views in zip(range(flags.steps), batches()):
        with torch.autocast("cpu", torch.bfloat16, enabled=flags.precision == "bf16"):
            loss = peer.loss(views, at)
        peer.update(loss, at)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise SystemExit(f"the loss of step {at} is {losses[-1]}")
        if at + 1 in snapshots:
            save(peer.teacher, flags.out / f"teacher-{at + 1}.safetensors")
        now = time.perf_counter()
        seconds.append(now - started)
        started = now
    save(peer.teacher, flags.out / "teacher.safetensors")
    save(peer.student, flags.out / "student.safetensors")
    print(json.dumps({"losses": losses, "step_s": seconds}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--model", choices=SHAPES, default="vit-ti-8")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--snapshots", type=int, default=1, help="backbones to write over the run, the last one included")
    main(parser.parse_args())
