"""Conversations as tokens: chat templates, and what is trained on."""
