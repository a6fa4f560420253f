"""Reader of RSTPReid in its public layout (Zhu et al., ACM Multimedia 2021)."""

from __future__ import annotations

from pathlib import Path

from semlink.corpora.person_search import PersonSearch


class RstpReid(PersonSearch):
    """RSTPReid under ``root``: ``imgs/`` and ``data_captions.json``, whose key is ``img_path``.

    20,505 pictures of 4,101 persons (3,701 train, 200 val, 200 test), five pictures a person, two captions each. What
    is read and refused is said at :class:`~semlink.corpora.person_search.PersonSearch`.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(
            root,
            name="rstpreid",
            set_name="RSTPReid",
            lists=("data_captions.json",),
            path_key="img_path",
            licence="academic research only, on request from the authors",
            description="Surveillance pictures of persons from MSMT17, five a person, two captions each",
        )
