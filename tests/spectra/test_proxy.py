import numpy as np
import pandas as pd
import pytest

from kappa_lib.errors import InputError
from kappa_lib.spectra import proxy
from kappa_lib.theory.theorem import am_gm_gap


def table_of(spectra):
    """κ table of named spectra: a list of (type, s)."""
    return pd.DataFrame(
        {
            "type": kind,
            "rows": len(s),
            "cols": len(s) + 3,
            "rank_deficiency": 0,
            "kappa": s.max() / s.min(),
            "frobenius": float(np.sqrt(s @ s)),
            "log_volume": float(np.log(s).sum()),
        }
        for kind, s in spectra
    )


def test_volume_loss_is_the_gap_per_singular_value():
    s = np.array([3.0, 2.0, 0.1])
    (value,) = proxy.volume_loss(table_of([("a", s)]))
    assert value == pytest.approx(am_gm_gap(s) / 3)
    (scaled,) = proxy.volume_loss(table_of([("a", 1000 * s)]))
    assert scaled == pytest.approx(value)


def test_type_explains_all_or_nothing():
    table = pd.DataFrame({"type": list("aabb"), "kappa": [2.0, 2.0, 50.0, 50.0]})
    assert proxy.explained_by_type(table) == pytest.approx(1)
    mixed = table.assign(type=list("abab"))
    assert proxy.explained_by_type(mixed) == pytest.approx(0)


def test_correlation_is_perfect_where_kappa_is_all_that_differs():
    spectra = [(kind, np.geomspace(1, 1 / k, 8)) for kind in "ab" for k in (2, 5, 20, 90)]
    assert proxy.rank_correlations(table_of(spectra)) == pytest.approx((1, 1))


def test_correlation_across_types_can_hide_its_absence_within():
    # Two types with κ of one size each; inside a type, the spectra of larger κ lose less volume.
    spectra = []
    for kind, level in [("a", 3.0), ("b", 300.0)]:
        for step in range(10):
            kappa = level * (1 + step / 1000)
            spectra.append((kind, np.array([1.0, 1 / kappa, *[kappa ** (step / 10 - 1)] * 6])))
    overall, within = proxy.rank_correlations(table_of(spectra))
    assert within < -0.9
    assert overall > 0.4


def test_too_small_a_table_is_named():
    one = table_of([("a", np.array([2.0, 1.0]))])
    with pytest.raises(InputError, match="1 rows"):
        proxy.explained_by_type(one)
    with pytest.raises(InputError, match="three tensors"):
        proxy.rank_correlations(pd.concat([one, one.assign(type="b")]))
