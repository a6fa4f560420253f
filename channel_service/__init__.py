"""Channel service: 3GPP links that evolve in slots, and the CSI feedback they report."""
