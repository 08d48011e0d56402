"""Exports the field's feature extractors to ONNX, as the presets in extractors/ expect them.

    python scripts/export_extractors.py inception-v3 | inception-v3-clean | dinov2-vitl14 | clip-vitl14-336
        [--weights FILE] [--out FOLDER] [--random]

- inception-v3: torch-fidelity's port of the Inception-v3 of 2015-12-05 (pip install torch-fidelity torchvision). Its
  own resizing and scaling are left out, because the preset describes them. `features` are the 2048 pooled numbers,
  `logits` the 1008 without their bias. inception-v3-clean is the same file.
- dinov2-vitl14: facebookresearch/dinov2 by torch.hub; `features` is the class token after the last norm.
- clip-vitl14-336: OpenAI's weights in torch-fidelity's copy of their network, in float32; `features` is the projected
  image embedding.

Weights are downloaded once into torch's cache, unless `--weights` names them. Their SHA-256 is compared with the
preset's. ONNX Runtime runs every export beside torch in float64 on three random images before the file is written. The
SHA-256 of an export depends on the version of torch. It is printed, and recorded with the hash of the weights in
FILE.onnx.json, which the program reads beside FILE.onnx.

`--random` takes untrained weights (and for CLIP two layers). It tests the export on a machine that can download
nothing. It writes FILE.random.onnx, so that the result is never taken for the real one.
"""

import argparse
import hashlib
import json
import pathlib

import numpy as np
import onnxruntime
import torch
import yaml

ADDRESSES = {
    "weights-inception-2015-12-05-6726825d.pth": "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/",
    "dinov2_vitl14_pretrain.pth": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/",
    "ViT-L-14-336px.pt": "https://openaipublic.azureedge.net/clip/models/"
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/",
}


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def published(name, given):
    """The weights that the preset names, or an end."""
    preset = pathlib.Path(__file__).parent.parent / "extractors" / f"{name}.yaml"
    weights = yaml.safe_load(preset.read_text())["weights"]
    path = given or pathlib.Path(torch.hub.get_dir()) / "checkpoints" / weights["file"]
    if not path.is_file() and not given:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(ADDRESSES[weights["file"]] + weights["file"], path)
    found = sha256(path)
    if found != weights["sha256"]:
        raise SystemExit(f"{path}: its SHA-256 is {found}, but {preset} names {weights['sha256']}")
    return path


class Inception(torch.nn.Module):
    """From images of 3 x 299 x 299 scaled to [-1, 127/128] on."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        n = self.network
        stem = [n.Conv2d_1a_3x3, n.Conv2d_2a_3x3, n.Conv2d_2b_3x3, n.MaxPool_1, n.Conv2d_3b_1x1, n.Conv2d_4a_3x3, n.MaxPool_2]
        mixed = [getattr(n, f"Mixed_{name}") for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")]
        for layer in stem + mixed:
            x = layer(x)
        features = torch.flatten(n.AvgPool(x), 1)
        return features, features.mm(n.fc.weight.T)


def inception(weights):
    import torch_fidelity.feature_extractor_inceptionv3 as theirs

    if weights is None:
        # Their constructor loads weights; given its own initial ones, it has nothing to download.
        load = torch.load
        kept = theirs.FeatureExtractorInceptionV3.load_state_dict
        torch.load = lambda *_, **__: {}
        theirs.FeatureExtractorInceptionV3.load_state_dict = lambda *_, **__: None
        try:
            network = theirs.FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=__file__)
            # Initial weights of torch let activations die out over so many layers.
            for layer in network.modules():
                if isinstance(layer, torch.nn.Conv2d):
                    torch.nn.init.kaiming_normal_(layer.weight)
        finally:
            torch.load, theirs.FeatureExtractorInceptionV3.load_state_dict = load, kept
    else:
        network = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights))
    return Inception(network.eval()), 299, ["features", "logits"]


def dinov2(weights):
    network = torch.hub.load("facebookresearch/dinov2", "dinov2_vitl14", pretrained=False)
    if weights:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval(), 224, ["features"]


def clip(weights):
    from torch_fidelity.feature_extractor_clip import CLIPVisual

    network = CLIPVisual(768, 336, 24 if weights else 2, 1024, 14)
    if weights:
        theirs = torch.jit.load(weights, map_location="cpu").state_dict()
        network.load_state_dict({key: value.float() for key, value in theirs.items() if key.startswith("visual.")})
    return network.visual.eval(), 336, ["features"]


EXTRACTORS = {
    "inception-v3": (inception, "inception-v3"),
    "inception-v3-clean": (inception, "inception-v3"),
    "dinov2-vitl14": (dinov2, "dinov2-vitl14"),
    "clip-vitl14-336": (clip, "clip-vitl14-336"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=EXTRACTORS)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("extractors"))
    parser.add_argument("--weights", type=pathlib.Path)
    parser.add_argument("--random", action="store_true")
    given = parser.parse_args()
    build, stem = EXTRACTORS[given.name]
    torch.manual_seed(0)
    weights = None if given.random else published(given.name, given.weights)
    network, side, outputs = build(weights)
    # The export gives a module its own mode back, and all parts with it.
    network.eval().requires_grad_(False)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{stem}{'.random' if given.random else ''}.onnx"
    part = path.with_suffix(".part.onnx")
    images = torch.rand(3, 3, side, side) * 2 - 1
    torch.onnx.export(network, (images[:2],), str(part), input_names=["images"], output_names=outputs, opset_version=17,
                      dynamic_axes={name: {0: "N"} for name in ["images", *outputs]}, dynamo=False)
    session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])
    theirs = network.double()(images.double())
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    for name, ours, want in zip(outputs, session.run(outputs, {"images": images.numpy()}), theirs, strict=True):
        worst = float(np.abs(ours - want.numpy()).max() / np.abs(want.numpy()).max())
        print(f"{name} {ours.shape}: ONNX Runtime and torch in float64 differ by {worst:.1e} of the largest")
        assert worst < 1e-4, name
    part.replace(path)
    record = {"sha256": sha256(path), "weights_sha256": sha256(weights) if weights else "", "torch": torch.__version__}
    pathlib.Path(f"{path}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{path}\nsha256: {record['sha256']}")


if __name__ == "__main__":
    main()
