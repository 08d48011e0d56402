"""Writes the other inputs of configs/steindiff-mnist.yaml: MNIST as floats, and with noise in it.

    python scripts/place_mnist.py --from FOLDER && python scripts/noised_mnist.py

- data/mnist-noised-499.npy: the first 1,024 training images at index 499 of 1,000 linear betas,
  α (X/127.5 − 1) + √(1 − α²) ε with ε from numpy's default_rng(0).
- data/mnist-floor.npy: the next 1,024, clean, for the distance of data from data.
- data/mnist-test.npy: the first 2,500 test images as X/127.5 − 1. They become exact bytes again when features are
  taken; dequantized images do not.

git keeps none of them.
"""

import gzip
import pathlib

import numpy as np

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
COUNT, TEST, INDEX = 1024, 2500, 499


def read(name):
    raw = np.frombuffer(gzip.open(DATA / name).read(), np.uint8, offset=16)
    return raw.reshape(-1, 1, 28, 28) / 127.5 - 1


def main():
    images = read("train-images-idx3-ubyte.gz")[: 2 * COUNT]
    betas = np.linspace(1e-4, 0.02, 1000)
    alpha = np.sqrt(np.prod(1 - betas[: INDEX + 1]))
    noise = np.random.default_rng(0).standard_normal((COUNT, 1, 28, 28))
    noised = alpha * images[:COUNT] + np.sqrt(1 - alpha**2) * noise
    np.save(DATA / f"mnist-noised-{INDEX}.npy", noised.astype(np.float32))
    np.save(DATA / "mnist-floor.npy", images[COUNT:].astype(np.float32))
    np.save(DATA / "mnist-test.npy", read("t10k-images-idx3-ubyte.gz")[:TEST].astype(np.float32))
    print(f"index {INDEX}: alpha {alpha:.6f}, sigma {np.sqrt(1 - alpha**2):.6f}")


if __name__ == "__main__":
    main()
