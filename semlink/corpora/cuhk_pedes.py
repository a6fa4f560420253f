"""Reader of CUHK-PEDES in its public layout (Li et al., CVPR 2017)."""

from __future__ import annotations

from pathlib import Path

from semlink.corpora.person_search import PersonSearch


class CuhkPedes(PersonSearch):
    """CUHK-PEDES under ``root``: ``reid_raw.json`` and ``imgs/`` with the folders of the sets it is made of.

    They are ``cam_a``, ``cam_b``, ``CUHK01``, ``CUHK03``, ``Market``, ``test_query`` and ``train_query``.
    40,206 pictures of 13,003 persons, two captions each as a rule; ids start at 1. ``processed_tokens`` are not used.
    What is read and refused is said at :class:`~semlink.corpora.person_search.PersonSearch`.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(
            root,
            name="cuhk-pedes",
            set_name="CUHK-PEDES",
            lists=("reid_raw.json",),
            path_key="file_path",
            licence="academic research only, on request from the authors",
            description="Surveillance pictures of persons from five re-identification sets, two captions each",
        )
