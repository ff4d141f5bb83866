"""The command line: ``main`` holds the command table, every command lies in a file of its own."""
