"""Recordings and their transcripts → frames of the frozen Whisper encoder."""
