"""`adaflow eval`: LongV-EVAL in miniature, a benchmark of long-video edits whose right answers are rendered."""
