"""Times the Frechet distance of two .npy files of features with numpy and scipy, for comparison with benches/frechet.rs.

It uses the fastest correct form there: covariances by numpy.cov in float64, and the trace of the root from the
eigenvalues of the symmetric S1^1/2 S2 S1^1/2 (two symmetric eigenproblems instead of the root of a product).
"""

import resource
import sys
import time

import numpy as np
import scipy.linalg


def main():
    began = time.perf_counter()
    (m1, s1), (m2, s2) = (moments(path) for path in sys.argv[1:3])
    values, vectors = scipy.linalg.eigh(s1, driver="evd")
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = scipy.linalg.eigvalsh(root @ s2 @ root, driver="evd")
    value = ((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.sqrt(np.clip(inner, 0, None)).sum()
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
    print(f"frechet {value!r}\n{seconds:.1f} s, at most {memory} MB of memory")


def moments(path):
    features = np.load(path)
    return features.mean(0, dtype=np.float64), np.cov(features, rowvar=False, dtype=np.float64)


if __name__ == "__main__":
    main()
