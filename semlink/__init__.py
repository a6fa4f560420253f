"""semlink: what several rooms of the emulator share, one idea a module."""
