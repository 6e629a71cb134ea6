"""The benchmarks of spindle_trio: `rows` says what is measured, and against what; `command` runs it."""
