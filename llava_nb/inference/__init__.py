"""A loaded model at work: questions, conversations, many pictures at once."""
