"""Published results on the benchmark data sets, to put beside a run's own.

Protocol: leave-one-out over the whole catalogue, items of the history excluded. Sources: the tables of the ELCRec paper (arXiv 2401.05975)
for BPR-MF to ELCRec; KERec, FICLRec and ICSRec as their authors' published logs (one seed); BSARec as an independent mean of 5 seeds.
"""

from __future__ import annotations


def _row(hr_5: float, hr_20: float, ndcg_5: float, ndcg_20: float) -> dict[str, float]:
    return {"HR@5": hr_5, "HR@20": hr_20, "NDCG@5": ndcg_5, "NDCG@20": ndcg_20}


PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "beauty": {
        "BPR-MF": _row(0.0212, 0.0589, 0.0130, 0.0236),
        "GRU4Rec": _row(0.0111, 0.0478, 0.0058, 0.0104),
        "Caser": _row(0.0251, 0.0643, 0.0145, 0.0298),
        "SASRec": _row(0.0374, 0.0901, 0.0241, 0.0387),
        "BERT4Rec": _row(0.0360, 0.0984, 0.0216, 0.0391),
        "DSSRec": _row(0.0410, 0.0914, 0.0261, 0.0403),
        "S3-Rec": _row(0.0189, 0.0487, 0.0115, 0.0198),
        "CL4SRec": _row(0.0423, 0.0994, 0.0281, 0.0441),
        "DCRec": _row(0.0368, 0.0674, 0.0269, 0.0357),
        "MAERec": _row(0.0414, 0.0854, 0.0283, 0.0407),
        "IOCRec": _row(0.0408, 0.0916, 0.0245, 0.0444),
        "ICLRec": _row(0.0495, 0.1072, 0.0326, 0.0491),
        "ELCRec": _row(0.0529, 0.1079, 0.0355, 0.0509),
        "KERec": _row(0.0745, 0.1455, 0.0525, 0.0725),
        "FICLRec": _row(0.0724, 0.1390, 0.0516, 0.0703),
        "BSARec": _row(0.0730, 0.1354, 0.0523, 0.0699),
        "ICSRec": _row(0.0698, 0.1298, 0.0494, 0.0663),
    },
    "sports": {
        "BPR-MF": _row(0.0141, 0.0323, 0.0091, 0.0142),
        "GRU4Rec": _row(0.0162, 0.0421, 0.0103, 0.0186),
        "Caser": _row(0.0154, 0.0399, 0.0114, 0.0178),
        "SASRec": _row(0.0206, 0.0497, 0.0135, 0.0216),
        "BERT4Rec": _row(0.0217, 0.0604, 0.0143, 0.0251),
        "DSSRec": _row(0.0214, 0.0495, 0.0142, 0.0220),
        "S3-Rec": _row(0.0121, 0.0344, 0.0084, 0.0146),
        "CL4SRec": _row(0.0217, 0.0540, 0.0137, 0.0227),
        "DCRec": _row(0.0172, 0.0357, 0.0118, 0.0170),
        "MAERec": _row(0.0225, 0.0488, 0.0152, 0.0225),
        "IOCRec": _row(0.0246, 0.0641, 0.0162, 0.0280),
        "ICLRec": _row(0.0263, 0.0630, 0.0173, 0.0276),
        "ELCRec": _row(0.0286, 0.0648, 0.0185, 0.0286),
        "KERec": _row(0.0442, 0.0916, 0.0304, 0.0438),
        "FICLRec": _row(0.0438, 0.0885, 0.0300, 0.0425),
        "BSARec": _row(0.0417, 0.0858, 0.0288, 0.0412),
        "ICSRec": _row(0.0403, 0.0794, 0.0283, 0.0393),
    },
    "toys": {
        "BPR-MF": _row(0.0120, 0.0312, 0.0082, 0.0136),
        "GRU4Rec": _row(0.0097, 0.0301, 0.0059, 0.0116),
        "Caser": _row(0.0166, 0.0420, 0.0107, 0.0179),
        "SASRec": _row(0.0463, 0.0941, 0.0306, 0.0441),
        "BERT4Rec": _row(0.0274, 0.0688, 0.0174, 0.0291),
        "DSSRec": _row(0.0502, 0.0975, 0.0337, 0.0471),
        "S3-Rec": _row(0.0143, 0.0235, 0.0123, 0.0162),
        "CL4SRec": _row(0.0526, 0.1038, 0.0362, 0.0506),
        "DCRec": _row(0.0399, 0.0679, 0.0296, 0.0374),
        "MAERec": _row(0.0477, 0.0904, 0.0336, 0.0458),
        "IOCRec": _row(0.0311, 0.0781, 0.0197, 0.0330),
        "ICLRec": _row(0.0586, 0.1130, 0.0397, 0.0550),
        "ELCRec": _row(0.0585, 0.1138, 0.0403, 0.0560),
        "KERec": _row(0.0845, 0.1506, 0.0602, 0.0790),
        "FICLRec": _row(0.0820, 0.1471, 0.0591, 0.0774),
        "BSARec": _row(0.0799, 0.1424, 0.0574, 0.0751),
        "ICSRec": _row(0.0788, 0.1368, 0.0571, 0.0736),
    },
    "yelp": {
        "BPR-MF": _row(0.0127, 0.0346, 0.0082, 0.0143),
        "GRU4Rec": _row(0.0152, 0.0371, 0.0091, 0.0145),
        "Caser": _row(0.0142, 0.0406, 0.0080, 0.0156),
        "SASRec": _row(0.0160, 0.0443, 0.0101, 0.0179),
        "BERT4Rec": _row(0.0196, 0.0564, 0.0121, 0.0223),
        "DSSRec": _row(0.0171, 0.0464, 0.0112, 0.0193),
        "S3-Rec": _row(0.0101, 0.0314, 0.0068, 0.0127),
        "CL4SRec": _row(0.0229, 0.0630, 0.0144, 0.0256),
        "MAERec": _row(0.0166, 0.0460, 0.0105, 0.0186),
        "IOCRec": _row(0.0222, 0.0640, 0.0137, 0.0263),
        "ICLRec": _row(0.0233, 0.0645, 0.0146, 0.0261),
        "ELCRec": _row(0.0236, 0.0653, 0.0150, 0.0266),
        "KERec": _row(0.0324, 0.0853, 0.0205, 0.0352),
        "FICLRec": _row(0.0319, 0.0826, 0.0201, 0.0342),
        "ICSRec": _row(0.0268, 0.0710, 0.0170, 0.0293),
    },
    "movielens-1m": {
        "ICLRec": _row(0.0293, 0.0777, 0.0186, 0.0320),
        "ELCRec": _row(0.0333, 0.0836, 0.0208, 0.0347),
    },
    "mind-small": {
        "ICLRec": _row(0.0890, 0.2128, 0.0578, 0.0926),
        "ELCRec": _row(0.0944, 0.2332, 0.0603, 0.0994),
    },
}
"""Test metrics: data set -> method -> `HR@5`, `HR@20`, `NDCG@5`, `NDCG@20`. DCRec did not converge on Yelp; BSARec has no row for it."""

