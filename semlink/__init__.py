"""semlink: what several services of the emulator share, one idea a module."""
