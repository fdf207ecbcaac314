"""What a drill leaves behind: numbers and verdict from the probe alone, a page for people, an index, metrics."""
