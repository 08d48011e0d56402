"""Copies the files that configs/mnist.yaml and configs/steindiff-mnist.yaml name to their places, and checks their SHA-256.

    python scripts/place_mnist.py --from FOLDER [--link]

None of the files belongs to this repository (models/ddpm-mnist/README.md names their authors), so git ignores the
copies. The script needs only the standard library. It finds the files by name, at any depth below the given folder.
"""

import argparse
import hashlib
import os
import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

FILES = {
    "models/ddpm-mnist/mnist.onnx": "f32747668c4e345257eb234d7195ecf4cb13e0771b1f78bc68224e48316d0ed0",
    "models/ddpm-fashion/fashion.onnx": "37b48f3b773eff4eff3387c422f9ee7dfe90bd27140a0ec218c6f4f45a68ac1a",
    "data/t10k-images-idx3-ubyte.gz": "422aca1f22120e5c11c5a014e020c05d24f247d5c401979476924810fd9fb271",
    "data/train-images-idx3-ubyte.gz": "06fbe7c3931daa1b3e01c7109d997f04e30ece655a543c916424761004264a82",
    "data/fashion_900.npz": "2547a18b9b5136d55c9492bf046028527a8f1ee84e9620916801f38bb632cc2b",
    "data/lenet.onnx": "cf8bd38f138040709d4b8fdbdbd685c37af42ad749722b25816e2c18528c67d1",
}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def place(source, target, link):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if link:
        target.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folder", type=pathlib.Path, required=True)
    parser.add_argument("--link", action="store_true", help="symbolic links instead of copies")
    args = parser.parse_args()
    there = {}
    for folder, _, names in os.walk(args.folder):
        for name in names:
            there.setdefault(name, []).append(pathlib.Path(folder) / name)
    missing = []
    for name, expected in FILES.items():
        target = ROOT / name
        found = next((p for p in there.get(target.name, []) if sha256(p) == expected), None)
        if found is None:
            missing.append(f"{target.name}, SHA-256 {expected}")
            continue
        place(found, target, args.link)
        print(name)
    for line in missing:
        print(f"not below {args.folder}: {line}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
