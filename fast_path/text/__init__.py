"""Text beside the video: titles, captions, comments, and words seen or heard, screened without a language model."""
