"""Exports the published networks that configs/papers name, beside the cards of models/papers.

    python scripts/export_papers.py MODEL --weights FILE --code FOLDER [--autoencoder FOLDER] [--out FOLDER] [--random]

MODEL is the name of a folder of models/papers, `--weights` the published file and `--code` a clone of the authors' repository;
both are named on the card. None of it belongs to this repository. A checkpoint is a pickle, which can run code: take it from its
authors. `--autoencoder` is the folder of sd-vae-ft-ema, as diffusers saves it, for dit-256.

Every graph is run by ONNX Runtime beside torch on batches of 1 and 3 before it counts. Weights of more than 1.5 GB lie in a file
beside the graph. The SHA-256 of all files are printed: those of the graphs depend on the version of torch.

`--random` needs no weights: it takes an untrained network of the same class with few channels, and tests that the code and the export
fit together. Its files go to `--out`, which must be given.
"""

import argparse
import hashlib
import pathlib
import pickle
import sys

import numpy as np
import onnxruntime
import torch
import yaml
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parent.parent
LARGE = 1.5e9


class Edm(nn.Module):
    """The denoiser of EDM's preconditioning, in single precision throughout."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, sigma, class_labels=None):
        return self.net(x, sigma, class_labels, force_fp32=True)


class Map(nn.Module):
    """F2D2's average velocity and its head, whose logarithms do not take a time of 0."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t, d):
        velocity, divergence = self.net(x, t.clamp(1e-9, 1.0), d)
        return velocity, divergence.flatten()


class Velocity(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t):
        return self.net(x, t.clamp(1e-9, 1.0))


class Codes(nn.Module):
    """The nearest code of each latent, and the decoder of these."""

    def __init__(self, codes, after, decoder):
        super().__init__()
        self.codes, self.after, self.decoder = nn.Parameter(codes, requires_grad=False), after, decoder

    def forward(self, latent):
        rows = latent.permute(0, 2, 3, 1)
        distances = (self.codes**2).sum(1) - 2 * rows @ self.codes.T
        return self.decoder(self.after(self.codes[distances.argmin(-1)].permute(0, 3, 1, 2)))


class Decode(nn.Module):
    """The decoder of diffusers' autoencoder."""

    def __init__(self, autoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latent):
        return self.autoencoder.decode(latent, return_dict=False)[0]


def pickled(weights):
    with open(weights, "rb") as file:
        return pickle.load(file)["ema"]


