"""Who keeps the record: file (one host or shared storage), memory (tests)."""
