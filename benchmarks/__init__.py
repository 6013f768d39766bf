"""One program a promise: each prints its figure beside a limit measured in the same run. See README.md."""
