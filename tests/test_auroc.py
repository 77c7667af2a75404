"""Area under the ROC curve."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.errors import UserError
from jaxgen.metrics.auroc import auroc

scores = st.lists(st.integers(-3, 3) | st.floats(-1e3, 1e3), min_size=1, max_size=30)


@settings(max_examples=50, deadline=None)
@given(scores, scores)
def test_auroc_is_sklearns(inside, outside):
    """Ties included."""
    from sklearn.metrics import roc_auc_score

    expected = roc_auc_score([0] * len(inside) + [1] * len(outside), [*inside, *outside])
    assert auroc(np.array(inside), np.array(outside)) == pytest.approx(expected, abs=1e-9)


def test_auroc_refuses_what_is_no_score():
    with pytest.raises(UserError, match="NaN"):
        auroc(np.array([1.0, np.nan]), np.ones(2))
    with pytest.raises(UserError, match="0 and 2 scores"):
        auroc(np.ones(0), np.ones(2))
