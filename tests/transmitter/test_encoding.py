"""What is encoded: texts, several key sentences of one, whatever else is in the batch."""

from __future__ import annotations

import numpy as np

from transmitter.encoding import Content, encode

FIRST, SECOND = "Two dogs on a beach.", "A red boat near a lighthouse."


def test_key_sentences_stand_for_their_text_as_their_mean() -> None:
    several, one, first, second = encode(
        [Content("image", "text", v) for v in ((FIRST, SECOND), (FIRST,), FIRST, SECOND)]
    )
    mean = first[0] + second[0]
    np.testing.assert_allclose(several[0], mean / np.linalg.norm(mean), atol=1e-6)
    # Laid end to end with other texts, a text's vector is the same up to rounding.
    np.testing.assert_allclose(one, first, atol=1e-6)


def test_order_spaces_and_company_change_nothing() -> None:
    contents = [
        Content("image", "text", FIRST),
        Content("person", "text", SECOND),
        Content("image", "text", (SECOND, FIRST)),
        Content("image", "text", SECOND),
    ]
    together = encode(contents)
    for content, found in zip(contents, together, strict=True):
        np.testing.assert_allclose(encode([content])[0], found, atol=1e-5)
