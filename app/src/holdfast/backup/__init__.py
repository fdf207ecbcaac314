"""Point-in-time backup of a node's append-only files, and restore. Needs no change of the node's configuration."""
