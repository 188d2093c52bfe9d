"""The search's command line: options, inputs from files, output."""
