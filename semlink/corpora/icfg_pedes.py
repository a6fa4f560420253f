"""Reader of ICFG-PEDES in its public layout (Ding et al., 2021)."""

from __future__ import annotations

from pathlib import Path

from semlink.corpora.person_search import PersonSearch


class IcfgPedes(PersonSearch):
    """ICFG-PEDES under ``root``: ``imgs/{train,test}/`` and ``ICFG-PEDES.json`` or ``ICFG_PEDES.json``.

    54,522 pictures of 4,102 persons, one caption each; there is no validation split. What is read and refused is said
    at :class:`~semlink.corpora.person_search.PersonSearch`.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(
            root,
            name="icfg-pedes",
            set_name="ICFG-PEDES",
            lists=("ICFG-PEDES.json", "ICFG_PEDES.json"),
            path_key="file_path",
            licence="academic research only, on request from the authors",
            description="Surveillance pictures of persons from MSMT17, one fine-grained caption each",
        )
