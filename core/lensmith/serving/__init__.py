"""A model behind OpenAI's chat interface, for front ends and evaluation tools that speak it."""
