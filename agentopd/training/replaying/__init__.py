"""A step that was learned from, learned from again: the same records under the same weights give the same numbers, or say which do not."""
