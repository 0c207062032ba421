"""What users type: a file a command."""
