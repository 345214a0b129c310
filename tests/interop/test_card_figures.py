"""The card's table of an evaluation: shares in per cent, correlations and differences with their sign."""

from clip_jax.interop.card import Provenance, model_card


def test_figures_that_are_no_shares_are_not_in_per_cent(small):
    figures = {
        "overlap_at_20": {"value": 0.7371, "chance": 0.04},
        "kendall_tau": {"value": 0.475, "chance": -0.642},
        "color_minus_noun_at_20": {"value": 0.2214, "chance": 0.0},
    }
    about = {"step": 400, "weights": "raw"}
    for names, sign in (("overlap_at_20", "kendall_tau", "color_minus_noun_at_20"), True), (("overlap_at_20",), False):
        some = {"like": {"figures": {name: figures[name] for name in names}, "counts": {}}}
        card = model_card(
            "x", "clip_jax", small, Provenance(source="a run", evaluation={"about": about, "evaluations": some})
        )
        assert "| like | overlap_at_20 | 73.71 | 4.00 |" in card
        assert ("| like | kendall_tau | +0.475 | -0.642 |" in card) == sign
        assert ("| like | color_minus_noun_at_20 | +0.221 | +0.000 |" in card) == sign
        assert ("Numbers with a sign are not in %." in card) == sign
