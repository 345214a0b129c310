"""ARO's relations and attributes: figures by hand, the crops of a folder, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score

from clip_jax.evals.aro_relations import LEFT_OUT
from clip_jax.evals.relations import Relations, RelationsConfig, macro
from tests.evals.memory import FixedEncoder, embedded


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    pixels = np.zeros((8, 10, 3), np.uint8)
    pixels[2:6, 1:8] = 200
    Image.fromarray(pixels).save(tmp_path / "images" / "1.png")
    items = [
        {
            "image_path": "1.png",
            **{"bbox_x": 1, "bbox_y": 2, "bbox_w": 7, "bbox_h": 4},
            **{"true_caption": f"true {n}", "false_caption": f"false {n}"},
            **{"relation_name": name, "attributes": ["red", name]},
        }
        for n, name in enumerate(("on", "on", "on", "under"))
    ]
    for kind in ("relation", "attribution"):
        (tmp_path / f"visual_genome_{kind}.json").write_text(json.dumps(items))
    return tmp_path


ROWS = {f"{which} {n}": row for n in range(4) for which, row in (("true", [1, 0]), ("false", [0, 1]))}
FOUND = embedded([[1, 0], [1, 0], [0, 1], [1, 1]])  # right, right, wrong, and equal, which is not right


def test_by_hand(folder):
    evaluation = Relations(RelationsConfig(folder=str(folder)))
    outcome = evaluation(FixedEncoder(FOUND, ROWS))
    assert {name: figure.value for name, figure in outcome.figures.items()} == {
        "macro_accuracy": pytest.approx((2 / 3 + 0) / 2),
        "accuracy": 0.5,
    }
    assert outcome.counts == {"images": 4, "groups": 2, "unreadable": 0}
    few = Relations(RelationsConfig(folder=str(folder), part="attribution"))(FixedEncoder(FOUND, ROWS))
    assert set(few.figures) == {"accuracy"}  # no 25 of a pair of attributes
    some = Relations(RelationsConfig(folder=str(folder), part="attribution", least=3))(FixedEncoder(FOUND, ROWS))
    assert some.figures["macro_accuracy"].value == pytest.approx(2 / 3)


def test_relations_that_a_swap_leaves_true_count_in_no_mean(folder):
    items = json.loads((folder / "visual_genome_relation.json").read_text())
    items[3]["relation_name"] = "next to"
    (folder / "visual_genome_relation.json").write_text(json.dumps(items))
    found = Relations(RelationsConfig(folder=str(folder)))(FixedEncoder(FOUND, ROWS))
    assert found.figures["macro_accuracy"].value == pytest.approx(2 / 3)
    assert found.figures["accuracy"].value == 0.5
    assert found.counts["groups"] == 1
    assert len(LEFT_OUT) == 157
    assert {"near", "of", "wrapped in", "standing in front of"} <= LEFT_OUT


def test_the_box_is_cut(folder):
    source = Relations(RelationsConfig(folder=str(folder)))._source
    assert source[0].image.shape == (4, 7, 3)
    assert (source[0].image == 200).all()


def test_macro_is_scikit_learns_balanced_accuracy():
    rng = np.random.default_rng(0)
    hits, group = rng.random(200) < 0.6, rng.integers(5, size=200)
    said = np.where(hits, group, (group + 1) % 5)
    assert macro(hits, group, 1).mean() == pytest.approx(balanced_accuracy_score(group, said))


def test_refusals(folder, tmp_path):
    with pytest.raises(ValueError, match="least -3: give a number of items of at least 1"):
        Relations(RelationsConfig(folder=str(folder), least=-3))
    with pytest.raises(FileNotFoundError, match=r"lacks visual_genome_relation.json or images/: download both"):
        Relations(RelationsConfig(folder=str(tmp_path / "nowhere")))
    (folder / "visual_genome_relation.json").write_text('[{"image_path": "1.png"}]')
    with pytest.raises(ValueError, match="is not ARO's list of items"):
        Relations(RelationsConfig(folder=str(folder)))
    (folder / "visual_genome_relation.json").write_text("[]")
    with pytest.raises(ValueError, match="is empty"):
        Relations(RelationsConfig(folder=str(folder)))
