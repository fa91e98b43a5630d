"""The commands of `bibier`: one section of options and one function each."""
