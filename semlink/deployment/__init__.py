"""Start and watch the services on one machine."""
