"""Unit tests: pure code and small pieces, no Redis, no network."""
