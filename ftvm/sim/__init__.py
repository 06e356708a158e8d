"""A seeded world around the production driver: virtual time, a bad network, crashes, pauses, checkers."""
