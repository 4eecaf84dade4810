"""Numbers of the ELCRec paper (arXiv 2401.05975) that are no test metrics; those are in `elcrec_tf.reporting.published`."""

from __future__ import annotations

ABLATION: dict[str, dict[str, float]] = {
    "sports": {"B": 0.1343, "B+ICL": 0.1379, "B+ELCM": 0.1396, "ELCRec": 0.1405},
    "beauty": {"B": 0.2390, "B+ICL": 0.2398, "B+ELCM": 0.2432, "ELCRec": 0.2473},
    "toys": {"B": 0.2664, "B+ICL": 0.2675, "B+ELCM": 0.2718, "ELCRec": 0.2686},
    "yelp": {"B": 0.1258, "B+ICL": 0.1262, "B+ELCM": 0.1285, "ELCRec": 0.1305},
}
"""Data set -> variant -> HR@5 + HR@20 + NDCG@5 + NDCG@20 on test."""

COST: dict[str, dict[str, tuple[int, int]]] = {
    "sports": {"S3-Rec": (8319, 2512), "ICLRec": (5282, 1944), "ELCRec": (5360, 1781)},
    "beauty": {"S3-Rec": (4414, 2294), "ICLRec": (3770, 1798), "ELCRec": (2922, 1594)},
    "toys": {"S3-Rec": (4452, 2975), "ICLRec": (4374, 2887), "ELCRec": (4124, 2555)},
    "yelp": {"S3-Rec": (5925, 3982), "ICLRec": (4412, 3671), "ELCRec": (4151, 3383)},
}
"""Data set -> method -> (seconds of the whole training, MB of device memory), on one RTX 4090."""
