"""Who keeps the record: file (one host or shared storage), etcd (a cluster), memory (tests)."""
