"""What the command lines are made of: options, terminal output, the chat loop, tables. Not for library use."""
