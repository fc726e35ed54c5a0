import pandas as pd

from tools.pilot import chosen


def test_rates_go_by_heldout_loss_and_the_level_is_what_every_arm_reached():
    rows = [
        ("a", 0.1, 2.0, 3.0),
        ("a", 0.2, 1.2, 2.5),
        ("b", 0.1, 1.6, 2.2),
        ("b", 0.2, 1.0, 2.4),  # learns the training sentences alone
    ]
    found = pd.DataFrame(rows, columns=["arm", "lr", "train_loss", "heldout_loss"])
    assert chosen(found) == ({"a": 0.2, "b": 0.1}, 1.6)
