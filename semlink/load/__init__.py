"""Load a running system over REST and measure it: `semlink load`. Imports neither torch nor gRPC."""