def edm(weights, size, classes, kind):
    if weights is not None:
        return pickled(weights)
    from training.networks import EDMPrecond
    more = dict(channel_mult=[1, 2], attn_resolutions=[size // 2], num_blocks=1, model_channels=32)
    more |= dict(channel_mult_noise=1, resample_filter=[1, 1], augment_dim=9) if kind == "SongUNet" else {}
    return EDMPrecond(size, 3, classes, model_type=kind, **more)


def edm_cifar10_uncond(args):
    return {"denoiser.onnx": (Edm(edm(args.weights, 32, 0, "SongUNet")), {"x": (3, 32, 32), "sigma": ()}, ["denoised"])}


def edm_cifar10_cond(args):
    inputs = {"x": (3, 32, 32), "sigma": (), "class_labels": (10,)}
    return {"denoiser.onnx": (Edm(edm(args.weights, 32, 10, "SongUNet")), inputs, ["denoised"])}


def edm_imagenet64(args):
    inputs = {"x": (3, 64, 64), "sigma": (), "class_labels": (1000,)}
    return {"denoiser.onnx": (Edm(edm(args.weights, 64, 1000, "DhariwalUNet")), inputs, ["denoised"])}


def improved_cifar10(args):
    from improved_diffusion.unet import UNetModel
    small = args.weights is None
    net = UNetModel(in_channels=3, model_channels=32 if small else 128, out_channels=6, num_res_blocks=1 if small else 3,
                    attention_resolutions=(2, 4), dropout=0.3, channel_mult=(1, 2) if small else (1, 2, 2, 2), num_heads=4,
                    use_scale_shift_norm=True)
    if not small:
        net.load_state_dict(torch.load(args.weights, map_location="cpu", weights_only=True))
    return {"unet.onnx": (net, {"x": (3, 32, 32), "timesteps": ()}, ["out"])}


def dit_256(args):
    from diffusers import AutoencoderKL
    from models import DiT
    if args.weights is None:
        net = DiT(depth=2, hidden_size=64, num_heads=2)
        vae = AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
                            block_out_channels=[8] * 4, norm_num_groups=4, latent_channels=4)
    else:
        net = DiT(depth=28, hidden_size=1152, patch_size=2, num_heads=16)
        net.load_state_dict(torch.load(args.weights, map_location="cpu", weights_only=True))
        if args.autoencoder is None:
            raise SystemExit("dit-256 needs --autoencoder, the folder of sd-vae-ft-ema")
        vae = AutoencoderKL.from_pretrained(args.autoencoder)
    return {"dit.onnx": (net, {"x": (4, 32, 32), "t": (), "y": 1001}, ["out"]),
            "decoder.onnx": (Decode(vae), {"latent": (4, 32, 32)}, ["image"])}


def averaged(state, net):
    """The averaged weights of a LatentDiffusion: their names are those of the network without dots."""
    return {name: state["model_ema." + f"diffusion_model.{name}".replace(".", "")] for name in net.state_dict()}


def ldm_lsun_bedrooms(args):
    from ldm.modules.diffusionmodules.model import Decoder
    from ldm.modules.diffusionmodules.openaimodel import UNetModel
    small = args.weights is None
    unet = UNetModel(image_size=64, in_channels=3, out_channels=3, model_channels=32 if small else 224, num_head_channels=32,
                     attention_resolutions=[2] if small else [8, 4, 2], num_res_blocks=1 if small else 2,
                     channel_mult=[1, 2] if small else [1, 2, 3, 4])
    decoder = Decoder(ch=32 if small else 128, out_ch=3, ch_mult=(1, 2, 4), num_res_blocks=1 if small else 2, attn_resolutions=[],
                      in_channels=3, resolution=256, z_channels=3, double_z=False)
    after, codes = nn.Conv2d(3, 3, 1), torch.randn(64, 3)
    if not small:
        state = torch.load(args.weights, map_location="cpu", weights_only=False)["state_dict"]
        unet.load_state_dict(averaged(state, unet))
        first = {k.removeprefix("first_stage_model."): v for k, v in state.items() if k.startswith("first_stage_model.")}
        decoder.load_state_dict({k.removeprefix("decoder."): v for k, v in first.items() if k.startswith("decoder.")})
        after.load_state_dict({k.removeprefix("post_quant_conv."): v for k, v in first.items() if k.startswith("post_quant_conv.")})
        codes = first["quantize.embedding.weight"]
    return {"unet.onnx": (unet, {"x": (3, 64, 64), "timesteps": ()}, ["noise"]),
            "decoder.onnx": (Codes(codes, after, decoder), {"latent": (3, 64, 64)}, ["image"])}


def f2d2(args, name, kind):
    if args.weights is not None:
        return pickled(args.weights)
    import training.experimental.networks as theirs
    return getattr(theirs, name)(32, 3, model_type=kind, model_channels=32, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[16],
                                 embedding_type="positional", encoder_type="standard", decoder_type="standard",
                                 channel_mult_noise=1, resample_filter=[1, 1])


def f2d2_cifar10(args):
    net = Map(f2d2(args, "ShortCut_Net", "SongUNet_ctm_scalar"))
    return {"map.onnx": (net, {"x": (3, 32, 32), "t": (), "d": ()}, ["velocity", "divergence"])}


def fm_cifar10(args):
    return {"velocity.onnx": (Velocity(f2d2(args, "FM_Net", "SongUNet")), {"x": (3, 32, 32), "t": ()}, ["velocity"])}


MODELS = {
    "edm-cifar10-uncond": edm_cifar10_uncond,
    "edm-cifar10-cond": edm_cifar10_cond,
    "edm-imagenet64": edm_imagenet64,
    "improved-cifar10-vlb": improved_cifar10,
    "improved-cifar10-hybrid": improved_cifar10,
    "dit-256": dit_256,
    "ldm-lsun-bedrooms": ldm_lsun_bedrooms,
    "f2d2-cifar10": f2d2_cifar10,
    "fm-cifar10": fm_cifar10,
}


def awake(net):
    """Layers that begin at zero get values, so that the output depends on every input."""
    with torch.no_grad():
        for p in net.parameters():
            if not p.any():
                p.normal_(std=0.05)
    return net


def batch(inputs, count, generator):
    """Random states, times between 0 and 1, and classes: rows with a one, or whole numbers below the number given."""
    def one(name, shape):
        if isinstance(shape, int):
            return torch.randint(shape, (count,), generator=generator)
        if name == "class_labels":
            return torch.eye(shape[0])[torch.randint(shape[0], (count,), generator=generator)]
        draw = torch.randn if shape else torch.rand
        return draw((count, *shape), generator=generator)
    return [one(name, shape) for name, shape in inputs.items()]


def write(net, path, inputs, outputs):
    net = net.eval().float().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    example = batch(inputs, 3, generator)
    axis = torch.export.Dim("N")
    large = sum(p.numel() * p.element_size() for p in net.parameters()) > LARGE
    program = torch.onnx.export(net, tuple(example), input_names=list(inputs), output_names=outputs, opset_version=18, dynamo=True,
                                dynamic_shapes=tuple({0: axis} for _ in example), external_data=large, verbose=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path), external_data=large)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        example = batch(inputs, count, generator)
        with torch.no_grad():
            want = net(*example)
        want = want if isinstance(want, tuple) else (want,)
        got = session.run(outputs, {n: a.numpy() for n, a in zip(inputs, example)})
        gap = max(float(np.abs(w.numpy() - g).max() / w.abs().max()) for w, g in zip(want, got))
        if not gap < 1e-4:
            raise SystemExit(f"{path}: ONNX Runtime differs from torch by {gap:.1e} of the largest value")
        print(f"{path.name}: within {gap:.1e} of torch on a batch of {count}")


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--weights", type=pathlib.Path)
    parser.add_argument("--code", type=pathlib.Path, required=True)
    parser.add_argument("--autoencoder", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--random", action="store_true")
    args = parser.parse_args()
    if args.random == (args.weights is not None) or args.random and args.out is None:
        parser.error("give either --weights, or --random with --out")
    sys.path.insert(0, str(args.code.resolve()))
    torch.manual_seed(0)
    out = args.out or ROOT / "models/papers" / args.model
    card = yaml.safe_load((ROOT / "models/papers" / args.model / "card.yaml").read_text())
    graphs = MODELS[args.model](args)
    named = {card["network"]["file"], *([card["latent"]["decoder"]["file"]] if "latent" in card else [])}
    assert named == set(graphs), f"the card names {named}"
    if args.weights:
        print(f"{args.weights}: SHA-256 {sha256(args.weights)}")
    for file, (net, inputs, outputs) in graphs.items():
        write(awake(net) if args.random else net, out / file, inputs, outputs)
        print(f"{out / file}: SHA-256 {sha256(out / file)}")


if __name__ == "__main__":
    main()
