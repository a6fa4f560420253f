"""The physical layer shared by both ends: precoding, equalising, CSI quantisers."""
