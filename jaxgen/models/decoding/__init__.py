"""Ways to decode a GPT beside plain sampling."""
