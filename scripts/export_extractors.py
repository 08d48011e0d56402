"""Exports the field's feature extractors to ONNX, as the presets in extractors/ expect them.

    python scripts/export_extractors.py inception-v3 | inception-v3-clean | dinov2-vitl14 | clip-vitl14-336 [--out FOLDER] [--random]

- inception-v3: torch-fidelity's port of the Inception-v3 of 2015-12-05 (pip install torch-fidelity torchvision), whose
  weights it downloads; its own resizing and scaling are left out, for the preset says them. `features` are the 2048
  pooled numbers, `logits` the 1008 without their bias. inception-v3-clean is the same file.
- dinov2-vitl14: facebook/dinov2-large by transformers; `features` is the class token after the last norm.
- clip-vitl14-336: openai/clip-vit-large-patch14-336 by transformers; `features` is the projected image embedding.

Every export is run by ONNX Runtime beside torch on three random images before it is written, and its SHA-256 is printed for
the preset's `sha256`. `--random` takes untrained weights (and for the transformers two layers): it tries the mechanics where nothing
can be downloaded, and writes FILE.random.onnx so that it is never taken for the real one.
"""

import argparse
import hashlib
import pathlib

import numpy as np
import onnxruntime
import torch


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


def inception(random):
    import torch_fidelity.feature_extractor_inceptionv3 as theirs

    if random:
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
        network = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    return Inception(network.eval()), 299, ["features", "logits"]


class Output(torch.nn.Module):
    def __init__(self, network, name):
        super().__init__()
        self.network, self.name = network, name

    def forward(self, x):
        out = getattr(self.network(pixel_values=x), self.name)
        return out


def dinov2(random):
    from transformers import Dinov2Config, Dinov2Model

    if random:
        config = Dinov2Config(hidden_size=1024, num_hidden_layers=2, num_attention_heads=16, image_size=518, patch_size=14)
        network = Dinov2Model(config)
    else:
        network = Dinov2Model.from_pretrained("facebook/dinov2-large")
    # The pooled output is the class token after the last norm.
    return Output(network.eval(), "pooler_output"), 224, ["features"]


def clip(random):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    if random:
        config = CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=2, num_attention_heads=16,
                                  projection_dim=768, image_size=336, patch_size=14)
        network = CLIPVisionModelWithProjection(config)
    else:
        network = CLIPVisionModelWithProjection.from_pretrained("openai/clip-vit-large-patch14-336")
    return Output(network.eval(), "image_embeds"), 336, ["features"]


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
    parser.add_argument("--random", action="store_true")
    given = parser.parse_args()
    build, stem = EXTRACTORS[given.name]
    torch.manual_seed(0)
    network, side, outputs = build(given.random)
    network.requires_grad_(False)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{stem}{'.random' if given.random else ''}.onnx"
    part = path.with_suffix(".part.onnx")
    images = torch.rand(3, 3, side, side) * 2 - 1
    torch.onnx.export(network, (images[:2],), str(part), input_names=["images"], output_names=outputs, opset_version=17,
                      dynamic_axes={name: {0: "N"} for name in ["images", *outputs]}, dynamo=False)
    session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])
    theirs = network(images)
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    for name, ours, want in zip(outputs, session.run(outputs, {"images": images.numpy()}), theirs, strict=True):
        worst = float(np.abs(ours - want.numpy()).max() / np.abs(want.numpy()).max())
        print(f"{name} {ours.shape}: ONNX Runtime and torch differ by {worst:.1e} of the largest")
        assert worst < 1e-4, name
    part.replace(path)
    print(f"{path}\nsha256: {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
