"""The polynomials of gelu.rs: a tail of the normal distribution, and the slope of gelu in it.

Run with:  pip install numpy scipy && python make_gelu.py

Lawson's algorithm: least squares whose weights grow where the error is large, until its largest is the least (Lawson 1961).
"""

import numpy as np
from numpy.polynomial import chebyshev
from scipy.special import erfc

END, DEGREE = 5.75, 15


def tail(a):
    return erfc(a / np.sqrt(2)) / 2


def slope(a):
    return tail(a) - a * np.exp(-a * a / 2) / np.sqrt(2 * np.pi)


def fit(f, weight):
    """The coefficients, lowest first, of p with (END - a) p(2 a / END - 1) near f(a), and the largest of weight times the error."""
    t = np.cos(np.pi * (np.arange(4000) + 0.5) / 4000)
    a = (t + 1) * END / 2
    terms = chebyshev.chebvander(t, DEGREE) * (END - a)[:, None]
    share, best = np.ones(len(a)), (np.inf, None)
    for _ in range(600):
        scale = np.sqrt(share) * weight(a)
        found = np.linalg.lstsq(terms * scale[:, None], f(a) * scale, rcond=None)[0]
        error = np.abs(weight(a) * (terms @ found - f(a)))
        best = min(best, (error.max(), found), key=lambda pair: pair[0])
        share = share * error / (share * error).sum()
    return chebyshev.cheb2poly(best[1]), best[0]


# What is asked of the tail is a times it, but near 0 a share of it.
for name, f, weight in (("TAIL", tail, lambda a: np.maximum(a, 0.5)), ("SLOPE", slope, np.ones_like)):
    found, error = fit(f, weight)
    print(f"// off by at most {error:.1e}")
    print(f"const {name}: [f32; {DEGREE + 1}] = [{', '.join(f'{number:.7e}' for number in found)}];")
