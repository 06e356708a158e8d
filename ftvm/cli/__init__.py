"""The ftvm command: one module per subcommand."""
