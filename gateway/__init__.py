"""Gateway: REST face of the emulator."""
