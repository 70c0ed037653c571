"""From a config to shards: config → plan → intake → run → cut → pack."""
