"""The command line: `minitrans demo`, `minitrans embed`, `minitrans answer` and so on."""