RECORDS = ("KERec", "FICLRec", "BSARec", "ICSRec")
"""Methods newer than the paper, the best first (on Beauty); the others are the paper's own table."""

FINGERPRINTS = {
    "32097249c6fe28c41eec9307bf9a862ee43983c9e5f67ee36ad0d70eeb097299": "beauty",
    "fd36411a25e0710b4d6121e4ddadf5e9c8cdcdcfc5d74ab3edd4e0b631ccb83b": "sports",
    "7e85e0d9596c340ecd1b9c963066fa3a2268e3b4976c4c78097e7b3a961e73b6": "toys",
    "c0d934c1a45b4a978f598e9c3ab6d254957616f1bfe1fd3e850e32b24b0f71a3": "yelp",
}
"""`Sequences.fingerprint` of the published benchmark files, read with a k-core of 5 or less -> data set."""


def published_results(name: str, fingerprint: str | None) -> dict[str, dict[str, float]]:
    """The published rows that a run's results may stand beside: method -> metrics; empty where there are none.

    A benchmark file is known by its content, whatever its name: another file of the same name gets no rows. Data sets that have no
    published file are known by their name.

    Args:
        name: the data set's name, as in metrics.json.
        fingerprint: the data set's fingerprint, None where it is not known.
    """
    known = FINGERPRINTS.get(fingerprint or "")
    if known is None and name not in FINGERPRINTS.values():
        known = name
    return PUBLISHED.get(known or "", {})
