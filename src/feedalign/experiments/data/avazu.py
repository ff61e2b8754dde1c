"""Avazu's log of mobile advertisements: 22 categories a row, 40,428,967 rows over ten days.

References:
    Avazu, *Click-Through Rate Prediction*, Kaggle, 2014.
"""

from feedalign.experiments.data.click_layout import Layout
from feedalign.experiments.data.click_sources import ClickFile, ClickSource

CATEGORIES = (
    "hour",
    "C1",
    "banner_pos",
    *(f"{what}_{kind}" for what in ("site", "app") for kind in ("id", "domain", "category")),
    *(f"device_{kind}" for kind in ("id", "ip", "model", "type", "conn_type")),
    *(f"C{number}" for number in range(14, 22)),
)
CSV = Layout(columns=("id", "click", *CATEGORIES), label="click", categories=CATEGORIES, separator=",")

WHOLE = ClickSource(
    "Avazu",
    CSV,
    tuple((ClickFile(f"avazu/{name}"),) for name in ("train.csv", "train.gz", "train.csv.gz", "train")),
    40_428_967,
    "Kaggle gives train.gz away under terms that you have to accept: see "
    "https://www.kaggle.com/c/avazu-ctr-prediction/data.",
)
SAMPLE = ClickSource(
    "Avazu, 8,999 rows of the first hour",
    CSV,
    (
        (
            ClickFile(
                "avazu/avazu_train.csv",
                "sha256:49fb8cdcadfd9030a6fcb8cd97fe8205d94b84723ee8292e229d741ce1362e4f",
                1_253_029,
            ),
            ClickFile(
                "avazu/avazu_dev.csv",
                "sha256:1dbd14ef356202a106766d175ab20dfa182838c8cf77e6b018dd18df05c7e757",
                74_359,
            ),
            ClickFile(
                "avazu/avazu_test.csv",
                "sha256:9c81e37b0766fb1daa430706c0c8188046e6daf6a295ab667687d87dada32f35",
                66_976,
            ),
        ),
    ),
    8_999,
    "It lies in data/avazu of https://github.com/Lapis-Hong/Wide-ResDNN.",
)
