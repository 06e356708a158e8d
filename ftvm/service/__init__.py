"""What an operator meets on a running host: control socket, metrics, config file, checks, logs, service manager."""
