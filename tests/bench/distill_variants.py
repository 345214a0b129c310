"""What the distillation bench compares, most informative first; FD's and GD's weights and the best mix: from `candidates`."""

from collections.abc import Mapping

from clip_jax.objectives import Ramp
from tests.bench.distill_settings import Variant

BASELINE = "none"
_BASE = {"info_nce": 1.0}
_KD = _BASE | {"crd": 1.0, "icl": 1.0}
_FD = 2000.0
_BEST = _KD | {"fd": _FD, "vrd": 1.0, "xrd": 1.0}  # of the candidates the best

# Not run, and why.
SKIPPED = {
    "class centroids": "need labels, which these pairs do not have",
    "reinforcement with the base loss": "one teacher at its own scale has the gradient of CRD",
    "sigmoid distillation": "needs a student with a bias and a sigmoid loss, another base",
}


def variants(steps: int) -> tuple[Variant, ...]:
    """steps: of a student's run, over which some weights move."""
    falling, rising = Ramp(start=2.0, end=-0.8, last=steps), Ramp(start=0.0, end=1.0, first=steps // 5, last=steps // 2)
    return (
        Variant(name=BASELINE, label="no teacher", weights=_BASE, teacher=""),
        _with_base("fd", "FD", {"fd": _FD}),
        _with_base("crd", "CRD", {"crd": 1.0}),
        Variant(name="clip_kd", label="CLIP-KD: CRD + FD + ICL", weights=_KD | {"fd": _FD}),
        Variant(name="clip_kd_free", label="CLIP-KD, dimension-free FD", weights=_KD | {"fd_cosine": 7.8125}),
        Variant(name="best", label="best mix: CLIP-KD + VRD + XRD", weights=_BEST),
        Variant(name="inherit", label="weight inheritance", weights=_BASE, teacher="", inherit="all"),
        Variant(name="inherit_best", label="weight inheritance + best mix", weights=_BEST, inherit="all"),
        Variant(
            name="inherit_affinity",
            label="weight inheritance + affinity mimicking",
            weights=_BASE | {"affinity": 1.0},
            inherit="all",
        ),
        _with_base("icl", "ICL", {"icl": 1.0}),
        _with_base("mfd", "MFD", {"mfd": _FD}),
        _with_base("affinity", "affinity mimicking", {"affinity": 1.0}),
        Variant(name="reinforcement", label="reinforcement alone", weights={"reinforcement": 1.0}),
        _with_base("fd_crd", "FD + CRD", {"fd": _FD, "crd": 1.0}),
        _with_base("vrd_xrd", "VRD + XRD", {"vrd": 1.0, "xrd": 1.0}),
        Variant(name="drrho", label="DRRho alone", weights={"drrho": 1.0}),
        _with_base("dark", "DARK", {"dark_match": 1.0, "dark_rest": falling}),
        _with_base("gd", "GD", {"gd": 10.0}),
        _with_base("afd", "AFD", {"afd": 1.0}),
        _with_base("cross_kd", "cross-KD", {"cross_kd": 1.0}),
        _with_base("full_teacher", "Embed-KD's full teacher", {"full_teacher": 1.0}),
        Variant(
            name="csd",
            label="CSD, its own average",
            weights=_BASE | {"csd_features": rising, "csd_relations": rising},
            teacher="average",
        ),
        _with_base("drrho_base", "DRRho", {"drrho": 1.0}),
        Variant(name="image_only", label="images alone, frozen text", weights={"image_cosine": 1.0}, inherit="text"),
        Variant(
            name="text_only", label="no loss of the teacher, frozen text", weights=_BASE, teacher="", inherit="text"
        ),
    )


def candidates() -> tuple[Variant, ...]:
    """What was tried with the tuning seed and compared on the dev split alone, to set the learning rate and weights above."""
    mixes: Mapping[str, Mapping[str, float | Ramp]] = {
        "fd_500": _BASE | {"fd": 500.0},
        "fd_2000": _BASE | {"fd": 2000.0},
        "fd_8000": _BASE | {"fd": 8000.0},
        "fd_2000_crd": _BASE | {"fd": 2000.0, "crd": 1.0},
        "fd_2000_crd_alone": {"fd": 2000.0, "crd": 1.0},
        "fd_2000_crd_icl": _KD | {"fd": 2000.0},
        "fd_8000_crd_icl": _KD | {"fd": 8000.0},
        "fd_2000_crd_icl_vrd_xrd": _KD | {"fd": 2000.0, "vrd": 1.0, "xrd": 1.0},
        "gd_10": _BASE | {"gd": 10.0},
        "gd_100": _BASE | {"gd": 100.0},
        "gd_1000": _BASE | {"gd": 1000.0},
    }
    rates = {"none_lr_0.001": 1e-3, "none_lr_0.002": 2e-3, "none_lr_0.004": 4e-3}
    return (
        *(Variant(name=name, label=name, weights=_BASE, teacher="", lr=rate) for name, rate in rates.items()),
        *(Variant(name=name, label=name, weights=weights) for name, weights in mixes.items()),
    )


def _with_base(name: str, label: str, weights: Mapping[str, float | Ramp]) -> Variant:
    return Variant(name=name, label=label, weights=_BASE | dict(weights))
