"""The physical layer shared by both ends: precoding, equalising, coding, CSI feedback.

Blocks take and give tensors and frozen dataclasses. They read no settings, count no metrics and know no messages:
trained weights arrive as a :class:`semlink.weight_files.Weights`, a link as any object with the attributes of
:class:`~semlink.signal.link.LinkLike`. Every module has an example.

Examples
--------
One user of two antennas, 16 ports, two layers, 10 dB: what the precoder promises is what the equaliser finds.

>>> import torch
>>> from semlink.signal.equalization import lmmse
>>> from semlink.signal.precoding import noise_power, precoder, predicted_sinr_db
>>> h = torch.randn(1, 1, 8, 2, 16, dtype=torch.complex64)
>>> snr_db = torch.tensor([10.0])
>>> w = precoder(h, 2, snr_db)
>>> _, sinr = lmmse(h[:, 0] @ w, noise_power(2, snr_db), num_layers=2)
>>> bool(torch.allclose(predicted_sinr_db(h, w, snr_db, 2), 10 * sinr.log10(), atol=1e-3))
True
"""
