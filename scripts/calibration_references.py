"""Writes tests/data/calibration/sbi.npz: ranks, p-values and curves of the package sbi for known draws.

    python scripts/calibration_references.py            # with sbi==0.27.0, see requirements-sbi.txt

One hundred observations of parameters theta ~ N(0, I) with Gaussian noise, and forty draws each from their posterior
with 0.8 of its width. sbi's functions get these draws through an object that returns them, and compute in float64.

    theta, draws, references            [N, D], [L, N, D], [N, D]: the reference points are sbi's own
    log_prob, draw_log_prob             [N], [L, N]: log-densities that expected coverage ranks
    ranks, coverage_ranks               run_sbc with "marginals" and with the log-densities
    ks_p, coverage_ks_p                 the p-values of check_sbc, of scipy in float64; check_sbc rounds them to float32
    ecp, alpha, area, tarp_p            run_tarp and check_tarp: `alpha` are the edges of a histogram of the coverage
                                        values, from the smallest to the largest; `tarp_p` compares the two curves
"""

import numpy as np
import torch
from sbi.diagnostics import check_sbc, check_tarp, run_sbc, run_tarp
from sbi.diagnostics.tarp import get_tarp_references
from scipy.stats import kstest, uniform

from common import ROOT

N, L, D = 100, 40, 2
NOISE = np.array([0.5, 1.2])


class KnownDraws:
    """What run_sbc and run_tarp ask of a posterior: the same draws whenever they ask."""

    def __init__(self, draws):
        self.draws = draws

    def sample_batched(self, shape, x, show_progress_bars=False):
        assert tuple(shape) == (len(self.draws),) and len(x) == self.draws.shape[1]
        return self.draws


def main():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    rng = np.random.default_rng(7)
    theta = rng.normal(size=(N, D))
    x = theta + NOISE * rng.normal(size=(N, D))
    mean, width = x / (1 + NOISE**2), 0.8 * np.sqrt(NOISE**2 / (1 + NOISE**2))
    draws = mean + width * rng.normal(size=(L, N, D))
    # Draws that equal the true parameter show how ties are counted.
    draws[0, :5, 0] = theta[:5, 0]
    thetas, xs, samples = map(torch.from_numpy, (theta, x, draws))
    posterior = KnownDraws(samples)

    def log_density(values, observation):
        at = observation / torch.from_numpy(1 + NOISE**2)
        return -0.5 * (((values - at) / torch.from_numpy(width)) ** 2).sum(-1)

    ranks, first = run_sbc(thetas, xs, posterior, num_posterior_samples=L, show_progress_bar=False)
    coverage, _ = run_sbc(thetas, xs, posterior, num_posterior_samples=L, reduce_fns=log_density,
                          show_progress_bar=False)
    own = check_sbc(ranks, thetas, first, num_posterior_samples=L)["ks_pvals"].numpy()

    def ks(values):
        return np.array([kstest(r, uniform(loc=0, scale=L).cdf)[1] for r in values.numpy().T])

    assert np.allclose(own, ks(ranks), rtol=1e-6)
    references = get_tarp_references(thetas)
    ecp, alpha = run_tarp(thetas, xs, posterior, references=references, num_posterior_samples=L,
                          show_progress_bar=False)
    area, tarp_p = check_tarp(ecp, alpha)
    np.savez(
        ROOT / "tests/data/calibration/sbi.npz",
        theta=theta, draws=draws, references=references.numpy(),
        log_prob=log_density(thetas, xs).numpy(), draw_log_prob=log_density(samples, xs).numpy(),
        ranks=ranks.numpy(), coverage_ranks=coverage.numpy()[:, 0], ks_p=ks(ranks), coverage_ks_p=ks(coverage),
        ecp=ecp.numpy(), alpha=alpha.numpy(), area=area, tarp_p=tarp_p)
    print("ks", ks(ranks), ks(coverage), "area", area, "p", tarp_p)


if __name__ == "__main__":
    main()
